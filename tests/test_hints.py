"Hints: superpixels that are known, what is learned from them, and what the command refuses."
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from gwm_nb import refine
from gwm_nb.commands import gwm_segment
from gwm_nb.correction import Correction
from gwm_nb.files import JobProgress
from gwm_nb.refine import Hint, RefineSettings, clip_refiner, quality_warnings, refine_clip
from gwm_nb.segment import segment
from gwm_nb.self_training import appearance_logits, include_point, update_replay
from gwm_nb.superpixels import build_graph, diffuse
from inputs import moving_disk, write_frames

SETTINGS, INCLUDE = RefineSettings(superpixels=250, enlarge=1.), Hint(1, 74., 15.)
REST = np.hypot(*np.ogrid[-15:49, -74:22]) < 11    # a disk around the hint that never moves
FRAMES, MOVING = moving_disk(5)
for frame, moving in zip(FRAMES, MOVING):          # the moving disk is blue, one that rests is red
    frame[:2, moving] //= 3
    frame[0, REST], frame[1:, REST] = 220 - frame[0, REST] // 8, frame[1:, REST] // 4
MOVING, PIXELS = np.stack(MOVING), [frame.permute(1, 2, 0).numpy() for frame in FRAMES]


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
    assert (before > 0).mean() < .5 < .6 < (after > 0).mean()
    assert appearance_logits(features, p * 0, np.ones(4000), 1., .05, known * 0 + 1) is None


def refined(*hints): return refine_clip(FRAMES, SETTINGS, False, hints)


def test_an_include_adds_and_excludes_remove_an_object_in_all_frames():
    (y, x), plain = np.argwhere(MOVING[0]).mean(0), refined()
    away = [Hint(t, x + 3 * t + dx, y + dy, False) for t, dx, dy in
            ((0, 0, 0), (1, -4, 4), (2, 4, 4), (3, 4, -4), (4, -4, -4))]
    hinted = refined(INCLUDE), refined(INCLUDE, *away)
    before, added, removed = (np.stack(list(masks)) > .5 for masks in (plain, *hinted))
    assert before[MOVING].mean() > .8 and before[:, REST].mean() < .1
    assert added[MOVING].mean() > .8 and (added[:, REST].mean(1) > .8).all()
    assert added[:, ~REST & ~MOVING.any(0)].mean() < .1
    assert removed[MOVING].mean() < .2 and (removed[:, REST].mean(1) > .5).all()
    still = replace(plain, stats=plain.stats * 0)
    assert len(quality_warnings(still)) == 1 + len(quality_warnings(still, [INCLUDE]))


def test_a_hint_holds_in_boxes_and_further_hints_reuse_the_graphs():
    "A new hint rebuilds the second graph only, the same one none; no hints change nothing."
    refiner = clip_refiner(FRAMES, SETTINGS, keep=True)
    refiner.refine()
    again = vars(refiner.result((64, 96)))
    assert all(np.array_equal(value, again[name]) for name, value in vars(refined()).items())
    for _ in range(2):
        graphs = dict(refiner.kept)
        refiner.refine([INCLUDE])
        i, known = refiner.graph.find(1, *refiner.place(INCLUDE)), refiner.graph.known
        assert refiner.p[i] == 1 == known[i] and np.isfinite(known).sum() == 1
        assert refiner.kept[False] is graphs[False]
    assert refiner.kept == graphs
    top, left, height, width = before = refiner.found[1][1]
    refiner.refine([Hint(1, left + width + 2, top + height / 2)])
    grown = (refiner.graph.boxes != refiner.found[1]).any(1)
    assert grown.tolist() == [False, True, False, False, False]
    assert refiner.graph.boxes[1, 2] > height and (refiner.found[1][1] == before).all()
    box = include_point(np.array([10., 10, 20, 30]), (50, 80), (64, 96))
    assert box[0] < 50 < box[0] + box[2] <= 64 and box[2] / box[3] == pytest.approx(64 / 96)


@pytest.mark.parametrize("left, right", [(1, 2), (2, 1)])
def test_objects_that_always_touch_are_divided_as_hinted_in_all_windows(left, right):
    "Two disks of one texture that move as one; the hints are in the last of three windows."
    settings = RefineSettings(features="", superpixels=400, window=4, overlap=2,
                              objects=2)
    paint, ground = (moving_disk(8, radius=r)[0] for r in (999, 0))
    y, x, t = np.ogrid[:64, :96, :8]
    disks = [np.moveaxis((y - 32)**2 + (x - c - 3 * t)**2 < 132, 2, 0) for c in (24, 46)]
    frames = [torch.where(torch.from_numpy(d), p, g)
              for d, p, g in zip(disks[0] | disks[1], paint, ground)]
    hints = Hint(7, 45, 32, object=left), Hint(7, 67, 32, object=right)
    found = refine_clip(frames, settings, False, hints)
    for number, disk in zip((left, right), disks):
        ids = [found.labels(t).numpy()[disk[t]] for t in range(8)]
        assert all((i[i > 0] == number).mean() > .8 and (i > 0).mean() > .5 for i in ids)
    with pytest.raises(ValueError, match="8:1,2@3 names object 3, but objects is 2"):
        refine_clip(frames, settings, False, [Hint(8, 1, 2, object=3)])


