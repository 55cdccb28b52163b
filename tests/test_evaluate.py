"Measuring in a stream, choosing without labels, and what 09_segment promises beyond its commands."
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

from gwm_nb.evaluate import (border_ratio, boundary, boundary_f, choose_object, evaluate, jaccard,
                             motion_ratio, object_mask, over_time, residual_motion, show_ranked,
                             soft_iou)
from gwm_nb.flow import DIS
from gwm_nb.network import predict_masks
from gwm_nb.scenes import MovingScenes
from gwm_nb.commands import _scene_in_view
from gwm_nb.segment import segment_clip
from inputs import Bright, write_image, write_scene

root = Path(__file__).resolve().parent.parent


class Watched(Dataset):
    "Squares on black; counts what is asked for, and what is alive whenever something is asked for."
    def __init__(self, sequences=4, frames=24, named=True, size=(32, 48)):
        self.all_names = [f"s{i // frames}/{i % frames:05d}" for i in range(sequences * frames)]
        if named:
            self.names = self.all_names
        self.size, self.frames, self.asked = size, frames, [0] * len(self.all_names)
        self.alive, self.bytes, self.pictures = [], [], weakref.WeakSet()

    def __len__(self):
        return len(self.all_names)

    def __getitem__(self, i):
        self.asked[i] += 1
        image = torch.zeros(3, *self.size)
        image[:, 8:24, 10 + i % 5:26 + i % 5] = 1
        self.pictures.add(image)
        self.alive.append(len(self.pictures))
        if i % self.frames == 0:
            tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor]
            self.bytes.append(sum(t.numel() * t.element_size() for t in tensors))
        name = self.all_names[i]
        return dict(image=image, flow=torch.zeros(2, *self.size), name=name, mask=image[0].long())


def without(sample, key): return {k: v for k, v in sample.items() if k != key}


# ---- evaluate

@pytest.mark.parametrize("named", [True, False])
def test_each_sample_is_loaded_once_and_let_go(named):
    "Memory does not grow with the sequences; where names are not cheap, each is loaded twice."
    data = Watched(named=named)
    result = evaluate(Bright(), data)
    assert set(data.asked) == {1 if named else 2}
    assert max(data.alive) < data.frames  # never the pictures of a whole sequence
    assert max(data.bytes[1:]) - min(data.bytes[1:]) < 10_000   # masks of one sequence: 295,000
    assert result["J"] == 1 and result["frames"] == len(data)
    assert list(result["sequences"]) == ["s0", "s1", "s2", "s3"]


def test_names_behind_a_subset():
    data, chosen = Watched(), [50, 3, 51, 4, 2]
    result = evaluate(Bright(), Subset(Subset(data, list(range(len(data)))), chosen))
    assert [data.asked[i] for i in chosen] == [1] * 5 and sum(data.asked) == 5
    named = {k: list(v) for k, v in result["sequences"].items()}
    assert named == {"s2": ["00002", "00003"], "s0": ["00003", "00004", "00002"]}


def test_a_list_of_samples_in_any_order():
    data = Watched(sequences=2, frames=3)
    samples = [data[i] for i in (5, 0, 3, 1, 4, 2)]
    assert list(evaluate(Bright(), samples)["sequences"]["s0"]) == ["00000", "00001", "00002"]


def test_means_over_sequences_of_means_over_annotated_frames():
    "A sequence of one wrong frame weighs as much as one of three right frames."
    samples = [Watched(frames=4)[i] | dict(name=f"long/{i}") for i in range(4)]
    samples[1] = without(samples[1], "mask")
    wrong = samples[0] | dict(name="short/0", mask=1 - samples[0]["mask"])
    bare = without(samples[2], "mask") | dict(name="bare/0")
    result = evaluate(Bright(), [*samples, wrong, bare])
    assert (result["J"], result["J_best_of_two"], result["J_best_mask"]) == (.5, 1, 1)
    assert result["frames"] == 4
    assert result["sequences"] == {"long": {"0": 1., "2": 1., "3": 1.}, "short": {"0": 0.}}


