"Measuring in a stream, choosing without labels, and what 09_segment promises beyond the command line."
import gc
import json
import math
import os
import subprocess
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from gwm_nb.evaluate import (border_ratio, boundary, boundary_f, choose_object, evaluate, jaccard, motion_ratio,
                             object_mask, over_time, own_motion, show_ranked)
from gwm_nb.flow import DIS
from gwm_nb.network import predict_masks
from gwm_nb.scenes import MovingScenes
from gwm_nb.commands import _scene_in_view
from gwm_nb.segment import segment_clip, write_masks

root = Path(__file__).resolve().parent.parent


class Bright(torch.nn.Module):
    "Calls bright pixels object; needs no training."
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(50.))

    def forward(self, image):
        bright = (image.mean(1) - .5) * self.scale
        return torch.stack([-bright, bright], 1)


class Watched(Dataset):
    "Squares on black; counts what is asked for, and what is alive whenever something is asked for."
    def __init__(self, sequences=4, frames=24, named=True, annotated=lambda i: True, size=(32, 48)):
        self.all_names = [f"s{i // frames}/{i % frames:05d}" for i in range(sequences * frames)]
        if named:
            self.names = self.all_names
        self.annotated, self.size, self.frames = annotated, size, frames
        self.asked, self.alive, self.bytes, self.pictures = [0] * len(self.all_names), [], [], weakref.WeakSet()

    def __len__(self):
        return len(self.all_names)

    def __getitem__(self, i):
        self.asked[i] += 1
        image = torch.zeros(3, *self.size)
        image[:, 8:24, 10 + i % 5:26 + i % 5] = 1
        self.pictures.add(image)
        self.alive.append(len(self.pictures))
        if i % self.frames == 0:
            self.bytes.append(sum(t.numel() * t.element_size() for t in gc.get_objects() if type(t) is torch.Tensor))
        sample = dict(image=image, flow=torch.zeros(2, *self.size), name=self.all_names[i])
        return sample | dict(mask=image[0].long()) if self.annotated(i) else sample


# ---- evaluate

def test_each_sample_is_loaded_once_and_let_go():
    data = Watched()
    result = evaluate(Bright(), data)
    assert set(data.asked) == {1}
    assert max(data.alive) < data.frames            # never the pictures of a whole sequence
    assert result["J"] == 1 and result["frames"] == len(data) and list(result["sequences"]) == ["s0", "s1", "s2", "s3"]


def test_memory_does_not_grow_with_the_number_of_sequences():
    data = Watched(sequences=12)
    evaluate(Bright(), data)
    assert len(data.bytes) == 12 and max(data.bytes[1:]) - min(data.bytes[1:]) < 10_000      # one sequence's masks: 295,000


def test_samples_without_cheap_names_are_not_kept_either():
    data = Watched(named=False)
    result = evaluate(Bright(), data)
    assert set(data.asked) == {2} and max(data.alive) < data.frames
    assert result == evaluate(Bright(), Watched())


def test_names_behind_a_subset():
    data = Watched()
    chosen = [50, 3, 51, 4, 2]
    result = evaluate(Bright(), Subset(Subset(data, list(range(len(data)))), chosen))
    assert [data.asked[i] for i in chosen] == [1] * 5 and sum(data.asked) == 5
    assert {k: list(v) for k, v in result["sequences"].items()} == {"s2": ["00002", "00003"], "s0": ["00003", "00004", "00002"]}


def test_a_list_of_samples_in_any_order():
    data = Watched(sequences=2, frames=3)
    samples = [data[i] for i in (5, 0, 3, 1, 4, 2)]
    assert list(evaluate(Bright(), samples)["sequences"]["s0"]) == ["00000", "00001", "00002"]


def test_means_over_sequences_of_means_over_annotated_frames():
    "A sequence of one wrong frame weighs as much as one of three right frames; what has no annotation does not count."
    samples = [Watched(frames=4)[i] for i in range(4)]
    for i, s in enumerate(samples):
        s["name"] = f"long/{i}"
    del samples[1]["mask"]
    wrong = samples[0] | dict(name="short/0", mask=1 - samples[0]["mask"])
    bare = {k: v for k, v in samples[2].items() if k != "mask"} | dict(name="bare/0")
    result = evaluate(Bright(), [*samples, wrong, bare])
    assert result["J"] == .5 and result["J_best_of_two"] == 1 and result["J_best_mask"] == 1
    assert result["frames"] == 4 and result["sequences"] == {"long": {"0": 1., "2": 1., "3": 1.}, "short": {"0": 0.}}


