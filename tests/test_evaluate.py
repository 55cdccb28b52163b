"Measuring in a stream, choosing without labels, J and F."
import gc
import math
import weakref

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from gwm_nb.evaluate import boundary_f, choose_object, evaluate, jaccard, object_mask, soft_iou
from gwm_nb.network import predict_masks
from gwm_nb.reports import show_ranked
from gwm_nb.scenes import MovingScenes
from inputs import Bright, refused


class Watched(Dataset):
    "Squares on black; counts what is asked for, and what is alive whenever something is asked for."
    def __init__(self, sequences=4, frames=24, named=True):
        self.all_names = [f"s{i // frames}/{i % frames:05d}" for i in range(sequences * frames)]
        if named:
            self.names = self.all_names
        self.frames, self.asked = frames, [0] * len(self.all_names)
        self.alive, self.bytes, self.pictures = [], [], weakref.WeakSet()

    def __len__(self): return len(self.all_names)

    def __getitem__(self, i):
        self.asked[i] += 1
        image = torch.zeros(3, 32, 48)
        image[:, 8:24, 10 + i % 5:26 + i % 5] = 1
        self.pictures.add(image)
        self.alive.append(len(self.pictures))
        if i % self.frames == 0:
            tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor]
            self.bytes.append(sum(t.numel() * t.element_size() for t in tensors))
        name = self.all_names[i]
        return dict(image=image, flow=torch.zeros(2, 32, 48), name=name, mask=image[0].long())


def without(sample, key): return {k: v for k, v in sample.items() if k != key}


@pytest.mark.parametrize("named", [True, False])
def test_each_sample_is_loaded_once_and_let_go(named):
    "Memory does not grow with the sequences; where names are not cheap, each is loaded twice."
    data = Watched(named=named)
    result = evaluate(Bright(), data)
    assert set(data.asked) == {1 if named else 2}
    assert max(data.alive) < data.frames  # never the images of a whole sequence
    assert max(data.bytes[1:]) - min(data.bytes[1:]) < 10_000   # masks of one sequence: 295,000
    assert result["J"] == result["F"] == 1 and result["frames"] == len(data)
    data = Watched(sequences=2, frames=5)
    show_ranked(Bright(), data, ranks=(0., 1.))
    assert sorted(data.asked) == [1] * 8 + [2] * 2                # and what is shown once more


def test_names_behind_a_subset():
    data, chosen = Watched(), [50, 3, 51, 4, 2]
    result = evaluate(Bright(), Subset(Subset(data, list(range(len(data)))), chosen))
    assert [data.asked[i] for i in chosen] == [1] * 5 and sum(data.asked) == 5
    named = {k: list(v) for k, v in result["sequences"].items()}
    assert named == {"s2": ["00002", "00003"], "s0": ["00003", "00004", "00002"]}


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
    chosen = object_mask(masks, choose_object(masks), truth.shape[-2:])
    found = evaluate(Bright(), large)
    J = list(found["sequences"]["scene1000"].values())
    assert J == pytest.approx(jaccard(chosen, truth).tolist(), abs=1e-6)
    assert found["F"] == pytest.approx(boundary_f(chosen, truth).mean())


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
    for function in (evaluate, show_ranked):
        refused(lambda: function(Bright(), [without(s, "mask") for s in samples]),
                says="no sample has a mask")


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
    assert choose_object(torch.ones(4, 1, 40, 60), flow).tolist() == [False]
    large = torch.nn.functional.interpolate(flow, scale_factor=scale)
    assert choose_object(masks).tolist() == [True, False, False, False]
    assert choose_object(masks, large).tolist() == [False, False, False, True]


def test_iou_of_soft_masks():
    soft = torch.zeros(2, 60, 80)
    soft[:, 20:32, 5:17] = .9
    for other, wanted in ((soft, 1), (soft * 0, 0), (soft.roll(6, 1), 1 / 3)):
        assert torch.allclose(soft_iou(soft, other), torch.full((2,), float(wanted)), atol=1e-4)
    assert soft_iou(soft * 0, soft * 0).tolist() == [1, 1]


def boundary(m):
    "The boundary pixels of a mask (h,w): others are to the right, below, or below to the right."
    grown = np.pad(m, ((0, 1), (0, 1)), mode="edge")
    return np.argwhere((grown[1:, :-1] != m) | (grown[:-1, 1:] != m) | (grown[1:, 1:] != m))


def by_definition(mask, truth):
    "F of two masks (h,w), word for word: all distances between the pixels of their boundaries."
    a, b = boundary(mask), boundary(truth)
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


def test_void_counts_for_neither():
    mask, truth, void = np.random.default_rng(1).random((3, 2, 24, 40)) > .5
    other = np.where(void, ~mask, mask)
    for measure in (jaccard, boundary_f):
        found = measure(mask, truth, void)
        assert (found == measure(other, truth, void)).all()
        np.testing.assert_allclose(found, measure(mask & ~void, truth & ~void))
    assert jaccard(mask, truth, void | True).tolist() == [1, 1]