def test_masks_come_to_the_size_of_the_annotation():
    scenes = MovingScenes(3, seed=1000, size=(48, 80))
    large = [s | dict(mask=s["mask"].repeat_interleave(3, 0).repeat_interleave(3, 1))
             for s in scenes]
    masks = predict_masks(Bright(), (s["image"] for s in scenes))
    truth = torch.stack([s["mask"] > 0 for s in large])
    expected = jaccard(object_mask(masks, choose_object(masks), truth.shape[-2:]), truth)
    found = evaluate(Bright(), large)["sequences"]["scene1000"]
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("function", [evaluate, show_ranked])
def test_nothing_to_measure(function):
    with pytest.raises(ValueError, match="no sample has a mask"):
        function(Bright(), [without(s, "mask") for s in Watched(1, 2)])


def test_network_is_left_as_it_was_found():
    network = Bright().train()
    evaluate(network, Watched(sequences=1, frames=2))
    assert network.training


def test_evaluate_reports_f_of_the_label_free_choice():
    samples = [Watched(frames=4)[i] for i in range(4)]
    assert evaluate(Bright(), samples)["F"] == 1
    moved = [s | dict(mask=s["mask"].roll(6, 1)) for s in samples]
    expected = [boundary_f(s["mask"] > 0, m["mask"] > 0) for s, m in zip(samples, moved)]
    assert evaluate(Bright(), moved)["F"] == pytest.approx(float(sum(expected)) / 4)


def own_flow(inside):
    "A flow of (1,1), and of (4,-2) where `inside` is 1."
    return torch.ones(2, 1, 1) + 3 * inside * torch.tensor([1., -1])[:, None, None]


def test_evaluate_asks_the_motion_where_there_is_flow():
    "Of an object along the border; flow of some frames says nothing of all."
    mask = torch.zeros(32, 48, dtype=torch.long)
    mask[4:28, :7] = 1
    image = mask.float().expand(3, -1, -1)
    samples = [dict(image=image, mask=mask, flow=own_flow(mask), name=f"s/{i}") for i in range(4)]
    still = [without(s, "flow") for s in samples]
    J = [evaluate(Bright(), data)["J"] for data in (samples, still, [*samples[:3], still[3]])]
    assert J == [1, 0, 0]


# ---- choosing

def frame_of(*masks): return torch.stack(masks).float()[None]


def test_what_is_hardly_used_decides_nothing():
    inside, dot = torch.zeros(2, 40, 60, dtype=torch.bool)
    inside[10:30, 20:40] = dot[20, 30] = True
    everything = torch.ones_like(inside)
    assert choose_object(frame_of(~inside, inside & ~dot, dot)).tolist() == [False, True, False]
    assert choose_object(frame_of(everything)).tolist() == [False]
    assert choose_object(frame_of(everything & ~dot, dot)).tolist() == [False, True]


def test_one_of_each_kind_at_least():
    left = torch.zeros(40, 60)
    left[:, :30] = 1
    assert sum(choose_object(frame_of(left, 1 - left)).tolist()) == 1
    even = torch.full((1, 4, 40, 60), .25)                          # as an untrained network says
    assert 0 < choose_object(even).sum() < 4


def test_the_rule_has_limits_that_the_text_names():
    "An object along the border; and a background in stripes whose parts are judged apart."
    wide, truth = torch.zeros(2, 96, 160, dtype=torch.bool)
    wide[52:] = truth[56:, 50:110] = True
    assert choose_object(frame_of(~wide, wide)).tolist() == [True, False]
    even = (torch.arange(96) % 2 == 0)[:, None]
    striped = frame_of(~truth & even, truth, ~truth & ~even)
    assert border_ratio(frame_of(~truth)).item() > 1
    assert choose_object(striped).tolist() == [False, True, True]
    assert choose_object(frame_of(~truth, truth)).tolist() == [False, True]


