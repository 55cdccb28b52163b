"Polishing masks: what each way promises, what is refused."
import csv
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gwm_nb import benchmarks
from gwm_nb.commands import gwm_evaluate
from gwm_nb.polish import (Polished, Polisher, along_flow, crf, guided, polishers,
                           with_neighbours)
from gwm_nb.reports import read_results
from inputs import Bright, write_frames


def needs(name):
    if name == "crf":
        pytest.importorskip("pydensecrf.densecrf", reason="the crf extra is not installed")


def near(a, b, atol=0.): torch.testing.assert_close(a, b, atol=atol, rtol=0)


def some_masks(*shape):
    "Soft masks (B,K,h,w), smooth over a few pixels."
    B, K, h, w = shape
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(B, K, max(2, h // 4), max(2, w // 4), generator=generator)
    return (3 * F.interpolate(coarse, (h, w), mode="bicubic")).softmax(1)


def photo(*size):
    "Images (1,3,H,W) of smooth colours."
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size, mode="bilinear")


@pytest.mark.parametrize("K", [2, 7])
@pytest.mark.parametrize("name", ["guided", "bilateral", "crf", "flow"])
def test_they_are_masks_still(name, K):
    needs(name)
    masks, images = some_masks(3, K, 24, 40), photo(72, 120).expand(3, 3, 72, 120)
    before = masks.clone(), images.clone()
    out = polishers[name].apply(masks, images)
    assert out.shape == (3, K, *((24, 40) if name == "flow" else (72, 120)))
    assert out.dtype == torch.float32 and out.min() >= 0 and out.max() <= 1 + 1e-6
    near(out.sum(1), torch.ones_like(out[:, 0]), 1e-5)
    near((masks, images), before)


@pytest.mark.parametrize("name, most", [("guided", 0), ("bilateral", 1), ("crf", 0)])
def test_an_edge_of_the_image_attracts_that_of_the_mask(name, most):
    "In a batch as alone."
    needs(name)
    begins = lambda masks: (masks[:, 1] > .5).float().argmax(-1)
    row = torch.sigmoid((torch.arange(48) + .5 - 27) / 2)
    late = torch.stack([1 - row, row])[None, :, None].expand(1, 2, 48, 48)
    halves = (torch.arange(48) >= 24).float().expand(1, 3, 48, 48)
    masks, images = torch.cat([some_masks(1, 2, 48, 48), late]), torch.cat([photo(48, 48), halves])
    found = polishers[name].apply(masks, images)
    near(found[:1], polishers[name].apply(masks[:1], images[:1]), 1e-5)
    assert (begins(late) == 27).all() and ((begins(found[1:]) - 24).abs() <= most).all()


@pytest.mark.parametrize("name", ["guided", "bilateral", "crf", "flow"])
@pytest.mark.parametrize("masks, images, says", [
    (torch.rand(2, 2, 20, 30), torch.rand(3, 3, 40, 60), r"\(2, 2, 20, 30\)"),
    (torch.rand(2, 2, 20, 30), torch.rand(2, 1, 40, 60), r", 1, 40, 60\)"),
    (torch.rand(2, 2, 20, 30), torch.zeros(2, 3, 40, 60, dtype=torch.uint8), "torch.uint8")])
def test_what_does_not_belong_together_is_refused(name, masks, images, says):
    with pytest.raises(ValueError, match=says):
        polishers[name].apply(masks, images)


def test_a_missing_package_and_a_window_that_is_too_large(monkeypatch):
    masks = some_masks(1, 2, 10, 15)
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ValueError, match=r"^.*pip install 'gwm_nb\[crf\]'$"):
        crf(masks, photo(20, 30))
    with pytest.raises(ValueError, match="20 for 30x20"):
        guided(masks, photo(20, 30), 20)


