"Hints: superpixels that are known, what is learned from them, and what the command refuses."
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from gwm_nb.clips import open_clip
from gwm_nb.commands import gwm_segment
from gwm_nb.refine import Hint, RefineSettings, clip_refiner, quality_warnings, refine_clip
from gwm_nb.segment import segment
from gwm_nb.self_training import appearance_logits, include_point, update_replay
from gwm_nb.superpixels import diffuse
from inputs import moving_disk, write_frames

SETTINGS = RefineSettings(superpixels=250, enlarge=1.)
ROWS, COLUMNS = np.indices((64, 96))
REST = (ROWS - 15)**2 + (COLUMNS - 74)**2 < 11**2                # a disk that never moves


def painted():
    "The moving disk, blue, and one that rests, red: frames and the masks of the first."
    frames, masks = moving_disk(5)
    for frame, mask in zip(frames, masks):
        frame[:2, mask] = frame[:2, mask] // 3
        frame[0, REST], frame[1:, REST] = 220 - frame[0, REST] // 8, frame[1:, REST] // 4
    return frames, np.stack(masks)


FRAMES, MOVING = painted()
PIXELS = [frame.permute(1, 2, 0).numpy() for frame in FRAMES]


def found(*hints, settings=SETTINGS):
    refined = refine_clip(FRAMES, settings, False, hints)
    return np.stack([refined[t] for t in range(len(refined))]) > .5, refined


@pytest.fixture(scope="module")
def plain():
    return found()


def test_known_values_stay_and_pull_their_neighbours():
    links = sparse.csr_matrix(np.diag([2., 2, 2], 1) + np.diag([2., 2, 2], -1))
    known = np.array([1, np.nan, np.nan, 0])
    p = diffuse(links, np.array([0., .5, .5, 1]), .1, known)
    assert p[0] == 1 and p[3] == 0 and .5 < p[1] < 1 and p[1] + p[2] == pytest.approx(1, abs=1e-3)
    assert (diffuse(links, p, .1, known * np.nan) == diffuse(links, p, .1)).all()


def test_one_row_among_thousands_teaches():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 3)) + 4 * (np.arange(4000) % 2)[:, None] * [1, 0, 0]
    features[:40, 1] += 6                              # a look-alike that the labels have missed
    p, known = (np.arange(4000) % 2) * .98 + .01, np.full(4000, np.nan)
    p[:40], known[0] = .01, 1
    before, after = (appearance_logits(features, np.where(np.isnan(k), p, k), np.ones(4000), 1.,
                                       .05, k)[:40:2] for k in (known * np.nan, known))
    assert (before > 0).mean() < .5 < .75 < (after > 0).mean()
    assert appearance_logits(features, p * 0, np.ones(4000), 1., .05, known * 0 + 1) is None


def test_an_include_brings_in_what_rests_in_all_frames(plain):
    assert plain[0][:, REST].mean() < .1
    mask, _ = found(Hint(1, 74., 15.))
    assert (mask[:, REST].mean(1) > .8).all() and mask[MOVING].mean() > .8
    assert mask[:, ~REST & ~MOVING.any(0)].mean() < .1


def test_an_exclude_removes_in_all_frames(plain):
    y, x = np.argwhere(MOVING[2]).mean(0)
    assert plain[0][MOVING].mean() > .8
    mask, _ = found(Hint(2, x, y, False), Hint(3, x + 3, y + 4, False), Hint(1, 74., 15.))
    assert mask[MOVING].mean() < .2 and (mask[:, REST].mean(1) > .5).all()


def test_a_hint_holds_in_boxes_and_further_hints_reuse_the_graphs(monkeypatch):
    "The box of its frame holds the point; the second time only the second graph is cut anew."
    refiner, hint = clip_refiner(FRAMES, SETTINGS, keep=True), Hint(1, 74., 15.)
    for hints in ((), (hint,), (hint,)):
        graphs = dict(refiner.kept)
        refiner.refine(hints)
        if not hints: continue
        graph = refiner.graph
        i = graph.find(1, *refiner.place(hint))
        assert refiner.p[i] == 1 == graph.known[i] and np.isfinite(graph.known).sum() == 1
        assert refiner.kept[False] is graphs[False]
    assert refiner.kept == graphs
    box = include_point(np.array([10., 10, 20, 30]), (50, 80), (64, 96))
    assert box[0] < 50 < box[0] + box[2] <= 64 and box[2] / box[3] == pytest.approx(64 / 96)


def test_hints_outlive_their_window(disk_graph):
    known = np.full(len(disk_graph), np.nan)
    known[-1] = 0
    replay = update_replay(replace(disk_graph, known=known), np.ones(len(known)), limit=20)
    later = update_replay(disk_graph, np.ones(len(known)), replay, limit=20)
    assert np.nansum(replay.known == 0) == 1 == np.nansum(later.known == 0)


def test_no_hints_no_difference(plain):
    refiner = clip_refiner(FRAMES, SETTINGS)
    refiner.refine()
    again = refiner.result((64, 96))
    assert all(np.array_equal(value, getattr(again, name)) for name, value in vars(plain[1]).items())
    still = replace(plain[1], stats=plain[1].stats * 0)
    assert len(quality_warnings(still)) == 1 + len(quality_warnings(still, [Hint(0, 0, 0)]))


@pytest.mark.parametrize("words, says", [
    ("--include 3:4", "invalid hint '3:4'"), ("--include 3:4,5@2", "invalid hint"),
    ("--exclude soon:4,5", "invalid time 'soon'"), ("--include 3:96,5", "outside"),
    ("--include 9:4,5", "no frame"), ("--include 0:4,5 --start 2", "no frame"),
    ("--include 3:4,5 --preset gwm", "no option hints")])
def test_refused_in_one_line_before_any_work(tmp_path, call, words, says):
    write_frames(tmp_path / "clip", PIXELS)
    _, end = call(gwm_segment, "clip", *words.split(), cwd=tmp_path)
    assert says in end and not (tmp_path / "gwm_out").exists()


def test_the_report_has_the_hints(tmp_path, call):
    write_frames(tmp_path / "clip", PIXELS, first=3)
    words = "clip --preset fast --outputs masks --include 4:74,15 --exclude 0.05s:2,2".split()
    printed, end = call(gwm_segment, *words, "--include", "2:60,40", cwd=tmp_path)
    assert end is None and printed.splitlines()[-1].endswith("(from 3 hints)")
    report = segment(tmp_path / "clip", preset="fast", outputs=["masks"],
                     hints=[Hint(4, 74, 15)]).report
    assert report["hints"] == 1 and report["settings"]["hints"][0]["x"] == 74