def shared_background():
    "An object that moves and touches the border; three masks share the background unevenly."
    truth, middle = torch.zeros(2, 4, 40, 60)
    truth[:, :12, 20:35] = 1
    middle[:, 5:-5, 7:-7] = 1
    shares = torch.stack([.3 + .1 * middle, .3 + 0 * middle, .4 - .1 * middle], 1)
    masks = torch.cat([shares * (1 - truth[:, None]), truth[:, None]], 1)
    return masks, own_flow(truth[:, None])


@pytest.mark.parametrize("scale", [1, 2])
def test_masks_that_share_a_background_are_judged_by_a_clear_margin(scale):
    "What favours the middle a little is no object where one alone moves, in flow of any size."
    masks, flow = shared_background()
    large = torch.nn.functional.interpolate(flow, scale_factor=scale)
    assert choose_object(masks).tolist() == [True, False, False, False]
    assert choose_object(masks, large).tolist() == [False, False, False, True]


def test_iou_of_soft_masks():
    soft = torch.zeros(2, 60, 80)
    soft[:, 20:32, 5:17] = .9
    for other, wanted in ((soft, 1), (soft * 0, 0), (soft.roll(6, 1), 1 / 3)):
        assert torch.allclose(soft_iou(soft, other), torch.full((2,), float(wanted)), atol=1e-4)
    assert soft_iou(soft * 0, soft * 0).tolist() == [1, 1]


def test_a_cue_without_a_margin_is_not_asked():
    "Both masks move alike but for a few percent; the border tells them apart."
    truth = torch.zeros(4, 40, 60)
    truth[:, 10:30, 20:40] = 1
    noise = 2 * torch.randn(4, 2, 40, 60, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([1 - truth, truth], 1)
    moves = motion_ratio(masks, residual_motion(noise))
    assert .9 < moves.min() and moves.max() < 1.1
    for factor in (0, .05, -.05):
        flow = noise * (1 + factor * truth[:, None])
        assert choose_object(masks, flow).tolist() == [False, True]


@pytest.mark.parametrize("motion, border, chosen", [
    ([1.2, .8, 6., 1e-6], [1.] * 4, [False, False, True, False]),  # beside what moves six times
    ([6., 1.], [1., .1], [True, False]), ([6., 1.], [1., 0.], [True, False])]) 
def test_masks_are_judged_beside_the_others(monkeypatch, motion, border, chosen):
    "No contact with the border does not outweigh every motion; an unused mask has no say."
    used = sum(m > 1e-3 for m in motion)
    masks = torch.zeros(2, len(motion), 40, 60)
    for k in range(used):
        masks[:, k, :, 60 // used * k:60 // used * (k + 1)] = 1
    monkeypatch.setattr("gwm_nb.evaluate.motion_ratio", lambda *_: torch.tensor(motion))
    monkeypatch.setattr("gwm_nb.evaluate.border_ratio", lambda masks: torch.tensor(border))
    assert choose_object(masks, 9 * torch.randn(2, 2, 40, 60)).tolist() == chosen


def test_motion_finds_an_object_that_favours_the_border():
    "And where nothing moves by itself, or flow is not given for all, the border decides."
    truth = torch.zeros(4, 40, 60)
    truth[:, 4:36, :8] = 1
    masks, moving = torch.stack([1 - truth, truth], 1), own_flow(truth[:, None])
    assert border_ratio(masks)[1] > 1
    for flow, chosen in ((None, [True, False]), (moving[:3], [False, True]),
                         (torch.ones(4, 2, 40, 60), [True, False])):
        assert choose_object(masks, flow).tolist() == chosen
    assert choose_object(torch.ones(4, 1, 40, 60), moving).tolist() == [False]


# ---- show_ranked

def test_only_what_is_shown_is_loaded_twice():
    data = Watched(sequences=2, frames=5)
    show_ranked(Bright(), data, ranks=(0., 1.))
    assert sorted(data.asked) == [1] * 8 + [2] * 2


def test_the_motions_of_the_reconstruction_are_those_asked_for():
    scenes = MovingScenes(2, seed=1000, size=(48, 80))
    explained = [show_ranked(Bright(), scenes, (0.,), basis).axes[3].images[0].get_array()
                 for basis in ("translation", "quadratic")]
    assert np.abs(explained[0] - explained[1]).max() > .05


# ---- 09_segment

@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("clips") / "clip", n=3)


def test_help_in_the_notebook_is_the_command_s_own():
    cells = json.loads((root / "nbs/09_segment.ipynb").read_text(encoding="utf-8"))["cells"]
    cell = next(c for c in cells if "run('--help')" in "".join(c["source"]) and "outputs" in c)
    kept = "".join(line for o in cell["outputs"] for line in o["text"])
    code = "from gwm_nb.commands import gwm_segment; gwm_segment()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True,
                          env=os.environ | dict(COLUMNS="100"), check=True)
    assert kept.split() == done.stdout.split()      # run the notebook again if this fails


