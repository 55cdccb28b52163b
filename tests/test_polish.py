"Polishing masks: what each way promises, what is refused, and the option of gwm_evaluate."
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gwm_nb import benchmarks
from gwm_nb.polish import (Polished, Polisher, along_flow, crf, get_polisher, guided, polishers,
                           with_neighbours)
from inputs import Bright, write_image


def needs(name):
    if name == "crf":
        pytest.importorskip("pydensecrf.densecrf", reason="the crf extra is not installed")


def near(a, b, atol=0.): torch.testing.assert_close(a, b, atol=atol, rtol=0)


def some_masks(*shape, seed=0, sharpness=3):
    "Soft masks (B,K,h,w), smooth over a few pixels."
    B, K, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(B, K, max(2, h // 4), max(2, w // 4), generator=generator)
    return (sharpness * F.interpolate(coarse, (h, w), mode="bicubic")).softmax(1)


def photo(*size, seed=0):
    "Images (1,3,H,W) of smooth colours."
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode="bilinear")


def halves(side=48, edge=24):
    "An image that is black left of `edge` and white right of it."
    return (torch.arange(side) >= edge).float().expand(1, 3, side, side)


def late(side=48, at=27., width=2.):
    "Two soft masks; the second begins at `at`, all rows alike."
    row = torch.sigmoid((torch.arange(side) + .5 - at) / width)
    return torch.stack([1 - row, row])[None, :, None].expand(1, 2, side, side)


# ---- all of them

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
    masks = torch.cat([some_masks(1, 2, 48, 48), late()])
    images = torch.cat([photo(48, 48), halves()])
    found = polishers[name].apply(masks, images)
    near(found[:1], polishers[name].apply(masks[:1], images[:1]), 1e-5)
    assert (begins(late()) == 27).all() and ((begins(found[1:]) - 24).abs() <= most).all()


@pytest.mark.parametrize("name", ["guided", "bilateral", "crf", "flow"])
@pytest.mark.parametrize("masks, images, says", [
    (torch.rand(2, 2, 20, 30), torch.rand(3, 3, 40, 60), r"\(2, 2, 20, 30\)"),
    (torch.rand(2, 2, 20, 30), torch.rand(2, 1, 40, 60), r", 1, 40, 60\)"),
    (torch.rand(2, 2, 20, 30), torch.zeros(2, 3, 40, 60, dtype=torch.uint8), "torch.uint8")])
def test_what_does_not_belong_together_is_refused(name, masks, images, says):
    with pytest.raises(ValueError, match=says):
        polishers[name].apply(masks, images)


@pytest.mark.parametrize("radius", [0, 20])
def test_a_window_that_does_not_fit_is_refused(radius):
    with pytest.raises(ValueError, match=f"{radius} for 30x20"):
        guided(some_masks(1, 2, 10, 15), photo(20, 30), radius)


# ---- joined

def film():
    "Soft masks (5,2,20,30) that flicker, and images (5,3,60,90) of a texture that moves."
    picture = photo(60, 90)
    return some_masks(5, 2, 20, 30), torch.cat([picture.roll(2 * t, -1) for t in range(5)])


@pytest.mark.parametrize("name, by_hand", [
    ("flow+guided", lambda m, x: guided(with_neighbours(m, x), x)),
    ("guided+flow", lambda m, x: with_neighbours(guided(m, x), x)),
    ("flow+guided+flow", lambda m, x: with_neighbours(guided(with_neighbours(m, x), x), x))])
def test_names_with_a_plus_are_one_after_the_other(name, by_hand):
    "Also frame by frame, as a sequence that is polished where it is asked for."
    masks, images = film()
    frames = [(255 * x).round().byte() for x in images]
    images = torch.stack(frames).float() / 255
    whole = get_polisher(name).apply(masks, images)
    near(whole, by_hand(masks, images))
    lazy = Polished(masks, frames, get_polisher(name))
    for t in (4, 0, 2):
        near(lazy[t].float(), whole[t], 3e-3)


# ---- by colour

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


# ---- CRF

def mean_field(masks, image, updates, gaussian, bilateral):
    "The updates of Krähenbühl and Koltun on all pairs: masks (K,h,w), image (3,h,w)."
    K, h, w = masks.shape
    place = np.mgrid[:h, :w].reshape(2, -1)
    colours = np.round(image.numpy() * 255).reshape(3, -1)

    def kernel(features, compat):
        k = np.exp(-((features[:, :, None] - features[:, None])**2).sum(0) / 2)
        norm = 1 / np.sqrt(k.sum(1))
        return compat * norm[:, None] * k * norm
    appearance = np.concatenate([place / bilateral[0], colours / bilateral[1]])
    kernels = kernel(place / gaussian[0], gaussian[1]) + kernel(appearance, bilateral[2])
    unary = np.log(np.maximum(masks.reshape(K, -1).numpy().astype(float), 1e-6))
    q = np.exp(unary) / np.exp(unary).sum(0)
    for _ in range(updates):
        energy = unary + q @ kernels
        q = np.exp(energy - energy.max(0))
        q /= q.sum(0)
    return q.reshape(K, h, w)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("updates, seed", [(1, 0), (10, 1)])
def test_the_crf_is_the_mean_field_of_all_pairs(K, updates, seed):
    "On 6x6 pixels. The package approximates the Gaussians: for many updates, one draw is enough."
    needs("crf")
    masks = some_masks(1, K, 6, 6, seed=seed, sharpness=1)
    noise = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    image = halves(6, 3) * .5 + .1 * noise
    settings = dict(updates=updates, gaussian=(1, 3), bilateral=(67, 30, 4))
    slow = mean_field(masks[0], image[0], **settings)
    fast = crf(masks, image, **settings)[0].numpy()
    assert np.abs(fast - slow).max() < .04 and np.abs(masks[0].numpy() - slow).max() > .2
    wrong = mean_field(masks[0], image[0], **settings | dict(gaussian=(1, 1)))
    assert np.abs(fast - wrong).max() > np.abs(fast - slow).max()


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ValueError, match=r"^.*pip install 'gwm_nb\[crf\]'$"):
        crf(some_masks(1, 2, 8, 8), photo(8, 8))


