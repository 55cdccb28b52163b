"Polishing masks: what each way promises, what is refused, and the option of gwm_evaluate."
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gwm_nb.polish import (Polished, Polisher, along_flow, crf, enlarged, get_polisher, guided, joined, joint_bilateral, polisher,
                           polishers, trust, with_neighbours)
from test_evaluate import Bright


def needs(name):
    if name == "crf": pytest.importorskip("pydensecrf.densecrf", reason="the crf extra is not installed")


def some_masks(*shape, seed=0, sharpness=3):
    "Soft masks (B,K,h,w), smooth over a few pixels."
    B, K, h, w = shape
    coarse = torch.randn(B, K, max(2, h // 4), max(2, w // 4), generator=torch.Generator().manual_seed(seed))
    return (sharpness * F.interpolate(coarse, (h, w), mode="bicubic")).softmax(1)


def photo(*size, seed=0):
    "Images (1,3,H,W) of smooth colours."
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode="bilinear")


def halves(side=48, edge=24):
    "An image that is black left of `edge` and white right of it."
    image = torch.zeros(1, 3, side, side)
    image[..., edge:] = 1
    return image


def late(side=48, at=27., width=2.):
    "Two soft masks; the second begins at `at`, all rows alike."
    row = torch.sigmoid((torch.arange(side) + .5 - at) / width)
    return torch.stack([1 - row, row])[None, :, None].expand(1, 2, side, side)


# ---- all of them

@pytest.mark.parametrize("K", [2, 4, 7])
@pytest.mark.parametrize("name", ["guided", "bilateral", "crf", "flow"])
def test_they_are_masks_still(name, K):
    needs(name)
    masks, images = some_masks(3, K, 24, 40), photo(72, 120).expand(3, 3, 72, 120)
    before = masks.clone(), images.clone()
    out = polishers[name].apply(masks, images)
    assert out.shape == (3, K, *((24, 40) if name == "flow" else (72, 120))) and out.dtype == torch.float32
    torch.testing.assert_close(out.sum(1), torch.ones_like(out[:, 0]), atol=1e-5, rtol=0)
    assert out.min() >= 0 and out.max() <= 1 + 1e-6
    torch.testing.assert_close((masks, images), before, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["guided", "bilateral", "crf"])
def test_a_batch_is_its_images_one_by_one(name):
    needs(name)
    masks, images = some_masks(2, 3, 20, 30), torch.cat([photo(40, 60, seed=1), photo(40, 60, seed=2)])
    whole = polishers[name].apply(masks, images)
    one = torch.cat([polishers[name].apply(m, i) for m, i in zip(masks.split(1), images.split(1))])
    torch.testing.assert_close(whole, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name, most", [("guided", 0), ("bilateral", 1), ("crf", 0)])
def test_an_edge_of_the_image_attracts_that_of_the_mask(name, most):
    needs(name)
    begins = lambda masks: (masks[0, 1] > .5).float().argmax(-1)
    assert (begins(late()) == 27).all()
    assert ((begins(polishers[name].apply(late(), halves())) - 24).abs() <= most).all()


@pytest.mark.parametrize("name", ["guided", "bilateral", "crf", "flow"])
@pytest.mark.parametrize("masks, images, message", [
    (torch.rand(2, 2, 20, 30), torch.rand(3, 3, 40, 60), r"\(2, 2, 20, 30\) and \(3, 3, 40, 60\)"),
    (torch.rand(2, 20, 30), torch.rand(2, 3, 40, 60), r"masks must be \(B,K,h,w\)"),
    (torch.rand(2, 2, 20, 30), torch.rand(2, 1, 40, 60), r"images \(B,3,H,W\)"),
    (torch.rand(2, 2, 20, 30), torch.zeros(2, 3, 40, 60, dtype=torch.uint8), "torch.uint8")])
def test_what_does_not_belong_together_is_refused(name, masks, images, message):
    if name == "flow" and len(masks) != len(images): message = r"masks must be|flows must be"
    with pytest.raises(ValueError, match=message): polishers[name].apply(masks, images)


@pytest.mark.parametrize("way", [guided, joint_bilateral])
@pytest.mark.parametrize("radius", [0, 20])
def test_a_window_that_does_not_fit_is_refused(way, radius):
    with pytest.raises(ValueError, match=f"not {radius} for 30x20"): way(some_masks(1, 2, 10, 15), photo(20, 30), radius)
    way(some_masks(1, 2, 10, 15), photo(20, 30), 19 if radius else 1)


def test_unknown_names_and_new_ones():
    with pytest.raises(ValueError, match="'crff'; choose from guided, bilateral, crf, flow"): get_polisher("crff")

    @polisher("sharp", about="strongest mask")
    def sharp(masks, images): return F.one_hot(masks.argmax(1), masks.shape[1]).movedim(-1, 1).float()

    try: assert get_polisher("sharp") == Polisher(sharp, "strongest mask", 0)
    finally: del polishers["sharp"]


# ---- joined

def film(seed=0):
    "Soft masks (5,2,20,30) that flicker, and images (5,3,60,90) of a texture that moves."
    picture = photo(60, 90, seed=seed)
    return some_masks(5, 2, 20, 30, seed=seed), torch.cat([picture.roll(2 * t, -1) for t in range(5)])


@pytest.mark.parametrize("name, by_hand", [
    ("flow+guided", lambda m, x: guided(with_neighbours(m, x), x)),
    ("guided+flow", lambda m, x: with_neighbours(guided(m, x), x)),
    ("flow+bilateral+flow", lambda m, x: with_neighbours(joint_bilateral(with_neighbours(m, x), x), x))])
def test_names_with_a_plus_are_one_after_the_other(name, by_hand):
    masks, images = film()
    torch.testing.assert_close(get_polisher(name).apply(masks, images), by_hand(masks, images), atol=0, rtol=0)


def test_the_order_counts():
    out = {name: get_polisher(name).apply(*film()) for name in ("flow+guided", "guided+flow")}
    assert (out["flow+guided"] - out["guided+flow"]).abs().max() > .05


def test_what_the_parts_say_and_see_adds_up():
    way = get_polisher("flow+guided+flow")
    assert way.reach == 2 and [p.apply for p in way.parts] == [with_neighbours, guided, with_neighbours]
    assert way.about == "mean with the frames beside, along the flow; then colour guided filter; then mean with the frames beside, along the flow"
    assert get_polisher("guided+bilateral").reach == 0 and get_polisher("guided") is polishers["guided"]


@pytest.mark.parametrize("name", ["flow+guided", "guided+flow", "flow+flow"])
def test_the_reach_of_joined_polishers_is_enough(name):
    "Frame 2 from the frames within reach, and from all; one frame less on either side is too few."
    (masks, images), way = film(), get_polisher(name)
    whole = way.apply(masks, images)[2]
    near = lambda reach: way.apply(masks[2 - reach:3 + reach], images[2 - reach:3 + reach])[reach]
    torch.testing.assert_close(near(way.reach), whole, atol=1e-5, rtol=0)
    assert (near(way.reach - 1) - whole).abs().max() > .01


@pytest.mark.parametrize("name", ["flow+guided", "guided+flow", "flow+bilateral+flow"])
def test_a_sequence_of_joined_polishers_is_the_whole_at_once(name):
    masks, images = film()
    frames = [(255 * x).round().byte() for x in images]
    whole = get_polisher(name).apply(masks, torch.stack(frames).float() / 255)
    lazy = Polished(masks, frames, get_polisher(name))
    for t in (4, 0, 2): torch.testing.assert_close(lazy[t].float(), whole[t], atol=3e-3, rtol=0)


def test_each_part_makes_its_frames_once():
    asked = {"first": 0, "second": 0}

    def counting(name):
        def apply(masks, images):
            asked[name] += len(masks)
            return masks
        return apply

    alone = Polisher(counting("first"), "", reach=0), Polisher(counting("second"), "", reach=1)
    lazy = Polished(torch.zeros(4, 2, 5, 6), [torch.zeros(3, 5, 6, dtype=torch.uint8)] * 4, joined(alone))
    assert len(list(lazy)) == 4 and asked == {"first": 4, "second": 2 + 3 + 3 + 2}


@pytest.mark.parametrize("name, wrong", [("flow+wax", "'wax' in 'flow+wax'"), ("wax+flow", "'wax' in 'wax+flow'"), ("flow+", "'' in 'flow+'"),
                                         ("flow + guided", "'flow ' in 'flow + guided'"), ("", "''")])
def test_unknown_parts_are_named(name, wrong):
    with pytest.raises(ValueError) as caught: get_polisher(name)
    assert str(caught.value) == f"unknown polisher {wrong}; choose from guided, bilateral, crf, flow, or several joined by +"


def test_a_name_with_a_plus_cannot_be_registered():
    with pytest.raises(ValueError, match=r"'flow\+wax': \+ joins the names"): polisher("flow+wax", about="")
    assert "flow+wax" not in polishers


# ---- by colour

def test_without_colours_the_filters_only_blur():
    masks, grey = some_masks(1, 2, 40, 40), torch.full((1, 3, 40, 40), .3)
    mean = lambda m: cv2.blur(m, (9, 9), borderType=cv2.BORDER_REFLECT_101)
    twice = np.stack([mean(mean(m)) for m in masks[0].numpy()])
    np.testing.assert_allclose(guided(masks, grey, radius=4)[0], twice, atol=1e-4)
    gauss = np.stack([cv2.GaussianBlur(m, (9, 9), 2., borderType=cv2.BORDER_REFLECT_101) for m in masks[0].numpy()])
    np.testing.assert_allclose(joint_bilateral(masks, grey, radius=4, space=2.)[0], gauss, atol=1e-4)


def test_the_guided_filter_is_least_squares_in_windows():
    "One pixel by hand: the mean of what all windows that contain it say."
    masks, image, r, eps, (y, x) = some_masks(1, 2, 17, 19), photo(17, 19), 2, 1e-3, (8, 9)
    said = []
    for cy in range(y - r, y + r + 1):
        for cx in range(x - r, x + r + 1):
            window = np.s_[cy - r:cy + r + 1, cx - r:cx + r + 1]
            c = image[0][(slice(None), *window)].reshape(3, -1).T.double()
            m = masks[0, 1][window].reshape(-1).double()
            C = (c - c.mean(0)).T @ (c - c.mean(0)) / len(c)
            a = torch.linalg.solve(C + eps * torch.eye(3), (c - c.mean(0)).T @ (m - m.mean()) / len(c))
            said.append(a @ (image[0, :, y, x].double() - c.mean(0)) + m.mean())
    assert abs(guided(masks, image, r, eps)[0, 1, y, x] - sum(said) / len(said)) < 1e-4


def test_masks_grow_to_the_image_and_stay_where_they_are():
    masks = some_masks(1, 3, 12, 20)
    expected = F.interpolate(masks, (48, 80), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged(masks, torch.rand(1, 3, 48, 80)), expected, atol=0, rtol=0)
    assert enlarged(masks > .5, torch.rand(1, 3, 12, 20)).dtype == torch.float32


# ---- CRF

def mean_field(masks, image, updates, gaussian, bilateral):
    "The updates of Krähenbühl and Koltun, with whole matrices of all pairs: masks (K,h,w), image (3,h,w)."
    K, h, w = masks.shape
    y, x = np.mgrid[:h, :w].reshape(2, -1)
    colours = np.round(image.numpy() * 255).reshape(3, -1)
    kernels = []
    for features, compat in ((np.stack([x, y]) / gaussian[0], gaussian[1]),
                             (np.concatenate([np.stack([x, y]) / bilateral[0], colours / bilateral[1]]), bilateral[2])):
        k = np.exp(-((features[:, :, None] - features[:, None])**2).sum(0) / 2)
        norm = 1 / np.sqrt(k.sum(1))
        kernels.append(compat * norm[:, None] * k * norm)
    unary = np.log(np.maximum(masks.reshape(K, -1).numpy().astype(float), 1e-6))
    q = np.exp(unary) / np.exp(unary).sum(0)
    for _ in range(updates):
        energy = unary + q @ sum(kernels)
        q = np.exp(energy - energy.max(0))
        q /= q.sum(0)
    return q.reshape(K, h, w)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("updates, seed", [(1, 0), (1, 1), (1, 2), (1, 3), (10, 1)])
def test_the_crf_is_the_mean_field_of_all_pairs(K, updates, seed):
    "On 6x6 pixels. The package approximates the Gaussians, and where two labels are close, many updates tell: one is compared."
    needs("crf")
    masks = some_masks(1, K, 6, 6, seed=seed, sharpness=1)
    image = halves(6, 3) * .5 + .1 * torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    settings = dict(updates=updates, gaussian=(1, 3), bilateral=(67, 30, 4))
    slow, fast = mean_field(masks[0], image[0], **settings), crf(masks, image, **settings)[0].numpy()
    assert np.abs(fast - slow).max() < .04 and np.abs(masks[0].numpy() - slow).max() > .2
    wrong = mean_field(masks[0], image[0], **settings | dict(gaussian=(1, 1)))
    assert np.abs(fast - wrong).max() > np.abs(fast - slow).max()


def test_without_updates_the_crf_changes_nothing():
    needs("crf")
    masks = some_masks(1, 3, 10, 12)
    torch.testing.assert_close(crf(masks, photo(10, 12), updates=0), masks, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changed, moves", [(dict(gaussian=(1, 0), bilateral=(67, 3, 0)), False), (dict(gaussian=(1, 0)), True),
                                            (dict(bilateral=(67, 3, 0)), True)])
def test_each_weight_counts(changed, moves):
    needs("crf")
    masks, image = some_masks(1, 2, 20, 24, sharpness=1), photo(20, 24)
    assert ((crf(masks, image, **changed) - masks).abs().max() > .05) == moves


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ValueError, match=r"^the CRF needs one more package: pip install 'gwm_nb\[crf\]'$"):
        crf(some_masks(1, 2, 8, 8), photo(8, 8))