def test_an_estimator_as_object_is_reported_in_words(clip, tmp_path):
    report = segment_clip(clip, tmp_path / "out", preset="gwm", method=DIS("fast"), steps=1)
    written = json.loads((tmp_path / "out/result.json").read_text())
    assert written == report and "fast" in json.dumps(written["settings"]["method"])
    assert {"flow", "training", "writing", "total"} <= set(written["seconds"])


@pytest.mark.parametrize("options, says", [
    (dict(num_masks=1), "num_masks must be at least 2"), (dict(pretrained="imagenet"), "imagenet"),
    (dict(method="magic"), "magic.*dis"), (dict(basis="cubic"), "cubic.*quadratic")])
def test_settings_are_refused_before_any_work(clip, tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        segment_clip(clip, tmp_path / "out", preset="gwm", **options)
    assert not (tmp_path / "out").exists()


def test_annotation_of_another_size_is_named(clip, tmp_path):
    write_image(tmp_path / "truth/00001.png", np.zeros((10, 20), np.uint8))
    with pytest.raises(ValueError, match=r"truth/00001.png is 20x10, .* 96x64"):
        segment_clip(clip, tmp_path / "out", masks=tmp_path / "truth")
    assert not (tmp_path / "out").exists()


def test_a_network_that_needs_its_own_size_says_so_in_one_line(clip, tmp_path, monkeypatch):
    class Stubborn(Bright):
        def forward(self, image):
            raise AssertionError("Input height (64) doesn't match model (224).")
    monkeypatch.setattr("gwm_nb.segment.create_network", lambda *a: Stubborn())
    with pytest.raises(ValueError, match="'small' .*Input height"):
        segment_clip(clip, tmp_path / "out", preset="gwm", steps=1)
    assert not (tmp_path / "out").exists()


def test_the_demo_shows_a_scene_whose_object_stays():
    scene = _scene_in_view(MovingScenes(64, seed=1000, size=(48, 80)), 15)
    assert min((scene.labels(t) > 0).float().mean() for t in (0, 7, 14)) > .05
    none = _scene_in_view(MovingScenes(1, seed=0, size=(48, 80), objects=0), 8)
    assert none.labels(0).max() == 0                                    # none stays: the last one


# ---- J and F

def by_definition(mask, truth):
    "F of two masks (h,w), word for word: boundaries pixel by pixel, all distances between them."
    def places(m):
        h, w = m.shape
        found = []
        for y in range(h):
            for x in range(w):
                near = (y, x + 1), (y + 1, x), (y + 1, x + 1)
                if y == h - 1 or x == w - 1:
                    near = [(v, u) for v, u in near[:2] if v < h and u < w]
                if any(m[v, u] != m[y, x] for v, u in near):
                    found.append((y, x))
        return np.array(found).reshape(-1, 2)

    a, b = places(mask), places(truth)
    if not len(a) or not len(b):
        return float(len(a) == len(b))
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


@pytest.mark.parametrize("size, some", [((1, 1), None), ((1, 9), None), ((7, 1), None),
                                        ((16, 24), None), ((90, 110), [2, 6, 9, 10])])
def test_f_agrees_with_its_definition(size, some):
    "Also where the radius is two pixels, at a diagonal above 125."
    rng = np.random.default_rng(0)
    coarse = [cv2.resize(rng.random((5, 7)), size[::-1], interpolation=cv2.INTER_CUBIC) > .5
              for _ in range(3)]
    masks = np.concatenate([degenerate(*size), coarse, rng.random((1, *size)) > .5])
    masks = masks if some is None else masks[some]
    given = boundary_f(masks[:, None], masks[None])
    assert given.shape == (len(masks),) * 2 and given.dtype == np.float64
    expected = [[by_definition(a, b) for b in masks] for a in masks]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-9)
    J = [[(a & b).sum() / (a | b).sum() if (a | b).any() else 1. for b in masks] for a in masks]
    np.testing.assert_allclose(jaccard(masks[:, None], masks[None]), J, rtol=0, atol=1e-9)