# ---- along the flow

def test_masks_are_followed():
    "A mask that moves by (3, 1) pixels a frame, all on one line of the flow."
    first = some_masks(1, 2, 20, 30)[0]
    masks = torch.stack([first.roll((t, 3 * t), (-2, -1)) for t in range(3)])
    there = torch.tensor([3., 1])[None, :, None, None].expand(2, 2, 20, 30)
    inside = np.s_[1, :, 1:-1, 3:-3]
    near(along_flow(masks, there, -there)[inside], masks[inside], 1e-5)
    assert (along_flow(masks, -there, there)[inside] - masks[inside]).abs().max() > .1


def test_hidden_pixels_keep_their_own():
    masks, (there, back) = some_masks(2, 2, 16, 20), torch.zeros(2, 1, 2, 16, 20)
    there[..., :8] = 6                      # and nothing leads back from where they end
    out = along_flow(masks, there, back)
    near(out[0, ..., :8], masks[0, ..., :8], 1e-6)
    near(out[0, ..., 8:], masks.mean(0)[..., 8:], 1e-6)


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


# ---- a sequence

def test_a_sequence_is_polished_where_it_is_asked_for():
    asked = []

    def apply(masks, images):
        asked.append((len(masks), float(images.max()), images.dtype))
        return masks + images[:, :1]

    masks = torch.zeros(4, 2, 5, 6)
    frames = [torch.full((3, 5, 6), 51 * t, dtype=torch.uint8) for t in range(4)]
    sequence = Polished(masks, frames, Polisher(apply, "", reach=1))
    assert not asked and len(sequence) == 4
    for t in (3, 0, 2, 2):
        near(sequence[t], torch.full((2, 5, 6), .2 * t).half())
    assert [n for n, _, _ in asked] == [2, 2, 3]
    assert asked[0][1:] == (pytest.approx(.6), torch.float32)
    assert [float(m.max()) for m in sequence] == pytest.approx([0, .2, .4, .6], abs=1e-3)
    with pytest.raises(IndexError):
        sequence[4]
    with pytest.raises(ValueError, match="4 masks .* 3 frames"):
        Polished(masks, frames[:3], None)


@pytest.fixture
def run(tmp_path):
    "A saved network, and two clips with annotations: a bright disk on a dark ground."
    from gwm_nb.checkpoints import save
    from gwm_nb.network import create_network
    torch.manual_seed(0)
    save(create_network("small", num_masks=2), tmp_path / "network.safetensors")
    for name in (f"{clip}/{t}.png" for clip in "ab" for t in range(3)):
        mask = np.zeros((48, 64), np.uint8)
        cv2.circle(mask, (24 + 4 * int(name[2]), 24), 12, 255, -1)
        write_image(tmp_path / "clips/Annotations" / name, mask)
        write_image(tmp_path / "clips/JPEGImages" / name, np.stack([mask // 2 + 60] * 3, 2))
    return tmp_path


@pytest.fixture
def evaluate(run, call):
    from gwm_nb.commands import gwm_evaluate
    return lambda *argv: call(gwm_evaluate, *argv, "--data", "clips", cwd=run)


@pytest.mark.parametrize("polish", ["", "guided", "flow+guided"])
def test_the_command_tells_how_masks_were_polished(polish, run, evaluate):
    options = ["--polish", polish] if polish else []
    printed, end = evaluate("network.safetensors", "--size", "48x64", "--save", "out", *options)
    captions = [line for line in printed.splitlines() if "mean over" in line]
    told = [f"; polished by {polish}; " in c if polish else "polished" not in c for c in captions]
    assert end is None and told == [True] * 5
    names, *rows = (line.split(",") for line in (run / "out/results.csv").read_text().splitlines())
    assert {row[names.index("polished_by")] for row in rows} == {polish}
    assert len(list((run / "out/masks/a").glob("*.png"))) == 3
    assert (f"polished by {polish}" in (run / "out/report.html").read_text()) == bool(polish)


@pytest.mark.parametrize("argv, says", [
    (["network.safetensors", "--polish", "flow+wax"], ["'wax'", "guided, "]),
    (["--predictions", "clips/Annotations", "--polish", "guided"], ["--predictions", "--polish"])])
def test_a_wrong_polish_is_one_line(argv, says, evaluate):
    _, end = evaluate(*argv)
    assert all(word in end for word in says)


def test_polished_masks_are_measured(run, monkeypatch):
    "The network sees the disk at a quarter of its size; the guided filter finds its outline again."
    monkeypatch.setattr(benchmarks, "load_any", lambda path: Bright())
    J = {}
    for name in ("", "guided"):
        source, _ = benchmarks.mask_source("bright", size="12x16", polish=name)
        result, = benchmarks.evaluate_files(source, run / "clips", ["label-free"], polish=name)
        J[name] = result["J"]
    assert J[""] + .02 < J["guided"] > .95