def test_the_guided_filter_is_least_squares_in_windows():
    "One pixel by hand: the mean of what all windows that contain it say."
    masks, image, r, eps, (y, x) = some_masks(1, 2, 17, 19), photo(17, 19).double(), 2, 1e-3, (8, 9)
    told = []
    for cy in range(y - r, y + r + 1):
        for cx in range(x - r, x + r + 1):
            window = np.s_[..., cy - r:cy + r + 1, cx - r:cx + r + 1]
            c = image[0][window].reshape(3, -1).T
            m = masks[0, 1][window].reshape(-1).double()
            d = c - c.mean(0)
            C = d.T @ d / len(c)
            a = torch.linalg.solve(C + eps * torch.eye(3), d.T @ (m - m.mean()) / len(c))
            told.append(a @ (image[0, :, y, x] - c.mean(0)) + m.mean())
    assert abs(guided(masks, image.float(), r, eps)[0, 1, y, x] - sum(told) / len(told)) < 1e-4


def test_masks_are_followed():
    "A mask that moves by (3, 1) pixels a frame, all on one line of the flow."
    first = some_masks(1, 2, 20, 30)[0]
    masks = torch.stack([first.roll((t, 3 * t), (-2, -1)) for t in range(3)])
    there = torch.tensor([3., 1])[None, :, None, None].expand(2, 2, 20, 30)
    inside = np.s_[1, :, 1:-1, 3:-3]
    near(along_flow(masks, there, -there)[inside], masks[inside], 1e-5)
    assert (along_flow(masks, -there, there)[inside] - masks[inside]).abs().max() > .1


def test_flow_is_estimated_between_the_frames():
    "A textured image moves by 4 pixels, masks are half its size and flicker in the middle."
    noise = torch.rand(1, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    picture = F.interpolate(noise, (96, 144), mode="bicubic").clamp(0, 1)
    images = torch.cat([picture.roll(4 * t, -1) for t in range(3)])
    first = some_masks(1, 2, 48, 72)[0]
    right = torch.stack([first.roll(2 * t, -1) for t in range(3)])
    wrong = right.clone()
    wrong[1, :, 20:28, 30:40] = .5
    hole = np.s_[1, :, 21:27, 31:39]
    off = lambda masks: (masks[hole] - right[hole]).abs().mean()
    assert .25 < off(with_neighbours(wrong, images)) / off(wrong) < .45       # it is one of three
    near(with_neighbours(right[:1], images[:1]), right[:1])


def test_a_sequence_is_polished_where_it_is_asked_for():
    asked = []

    def apply(masks, images):
        asked.append(len(masks))
        return masks + images[:, :1]
    masks = torch.zeros(4, 2, 5, 6)
    frames = [torch.full((3, 5, 6), 51 * t, dtype=torch.uint8) for t in range(4)]
    sequence = Polished(masks, frames, Polisher(apply, "", reach=1))
    assert not asked and len(sequence) == 4
    for t in (3, 0, 2, 2):
        near(sequence[t], torch.full((2, 5, 6), .2 * t).half())
    assert asked == [2, 2, 3]
    with pytest.raises(IndexError):
        sequence[4]
    with pytest.raises(ValueError, match="4 masks .* 3 frames"):
        Polished(masks, frames[:3], None)


def test_polished_masks_are_measured_and_written(tmp_path, monkeypatch):
    "The network sees a disk at a quarter of its size; the guided filter finds its outline again."
    disks = [cv2.circle(np.zeros((48, 64), np.uint8), (24 + 4 * t, 24), 12, 255, -1)
             for t in range(3)]
    write_frames(tmp_path / "clips/Annotations/a", disks)
    write_frames(tmp_path / "clips/JPEGImages/a", [np.stack([m // 2 + 60] * 3, 2) for m in disks])
    monkeypatch.setattr(benchmarks, "load_any", lambda path: Bright())
    J = {}
    for name in ("", "guided", "flow+guided"):
        out = tmp_path / f"out{name}"
        gwm_evaluate("bright", data=tmp_path / "clips", size="12x16", save=out, polish=name,
                     protocol="label-free")
        result, = read_results(out)
        J[name], polished = result["J"], {r["polished_by"] for r in csv.DictReader(
            (out / "results.csv").read_text().splitlines())}
        assert polished == {name} and len(list((out / "masks/a").glob("*.png"))) == 3
        assert (f"polished by {name}" in (out / "report.html").read_text()) == bool(name)
    assert J[""] + .02 < J["guided"] > .95