def test_f_by_hand():
    "Radius 1. A boundary lies on the left or upper pixel of each change."
    truth = np.zeros((20, 30), bool)
    truth[:, 10:] = True                                  # the boundary is column 9: 20 pixels
    near, far, half = truth.copy(), truth.copy(), truth.copy()
    near[:, 10] = False                                   # column 10: all within the radius
    far[:, 10:13] = False                                 # column 12: none is
    half[:10, 10:13] = False      # 9 rows of column 12 (and row 9, a corner), row 9, below it 9
    assert boundary_f(near, truth) == 1 and boundary_f(far, truth) == 0
    assert boundary(near)[:, 10].all() and boundary(near).sum() == 20
    edge = boundary(half)
    assert edge[:10, 12].all() and edge[10:, 9].all() and edge[9, 9:13].all() and edge.sum() == 23
    P, R = 12 / 23, 12 / 20  # 10 below, (9,9), (9,10); of the truth rows 8-19
    assert boundary_f(half, truth) == pytest.approx(2 * P * R / (P + R), abs=1e-12)
    assert boundary_f(truth, truth & False) == 0 and boundary_f(truth | True, truth & False) == 1
    assert jaccard(half, truth) == pytest.approx((20 * 20 - 30) / 400)


def test_void_counts_for_neither():
    mask, truth, void = np.random.default_rng(1).random((3, 2, 24, 40)) > .5
    other = np.where(void, ~mask, mask)
    for measure in (jaccard, boundary_f):
        found = measure(mask, truth, void)
        assert (found == measure(other, truth, void)).all()
        np.testing.assert_allclose(found, measure(mask & ~void, truth & ~void))
    assert jaccard(mask, truth, void | True).tolist() == [1, 1]


def test_tensors_and_arrays_get_their_own_kind():
    mask, truth = np.random.default_rng(2).random((2, 3, 4, 24, 40)) > .5
    for measure in (jaccard, boundary_f):
        array, tensor = measure(mask, truth), measure(*map(torch.from_numpy, (mask, truth)))
        assert isinstance(array, np.ndarray) and (tensor.numpy() == array).all()
        assert tensor.dtype == torch.float64 and tensor.shape == (3, 4)
        assert float(measure(mask[0, 0], mask[0, 0])) == 1


def test_three_figures_of_a_sequence():
    "Nine frames: quarters end at 1, 3, 5, 7, 9, and share their ends."
    values = [.9, .8, .7, .6, .5, .4, .3, .2, .1]
    assert over_time(values) == pytest.approx(dict(mean=.5, recall=4 / 9, decay=.8 - .2))
    assert over_time([.3]) == dict(mean=.3, recall=0, decay=0)
    long = np.repeat([1., 0.], 500)                       # 8-bit bounds would wrap around at 256
    assert over_time(long) == dict(mean=.5, recall=.5, decay=1.)
    with pytest.raises(ValueError, match="no frames"):
        over_time([])