def test_frames_whose_boxes_stay_are_taken_over_as_if_they_were_cut_anew():
    refiner = clip_refiner(FRAMES, SETTINGS)
    boxes, window = np.tile([4., 6., 32., 48.], (5, 1)), refiner.window
    old = build_graph(window, boxes, refiner.net, 250, 1.)
    boxes = boxes + 8. * (np.arange(5) % 3 == 0)[:, None]
    moved, fresh = (build_graph(window, boxes, refiner.net, 250, 1., old=old)
                    for old in (old, None))
    dense = lambda x: x.toarray() if sparse.issparse(x) else np.asarray(x)
    for name in set(vars(fresh)) - {"known", "stages"}:
        assert (dense(getattr(moved, name)) == dense(getattr(fresh, name))).all(), name
    assert (moved.features == fresh.features).all()


@pytest.fixture
def correction(monkeypatch, tmp_path):
    monkeypatch.setitem(refine.refine_presets, "default", replace(SETTINGS, window=4, overlap=2))
    clip = write_frames(tmp_path / "clip", PIXELS, first=3)
    return Correction(clip, quiet=True, outputs=["masks"])


def files(result): return [file.read_bytes() for file in result.files if file.suffix == ".png"]


def test_a_correction_is_what_the_command_finds(correction, tmp_path):
    "To the byte, with hints and without, whatever came before."
    c, clip, hint = correction, tmp_path / "clip", Hint(1, 74., 15.)
    same = dict(quiet=True, outputs=["masks"])
    c.add(Hint(3, 2., 60.))
    c.change([hint])
    assert (c.mask(4).numpy() > .5)[REST].mean() > .5    # in another window
    first = segment(clip, **same, hints=[replace(hint, frame=1)])
    saved = c.save(tmp_path / "out", ["masks"])
    assert files(saved) == files(first) and saved.names == first.names == c.names
    assert saved.report["settings"] == first.report["settings"] and saved.report["hints"] == 1
    assert saved.report.keys() == first.report.keys()
    c.undo()
    assert files(c.save(tmp_path / "out", ["masks"])) == files(segment(clip, **same))
    with pytest.raises(ValueError, match="undo"):
        c.undo()


def test_windows_before_a_hint_are_not_refined_again(correction, monkeypatch):
    c, refined, real = correction, [], refine.WindowRefiner.refine
    monkeypatch.setattr(refine.WindowRefiner, "refine",
                        lambda self, *a: refined.append(len(self.window)) or real(self, *a))
    c.refine()
    c.add(Hint(4, 74., 15.))
    assert refined == [4, 3, 3] and c.labels(0) is None and c.confidence.shape == (5,)


class Stop(JobProgress):
    def at(self, step, fraction, note=""):
        if "edges" in note:
            raise KeyboardInterrupt


def test_an_interrupted_hint_and_a_refused_one_change_nothing(correction):
    c = correction
    before = [c.mask(t) for t in range(5)]
    with pytest.raises(KeyboardInterrupt), Stop({"correcting": 1}):
        c.add(INCLUDE)
    for hint, says in ((Hint(5, 1, 1), "5"), (Hint(-1, 1, 1), "-1"), (Hint(0, 96, 1), "96x64"),
                       (Hint(0, 1, float("nan")), "nan")):
        with pytest.raises(ValueError, match=says):
            c.add(hint)
        with pytest.raises(ValueError, match=says):
            refine_clip(FRAMES, SETTINGS, False, [hint])
    assert c.hints == [] and all((c.mask(t) == m).all() for t, m in enumerate(before))
    c.add(INCLUDE)
    assert c.hints == [INCLUDE] and c.mask(1)[15, 74] > .5
    assert (c.image(2) == FRAMES[2]).all() and len(c) == 5 and c.size == (64, 96)
    with pytest.raises(ValueError, match="'gwm'"):
        Correction(c.job.clip, preset="gwm")


def test_hints_outlive_their_window(disk_graph):
    known = np.append(np.full(len(disk_graph) - 1, np.nan), 0)
    replay = update_replay(replace(disk_graph, known=known), np.ones(len(known)), limit=20)
    later = update_replay(disk_graph, np.ones(len(known)), replay, limit=20)
    assert np.nansum(replay.known == 0) == 1 == np.nansum(later.known == 0)


def test_the_command_refuses_hints_in_one_line_or_reports_them(tmp_path, call):
    clip = write_frames(tmp_path / "clip", PIXELS, first=3)
    for words, says in {"--exclude 3:4,5@1": "'3:4,5@1'", "--exclude soon:4,5": "'soon'",
                        "--include 3:4,5@2": "3:4,5@2 names object 2, but objects is 1",
                        "--include 3:4,5@3 --objects 2": "names object 3",
                        "--include 3:96,5": "outside", "--include 9:4,5": "no frame",
                        "--include 1:4,5 --start 2": "no frame",
                        "--include 3:4,5 --preset gwm": "--include or --exclude"}.items():
        _, end = call(gwm_segment, "clip", *words.split(), cwd=tmp_path)
        assert says in end and not (tmp_path / "gwm_out").exists(), words
    words = "clip --preset fast --outputs masks --include 4:74,15 --exclude 0.05s:2,2".split()
    printed, end = call(gwm_segment, *words, "--include", "2:60,40", cwd=tmp_path)
    assert end is None and printed.splitlines()[-1].endswith("(from 3 hints)")
    report = segment(clip, preset="fast", outputs=["masks"], hints=[Hint(4, 74, 15)]).report
    assert report["hints"] == 1 and report["settings"]["hints"][0]["x"] == 74
