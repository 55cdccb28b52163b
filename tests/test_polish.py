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
from gwm_nb.polish import crf, guided, polishers, with_neighbours
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