def test_masks_come_to_the_size_of_the_annotation():
    scenes = MovingScenes(3, seed=1000)
    large = [s | dict(mask=s["mask"].repeat_interleave(3, 0).repeat_interleave(3, 1)) for s in scenes]
    masks = predict_masks(Bright(), (s["image"] for s in scenes))
    truth = torch.stack([s["mask"] > 0 for s in large])
    expected = jaccard(object_mask(masks, choose_object(masks), truth.shape[-2:]), truth)
    assert list(evaluate(Bright(), large)["sequences"]["scene1000"].values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_nothing_to_measure():
    data = Watched(sequences=1, annotated=lambda i: False)
    for function in (evaluate, show_ranked):
        with pytest.raises(ValueError, match="no sample has a mask"):
            function(Bright(), data)


def test_network_is_left_as_it_was_found():
    network = Bright().train()
    evaluate(network, Watched(sequences=1, frames=2))
    assert network.training


# ---- choosing

def frame_of(*masks):
    return torch.stack(masks).float()[None]


def test_what_is_hardly_used_decides_nothing():
    inside = torch.zeros(40, 60, dtype=torch.bool)
    inside[10:30, 20:40] = True
    dot = torch.zeros_like(inside)
    dot[20, 30] = True
    assert choose_object(frame_of(~inside, inside & ~dot, dot)).tolist() == [False, True, False]
    everything = torch.ones_like(inside)
    assert choose_object(frame_of(everything)).tolist() == [False]
    assert choose_object(frame_of(everything & ~dot, dot)).tolist() == [False, True]     # not "all of it is object"


def test_one_of_each_kind_at_least():
    left = torch.zeros(40, 60)
    left[:, :30] = 1
    assert sum(choose_object(frame_of(left, 1 - left)).tolist()) == 1
    even = torch.full((4, 40, 60), .25)
    assert 0 < choose_object(even[None]).sum() < 4                                       # as an untrained network says


def test_the_rule_has_limits_that_the_text_names():
    "An object along the border; and a background in stripes whose parts are judged apart."
    wide = torch.zeros(96, 160, dtype=torch.bool)
    wide[52:] = True
    assert choose_object(frame_of(~wide, wide)).tolist() == [True, False]

    truth = torch.zeros(96, 160, dtype=torch.bool)
    truth[56:, 50:110] = True
    even = (torch.arange(96) % 2 == 0)[:, None]
    striped = frame_of(~truth & even, truth, ~truth & ~even)
    assert border_ratio(frame_of(~truth)).item() > 1 and choose_object(striped).tolist() == [False, True, True]
    assert choose_object(frame_of(~truth, truth)).tolist() == [False, True]


# ---- show_ranked

def test_only_what_is_shown_is_loaded_twice():
    data = Watched(sequences=2, frames=10)
    show_ranked(Bright(), data, ranks=(0., 1.))
    assert sorted(data.asked) == [1] * 18 + [2] * 2


def test_the_motions_of_the_reconstruction_are_those_asked_for():
    scenes = MovingScenes(2, seed=1000)
    explained = [show_ranked(Bright(), scenes, (0.,), basis).axes[3].images[0].get_array() for basis in ("translation", "quadratic")]
    assert np.abs(explained[0] - explained[1]).max() > .05


# ---- 09_segment

@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "clip"
    folder.mkdir()
    scene = MovingScenes(1, seed=14, size=(64, 96)).scene(0)
    for t in range(3):
        cv2.imwrite(str(folder / f"{t:05d}.png"), (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy())
    return folder


def test_help_in_the_notebook_is_the_command_s_own():
    cells = json.loads((root / "nbs/09_segment.ipynb").read_text(encoding="utf-8"))["cells"]
    cell = next(c for c in cells if c["cell_type"] == "code" and "run('--help')" in "".join(c["source"]))
    kept = "".join(line for o in cell["outputs"] for line in o["text"])
    program = [sys.executable, "-c", "from gwm_nb.commands import gwm_segment; gwm_segment()", "--help"]
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ | dict(COLUMNS="100"), check=True)
    assert kept.split() == done.stdout.split()      # run the notebook again if this fails


def test_an_estimator_as_object_is_reported_in_words(clip, tmp_path):
    report = segment_clip(clip, tmp_path / "out", preset="gwm", method=DIS("fast"), steps=1)
    written = json.loads((tmp_path / "out/result.json").read_text())
    assert written == report and "fast" in json.dumps(written["settings"]["method"])
    assert {"flow", "training", "writing", "total"} <= set(written["seconds"])


@pytest.mark.parametrize("options, message", [(dict(num_masks=1), "at least 2"), (dict(pretrained="imagenet"), "not 'imagenet'"),
                                              (dict(method="magic"), "unknown flow method"), (dict(basis="cubic"), "unknown motion basis")])
def test_settings_are_refused_before_any_work(clip, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        segment_clip(clip, tmp_path / "out", preset="gwm", **options)
    assert not (tmp_path / "out").exists()


def test_annotation_of_another_size_is_named(clip, tmp_path):
    (tmp_path / "truth").mkdir()
    cv2.imwrite(str(tmp_path / "truth/00001.png"), np.zeros((10, 20), np.uint8))
    with pytest.raises(ValueError, match=r"truth/00001.png is 20x10, its frame 96x64"):
        segment_clip(clip, tmp_path / "out", masks=tmp_path / "truth")
    assert not (tmp_path / "out").exists()


def test_a_network_that_needs_its_own_size_says_so_in_one_line(clip, tmp_path, monkeypatch):
    class Stubborn(Bright):
        def forward(self, image):
            raise AssertionError("Input height (64) doesn't match model (224).")
    monkeypatch.setattr("gwm_nb.segment.create_network", lambda *a: Stubborn())
    with pytest.raises(ValueError, match="'small' does not work on pictures of .*: Input height"):
        segment_clip(clip, tmp_path / "out", preset="gwm", steps=1)
    assert not (tmp_path / "out").exists()


def test_the_demo_shows_a_scene_whose_object_stays():
    scenes = MovingScenes(64, seed=1000)
    scene = _scene_in_view(scenes, 36)
    assert min((scene.labels(t) > 0).float().mean() for t in range(0, 36, 7)) > .05
    assert _scene_in_view(MovingScenes(1, seed=0, objects=0), 36).labels(0).max() == 0      # none stays: the last one


# ---- J and F

def by_definition(mask, truth):
    "F of two masks (h,w), word for word: boundaries pixel by pixel, all distances between them."
    def places(m):
        h, w = m.shape
        found = []
        for y in range(h):
            for x in range(w):
                others = [m[v, u] for v, u in ((y, x + 1), (y + 1, x), (y + 1, x + 1)) if v < h and u < w]
                if y == h - 1 and x < w - 1: others = [m[y, x + 1]]
                if x == w - 1 and y < h - 1: others = [m[y + 1, x]]
                if any(o != m[y, x] for o in others): found.append((y, x))
        return np.array(found).reshape(-1, 2)

    a, b = places(mask), places(truth)
    if not len(a) and not len(b): return 1.
    if not len(a) or not len(b): return 0.
    radius = math.ceil(.008 * math.sqrt(mask.shape[0]**2 + mask.shape[1]**2))
    close = ((a[:, None] - b[None])**2).sum(-1) <= radius**2
    P, R = close.any(1).mean(), close.any(0).mean()
    return 2 * P * R / (P + R) if P + R else 0.


def degenerate(h, w):
    "Masks at the limits of the definition."
    m = np.zeros((9, h, w), bool)
    m[1] = True
    m[2, 0, 0] = m[3, -1, -1] = m[4, -1, :] = m[5, :, -1] = True
    m[6, h // 2, w // 2] = True
    m[7] = np.add.outer(np.arange(h), np.arange(w)) % 2
    m[8, :, w // 2:] = True
    return m


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (24, 40), (96, 160)])
def test_f_agrees_with_its_definition(size):
    rng = np.random.default_rng(0)
    coarse = [cv2.resize(rng.random((5, 7)), size[::-1], interpolation=cv2.INTER_CUBIC) > .5 for _ in range(4)]
    masks = np.concatenate([degenerate(*size), coarse, rng.random((2, *size)) > .5])
    if size == (96, 160): masks = masks[[0, 2, 3, 4, 9, 10, 11]]
    given = boundary_f(masks[:, None], masks[None])
    assert given.shape == (len(masks),) * 2 and given.dtype == np.float64
    expected = [[by_definition(a, b) for b in masks] for a in masks]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-9)
    J = [[(a & b).sum() / (a | b).sum() if (a | b).any() else 1. for b in masks] for a in masks]
    np.testing.assert_allclose(jaccard(masks[:, None], masks[None]), J, rtol=0, atol=1e-9)


def test_f_by_hand():
    "Radius 1 (up to 125 pixels of diagonal). A boundary lies on the left or upper pixel of each change."
    truth = np.zeros((20, 30), bool)
    truth[:, 10:] = True                                  # the boundary is column 9: 20 pixels
    near, far, half = truth.copy(), truth.copy(), truth.copy()
    near[:, 10] = False                                   # column 10: all within the radius
    far[:, 10:13] = False                                 # column 12: none is
    half[:10, 10:13] = False                              # 9 rows of column 12 (and row 9, a corner), row 9, column 9 below
    assert boundary_f(near, truth) == 1 and boundary_f(far, truth) == 0
    assert boundary(near)[:, 10].all() and boundary(near).sum() == 20
    edge = boundary(half)
    assert edge[:10, 12].all() and edge[10:, 9].all() and edge[9, 9:13].all() and edge.sum() == 23
    P, R = 12 / 23, 12 / 20                               # 10 below, (9,9), (9,10); of the truth rows 8 to 19
    assert boundary_f(half, truth) == pytest.approx(2 * P * R / (P + R), abs=1e-12)
    assert boundary_f(truth, truth & False) == 0 and boundary_f(truth | True, truth & False) == 1
    assert jaccard(half, truth) == pytest.approx((20 * 20 - 30) / 400)


def test_void_counts_for_neither():
    rng = np.random.default_rng(1)
    mask, truth, void = rng.random((3, 2, 24, 40)) > .5
    other = np.where(void, ~mask, mask)
    assert (jaccard(mask, truth, void) == jaccard(other, truth, void)).all()
    assert (boundary_f(mask, truth, void) == boundary_f(other, truth, void)).all()
    np.testing.assert_allclose(jaccard(mask, truth, void), jaccard(mask & ~void, truth & ~void))
    np.testing.assert_allclose(boundary_f(mask, truth, void), boundary_f(mask & ~void, truth & ~void))
    assert jaccard(mask, truth, void | True).tolist() == [1, 1]


def test_tensors_and_arrays_get_their_own_kind():
    mask, truth = np.random.default_rng(2).random((2, 3, 4, 24, 40)) > .5
    for measure in (jaccard, boundary_f):
        array, tensor = measure(mask, truth), measure(torch.from_numpy(mask), torch.from_numpy(truth))
        assert isinstance(array, np.ndarray) and tensor.dtype == torch.float64 and tensor.shape == (3, 4)
        assert (tensor.numpy() == array).all()
    assert float(jaccard(mask[0, 0], mask[0, 0])) == 1 and float(boundary_f(mask[0, 0], mask[0, 0])) == 1


def test_three_figures_of_a_sequence():
    "Nine frames: quarters end at 1, 3, 5, 7, 9, and share their ends."
    values = [.9, .8, .7, .6, .5, .4, .3, .2, .1]
    assert over_time(values) == pytest.approx(dict(mean=.5, recall=4 / 9, decay=.8 - .2))
    assert over_time([.3]) == dict(mean=.3, recall=0, decay=0)
    long = np.concatenate([np.full(500, 1.), np.zeros(500)])         # 8-bit bounds would wrap around at 256
    assert over_time(long) == dict(mean=.5, recall=.5, decay=1.)
    with pytest.raises(ValueError, match="no frames"):
        over_time([])


def test_evaluate_reports_f_of_the_label_free_choice():
    samples = [Watched(frames=4)[i] for i in range(4)]
    result = evaluate(Bright(), samples)
    assert result["F"] == 1
    for s in samples: s["mask"] = s["mask"].roll(6, 1)
    found = evaluate(Bright(), samples)
    expected = [boundary_f(s["mask"].roll(-6, 1) > 0, s["mask"] > 0) for s in samples]
    assert found["F"] == pytest.approx(float(sum(expected)) / 4)


def shared_background():
    "An object that moves and touches the border, and a background that three masks share unevenly: masks (4,4,40,60), flow."
    truth = torch.zeros(4, 40, 60)
    truth[:, :12, 20:35] = 1
    middle = torch.zeros(4, 40, 60)
    middle[:, 5:-5, 7:-7] = 1
    shares = torch.stack([.3 + .1 * middle, .3 + 0 * middle, .4 - .1 * middle], 1) * (1 - truth[:, None])
    flow = torch.ones(4, 2, 40, 60) + 3 * truth[:, None] * torch.tensor([1., -1])[:, None, None]
    return torch.cat([shares, truth[:, None]], 1), flow


def test_masks_that_share_a_background_are_judged_by_a_clear_margin():
    "What favours the middle by a little is no object, when it is the object alone that moves."
    masks, flow = shared_background()
    assert choose_object(masks).tolist() == [True, False, False, False]
    assert choose_object(masks, flow).tolist() == [False, False, False, True]


def test_a_cue_without_a_margin_is_not_asked():
    "Both masks move alike but for a few percent; the border tells them apart."
    truth = torch.zeros(4, 40, 60)
    truth[:, 10:30, 20:40] = 1
    noise = 2 * torch.randn(4, 2, 40, 60, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([1 - truth, truth], 1)
    moves = motion_ratio(masks, own_motion(noise))
    assert .9 < moves.min() and moves.max() < 1.1
    for flow in (noise, noise * (1 + .05 * truth[:, None]), noise * (1 - .05 * truth[:, None])):
        assert choose_object(masks, flow).tolist() == [False, True]


def test_masks_are_judged_beside_the_others(monkeypatch):
    "What moves a little more than the frame is no object beside what moves six times as much; an unused mask has no say."
    masks = torch.zeros(2, 4, 40, 60)
    for k in range(3): masks[:, k, :, 20 * k:20 * k + 20] = 1
    monkeypatch.setattr("gwm_nb.evaluate.motion_ratio", lambda masks, residual: torch.tensor([1.2, .8, 6., 1e-6]))
    monkeypatch.setattr("gwm_nb.evaluate.border_ratio", lambda masks: torch.ones(4))
    assert choose_object(masks, 9 * torch.randn(2, 2, 40, 60)).tolist() == [False, False, True, False]


def test_no_contact_with_the_border_does_not_outweigh_every_motion(monkeypatch):
    "A piece of background in the middle touches no border; what moves six times as much as it is the object all the same."
    masks = torch.zeros(2, 2, 40, 60)
    masks[:, 0, :, :30] = masks[:, 1, :, 30:] = 1
    monkeypatch.setattr("gwm_nb.evaluate.motion_ratio", lambda masks, residual: torch.tensor([6., 1.]))
    for contact in (.1, .01, 0):
        monkeypatch.setattr("gwm_nb.evaluate.border_ratio", lambda masks: torch.tensor([1., contact]))
        assert choose_object(masks, 9 * torch.randn(2, 2, 40, 60)).tolist() == [True, False]


def test_flow_of_another_size_than_the_masks():
    masks, flow = shared_background()
    large = torch.nn.functional.interpolate(flow, scale_factor=2)
    assert choose_object(masks, large).tolist() == [False, False, False, True]


def test_evaluate_asks_the_motion_where_there_is_flow():
    "Of an object along the border; flow of some frames says nothing of all."
    samples = [Watched(frames=4)[i] for i in range(4)]
    for s in samples:
        s["mask"] = torch.zeros(32, 48, dtype=torch.long)
        s["mask"][4:28, :7] = 1
        s |= dict(image=s["mask"].float().expand(3, -1, -1), flow=torch.ones(2, 32, 48) + 3 * s["mask"] * torch.tensor([1., -1])[:, None, None])
    still = [{k: v for k, v in s.items() if k != "flow"} for s in samples]
    assert evaluate(Bright(), samples)["J"] == 1
    assert evaluate(Bright(), still)["J"] == evaluate(Bright(), [*samples[:3], still[3]])["J"] == 0


def test_motion_finds_an_object_that_favours_the_border():
    "And where nothing moves by itself, or no flow is given, the border decides."
    truth = torch.zeros(4, 40, 60)
    truth[:, 4:36, :8] = 1
    masks = torch.stack([1 - truth, truth], 1)
    moving = torch.ones(4, 2, 40, 60) + 3 * truth[:, None] * torch.tensor([1., -1])[:, None, None]
    resting = torch.ones(4, 2, 40, 60)
    assert border_ratio(masks)[1] > 1 and choose_object(masks).tolist() == [True, False]
    assert choose_object(masks, moving[:3]).tolist() == [False, True]
    assert choose_object(masks, resting).tolist() == [True, False]
    assert choose_object(torch.ones(4, 1, 40, 60), moving).tolist() == [False]