# ---- along the flow

def test_masks_that_agree_and_rest_stay():
    masks, none = some_masks(1, 3, 12, 16).expand(4, 3, 12, 16), torch.zeros(3, 2, 12, 16)
    torch.testing.assert_close(along_flow(masks, none, none), masks, atol=1e-6, rtol=0)


def test_all_frames_count_alike_where_nothing_is_hidden():
    masks, none = some_masks(3, 2, 12, 16), torch.zeros(2, 2, 12, 16)
    out = along_flow(masks, none, none)
    torch.testing.assert_close(out[1], masks.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(out[0], masks[:2].mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(out[2], masks[1:].mean(0), atol=1e-6, rtol=0)


def test_masks_are_followed():
    "A mask that moves by (3, 1) pixels a frame, all on one line of the flow."
    first = some_masks(1, 2, 20, 30)[0]
    masks = torch.stack([first.roll((t, 3 * t), (-2, -1)) for t in range(3)])
    there = torch.tensor([3., 1])[None, :, None, None].expand(2, 2, 20, 30)
    out = along_flow(masks, there, -there)
    inside = np.s_[1, :, 1:-1, 3:-3]
    torch.testing.assert_close(out[inside], masks[inside], atol=1e-5, rtol=0)
    assert (along_flow(masks, -there, there)[inside] - masks[inside]).abs().max() > .1


def test_hidden_pixels_keep_their_own():
    masks = some_masks(2, 2, 16, 20)
    there, back = torch.zeros(1, 2, 16, 20), torch.zeros(1, 2, 16, 20)
    there[..., :8] = 6                      # and nothing leads back from where they end
    out = along_flow(masks, there, back)
    torch.testing.assert_close(out[0, ..., :8], masks[0, ..., :8], atol=1e-6, rtol=0)
    torch.testing.assert_close(out[0, ..., 8:], masks.mean(0)[..., 8:], atol=1e-6, rtol=0)


def test_what_flows_out_of_the_frame_keeps_its_own():
    "Flow there and back agree, but the other frame does not show the last five columns."
    masks = some_masks(2, 2, 16, 20)
    there = torch.tensor([5., 0])[None, :, None, None].expand(1, 2, 16, 20)
    out = along_flow(masks, there, -there, tolerance=100.)
    torch.testing.assert_close(out.sum(1), torch.ones(2, 16, 20), atol=1e-6, rtol=0)
    torch.testing.assert_close(out[0, ..., -5:], masks[0, ..., -5:], atol=1e-6, rtol=0)
    assert (out[0, ..., :-5] - masks[0, ..., :-5]).abs().max() > .1


def test_trust_falls_with_the_error():
    flow = torch.zeros(3, 2, 8, 8)
    back = torch.zeros(3, 2, 8, 8)
    back[1, 0], back[2, 0] = 1, 3
    torch.testing.assert_close(trust(flow, back)[:, 0, 4, 4], torch.tensor([1., np.exp(-1.), np.exp(-9.)]).float())
    torch.testing.assert_close(trust(flow, back, 3.)[2, 0, 4, 4], torch.tensor(np.exp(-1.)).float())


@pytest.mark.parametrize("there, back", [((2, 2, 12, 16), (2, 2, 12, 15)), ((3, 2, 12, 16), (2, 2, 12, 16)), ((2, 2, 24, 32), (2, 2, 24, 32))])
def test_flows_of_another_size_are_refused(there, back):
    with pytest.raises(ValueError, match=r"flows must be \(2, 2, 12, 16\), not .*; resize_flow first"):
        along_flow(some_masks(3, 4, 12, 16), torch.zeros(there), torch.zeros(back))


def test_flow_is_estimated_between_the_frames():
    "A textured picture moves by 4 pixels, masks are half its size and flicker in the middle."
    picture = F.interpolate(torch.rand(1, 3, 24, 36, generator=torch.Generator().manual_seed(0)), (96, 144), mode="bicubic").clamp(0, 1)
    images = torch.cat([picture.roll(4 * t, -1) for t in range(3)])
    first = some_masks(1, 2, 48, 72)[0]
    right = torch.stack([first.roll(2 * t, -1) for t in range(3)])
    wrong = right.clone()
    wrong[1, :, 20:28, 30:40] = .5
    out = with_neighbours(wrong, images)
    hole = np.s_[1, :, 21:27, 31:39]
    gain = (out[hole] - right[hole]).abs().mean() / (wrong[hole] - right[hole]).abs().mean()
    assert .25 < gain < .45                 # the frame itself is one of three
    torch.testing.assert_close(with_neighbours(right[:1], images[:1]), right[:1], atol=0, rtol=0)


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
    for t in (3, 0, 2, 2): torch.testing.assert_close(sequence[t], torch.full((2, 5, 6), .2 * t).half())
    assert [n for n, _, _ in asked] == [2, 2, 3] and asked[0][1:] == (pytest.approx(.6), torch.float32)
    assert [float(m.max()) for m in sequence] == pytest.approx([0, .2, .4, .6], abs=1e-3)
    with pytest.raises(IndexError): sequence[4]
    with pytest.raises(ValueError, match="4 masks cannot belong to 3 frames"): Polished(masks, frames[:3], None)


@pytest.fixture
def run(tmp_path):
    "A saved network, and two clips with annotations: a bright disk on a dark ground."
    from gwm_nb.checkpoints import save
    from gwm_nb.network import create_network
    torch.manual_seed(0)
    save(create_network("small", num_masks=2), tmp_path / "network.safetensors")
    for clip in "ab":
        for kind in ("JPEGImages", "Annotations"): (tmp_path / "clips" / kind / clip).mkdir(parents=True)
        for t in range(3):
            mask = np.zeros((48, 64), np.uint8)
            cv2.circle(mask, (24 + 4 * t, 24), 12, 255, -1)
            cv2.imwrite(str(tmp_path / f"clips/Annotations/{clip}/{t}.png"), mask)
            cv2.imwrite(str(tmp_path / f"clips/JPEGImages/{clip}/{t}.png"), np.repeat(mask[..., None] // 2 + 60, 3, 2))
    return tmp_path


def evaluated(run, *options):
    program = [sys.executable, "-c", "from gwm_nb.commands import gwm_evaluate; gwm_evaluate()"]
    return subprocess.run([*program, *options], cwd=run, capture_output=True, text=True)


def test_the_command_tells_how_masks_were_polished(run):
    plain = evaluated(run, "network.safetensors", "--data", "clips", "--size", "48x64")
    done = evaluated(run, "network.safetensors", "--data", "clips", "--size", "48x64", "--polish", "guided", "--save", "out")
    assert plain.returncode == done.returncode == 0, done.stderr
    captions = [line for line in done.stdout.splitlines() if ": " in line and "mean over" in line]
    assert len(captions) == 5 and all("; polished by guided; " in c for c in captions)
    assert "polished by" not in plain.stdout
    lines = (run / "out/results.csv").read_text().splitlines()
    column = lines[0].split(",").index("polished_by")
    assert {line.split(",")[column] for line in lines[1:]} == {"guided"}
    assert len(list((run / "out/masks/a").glob("*.png"))) == 3 and "polished by guided" in (run / "out/report.html").read_text()


def test_the_command_joins_polishers(run):
    options = "network.safetensors", "--data", "clips", "--size", "48x64", "--protocol", "label-free", "--save"
    for name in ("guided", "flow+guided"):
        done = evaluated(run, *options, name, "--polish", name)
        assert done.returncode == 0 and f"; polished by {name}; " in done.stdout, done.stderr
        assert f",{name}," in (run / name / "results.csv").read_text()
    done = evaluated(run, "network.safetensors", "--data", "clips", "--polish", "flow+wax")
    assert done.returncode and "unknown polisher 'wax' in 'flow+wax'; choose from guided," in done.stderr
    assert "Traceback" not in done.stderr


def test_clips_are_named_on_the_command_line(run):
    done = evaluated(run, "network.safetensors", "--data", "clips", "--size", "48x64", "--protocol", "label-free", "--clips", "b")
    assert done.returncode == 0 and done.stdout.split()[4] == "b", done.stdout + done.stderr


def test_a_wrong_polish_is_one_line(run):
    done = evaluated(run, "network.safetensors", "--data", "clips", "--polish", "wax")
    assert done.returncode and "unknown polisher 'wax'; choose from guided, bilateral, crf, flow" in done.stderr
    assert "Traceback" not in done.stderr
    done = evaluated(run, "--predictions", "clips/Annotations", "--data", "clips", "--polish", "guided")
    assert done.returncode and "--predictions are measured as they are" in done.stderr


def test_polished_masks_are_measured(run):
    "The network sees the disk at a quarter of its size; the guided filter finds its outline again."
    from gwm_nb.benchmarks import polished_source, evaluate_files, get_merger, predicted
    look = lambda clip, names, truths: predicted(Bright(), clip, truths, get_merger("none"), (12, 16))
    J = {}
    for name in ("", "guided"):
        way = polished_source(look, name) if name else look
        J[name], = (r["J"] for r in evaluate_files(way, run / "clips", ["label-free"], polish=name))
    assert J[""] + .02 < J["guided"] > .95
