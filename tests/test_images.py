"Still images: agreement with the published code and pysodmetrics, degenerate maps, wrong input."
import warnings

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from gwm_nb import merging
from gwm_nb.benchmarks import box_overlap, object_box, protocol_result
from gwm_nb.images import (ImageScores, StillImages, border_contact, border_object, e_measure,
                           evaluate_images, f_beta, find_pairs, image_measures, image_sets,
                           precision_recall, s_measure, threshold_counts)
from inputs import write_image


class Brightness(nn.Module):
    "Two masks: what is dark, and what is bright; or, with `k`, the bright part in k equal shares."
    def __init__(self, k=1):
        super().__init__()
        self.scale, self.k = nn.Parameter(torch.tensor(20.)), k

    def forward(self, image):
        grey = self.scale * (image.mean(1, keepdim=True) - .5)
        return torch.cat([torch.zeros_like(grey), *[grey] * self.k], 1)


def lay_out(root, name="ECSSD", soft=False):
    "Three images with a bright rectangle, and its masks, in the layout of a data set."
    for i in range(3):
        truth = np.zeros((150, 200), np.uint8)
        truth[30 + 5 * i:110, 60:120 + 10 * i] = 200 if soft else 255
        truth[:20, :20] = 100 * soft
        picture = np.where(truth[..., None] > 127, 220, 40).astype(np.uint8).repeat(3, -1)
        write_image(root / image_sets[name].images / f"p{i:03d}.jpg", picture)
        write_image(root / image_sets[name].truth / f"p{i:03d}.png", truth)
    return root


def random_maps(n=8, size=(60, 83)):
    "Smooth maps and truths of all kinds: usual, empty, full, constant, at the levels, one pixel."
    g = torch.Generator().manual_seed(0)
    draw = lambda width: F.avg_pool2d(torch.rand(1, *size, generator=g), width, 1, width // 2)[0]
    for i in range(n):
        soft, truth = draw(11), draw(15) > .5
        soft = (soft - soft.min()) / (soft.max() - soft.min()) * .6 + .4 * truth
        yield soft.clamp(0, 1), truth
    none, one = torch.zeros(2, *size, dtype=torch.bool)
    one[3, 5] = True
    levels = torch.randint(0, 256, size, generator=g) / 255
    for soft in (levels, torch.zeros(size), torch.ones(size), torch.full(size, .3)):
        for truth in (none, ~none, one, levels > .6):
            yield soft, truth


# ---- golden

@pytest.fixture(scope="module")
def published(golden): return np.load(golden / "eval_imgseg.npz")


def chosen(z, i):
    return border_object(torch.from_numpy(z[f"prob{i}"])[0]), torch.from_numpy(z[f"gt{i}"])[0] > 0


@pytest.mark.parametrize("i", range(6))
def test_published_measures_of_a_picture(published, i):
    z = {k.removesuffix(str(i)): published[k] for k in published.files if k.endswith(str(i))}
    masks, (soft, truth) = torch.from_numpy(z["prob"])[0], chosen(published, i)
    assert torch.equal(soft, masks[0 if z["swap"] else 1])
    measures, found = image_measures(soft, truth), precision_recall(soft, truth, "published")
    f = f_beta(torch.tensor([z["fb_p"].item(), z["fb_r"].item()]))
    for ours, theirs in ((border_contact(masks), z["edgeness"]), (found[0], z["fm_p"]),
                         (found[1], z["fm_r"]), (measures["accuracy_published"], z["acc"]),
                         (measures["IoU_published"], z["iou"]), (measures["F_published"], f)):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


def test_published_measures_of_a_data_set(published):
    scores = ImageScores()
    for i in range(6):
        scores.add(*chosen(published, i))
    result = scores.result()
    for name, key in (("accuracy_published", "acc"), ("IoU_published", "iou"),
                      ("max_F_published", "f_max"), ("F_published", "f_beta")):
        assert abs(result[name] - published[f"agg_{key}"]) < 1e-5, name


# ---- against loops and the field's own tool

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_histograms_count_what_a_loop_counts(dtype):
    levels = torch.arange(256, dtype=dtype)[:, None, None] / 255
    for soft, truth in random_maps(3):
        soft = soft.to(dtype)
        codes = (soft * 255).to(torch.uint8)
        at_least = codes >= torch.arange(256)[:, None, None]
        for strict, masks in ((True, soft > levels), (False, at_least)):
            wanted = torch.stack([(masks & t).sum((1, 2)) for t in (~truth, truth)])
            assert threshold_counts(soft, truth, strict).tolist() == wanted.tolist()


@pytest.mark.parametrize("normalise", [False, True])
def test_measures_agree_with_pysodmetrics(normalise):
    sod = pytest.importorskip("py_sod_metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tools = dict(F=sod.Fmeasure(), MAE=sod.MAE(), S=sod.Smeasure(), E=sod.Emeasure())
    scores = ImageScores(normalise)
    near = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    for soft, truth in random_maps():
        soft = (soft.double() * 255).byte().double() / 255 if normalise else soft.double()
        if normalise and 0 < soft.min() == soft.max() < 1:
            continue              # rounding decides their S of a constant map, by its variance
        theirs = soft.numpy(), truth.numpy()
        if normalise:
            theirs = (soft * 255).round().byte().numpy(), truth.numpy().astype(np.uint8) * 255
        for tool in tools.values():
            tool.step(*theirs, normalize=normalise)
        scores.add(soft, truth)
        single = image_measures(soft, truth, normalise)
        near(single["MAE_saliency"], tools["MAE"].maes[-1])
        near(single["S_saliency"], tools["S"].sms[-1])
        near(single["E_curve_saliency"], tools["E"].changeable_ems[-1][::-1])
        near(single["F_curve_saliency"], tools["F"].changeable_fms[-1][::-1])
    result, curves = scores.result(), scores.result()["curves"]
    found, E = tools["F"].get_results(), tools["E"].get_results()["em"]["curve"]
    near(curves["precision_curve_saliency"], found["pr"]["p"][::-1])
    near(curves["recall_curve_saliency"], found["pr"]["r"][::-1])
    for name, value in dict(max_F=found["fm"]["curve"].max(), max_E=E.max(), mean_E=E.mean(),
                            MAE=tools["MAE"].get_results()["mae"],
                            S=tools["S"].get_results()["sm"]).items():
        near(result[f"{name}_saliency"], value)


# ---- by hand

@pytest.mark.parametrize("kind", ["empty", "full"])
def test_truth_without_object_or_without_background(kind):
    truth = torch.full((8, 9), kind == "full")
    right, wrong = truth.float(), 1 - truth.float()
    assert s_measure(right, truth) == 1 and s_measure(wrong, truth) == 0
    assert e_measure(right, truth).max() == pytest.approx(72 / 71)            # n - 1, as published
    assert e_measure(wrong, truth)[1:].max() == pytest.approx(0)
    assert image_measures(right, truth)["IoU_published"] == (kind == "full")  # as published
    assert precision_recall(right, truth, "published").eq(1).all()
    assert precision_recall(right, truth, "saliency").isfinite().all()


def test_scores_do_not_keep_pictures_and_curves_are_averaged_before_the_maximum():
    "Perfect between .1 and .3, and between .7 and .9."
    truth, scores = torch.tensor([[True, False]]), ImageScores()
    for soft in ([.3, .1], [.9, .7]):
        scores.add(torch.tensor([soft]), truth)
    assert scores.result()["max_F_saliency"] < .9 and scores.result()["images"] == 2
    for soft, other in random_maps(1):
        scores.add(soft, other)
    assert max(v.numel() for v in scores.sums.values()) == 256


# ---- data sets

@pytest.mark.parametrize("name", image_sets)
def test_every_data_set(tmp_path, name):
    samples = StillImages(name, lay_out(tmp_path, name))
    shapes = tuple(samples[1]["image"].shape), tuple(samples[1]["mask"].shape)
    square = ((3, 128, 128), (150, 150)), ((3, 128, 170), (150, 200))
    assert shapes == square[not image_sets[name].square]
    assert samples.names == ["p000", "p001", "p002"] and samples[-1]["name"] == "p002"
    with pytest.raises(IndexError):
        samples[3]
    result = evaluate_images(Brightness(), name, tmp_path)
    assert (result["data"], result["images"], result["size"]) == (name, 3, 128)
    assert result["IoU_published"] > .95
    assert evaluate_images(Brightness(), name, tmp_path, size=None)["IoU_published"] > .98


def test_merging_by_name(tmp_path, monkeypatch):
    "The ways of merging that videos have, one more of one's own included."
    lay_out(tmp_path)
    measure = lambda k, merge: evaluate_images(Brightness(k), "ECSSD", tmp_path, merge=merge)
    plain, none, border = measure(1, None), measure(1, "none"), measure(3, "border")
    assert (none["merge"], border["merge"]) == ("none", "border")
    assert none["IoU_published"] == plain["IoU_published"]
    assert border["IoU_published"] == measure(3, merging.merge_by_border)["IoU_published"]
    first = lambda masks, images: torch.stack([masks[:, 0], 1 - masks[:, 0]], 1)
    monkeypatch.setitem(merging.mergers, "first", lambda weights: first)
    assert measure(3, "first")["merge"] == "first"
    for k, merge, says in ((3, "none", "got 4"), (3, "motion", "two frames"),
                           (1, "magic", "'magic'.*spectral")):
        with pytest.raises(ValueError, match=says):
            measure(k, merge)


def samples(root): return StillImages("ECSSD", root)


def measured(root): return evaluate_images(Brightness(), "ECSSD", root)


def remove(place): return lambda root: [file.unlink() for file in root.glob(place)]


TRUTH = "ECSSD/ground_truth_mask"
MAPS = torch.zeros(3, 4), torch.zeros(3, 4) > 0


@pytest.mark.parametrize("spoil, run, says", [
    (None, lambda root: find_pairs("ECSD", root), ["'ECSD'", "'ECSSD'?"]),
    (None, lambda root: find_pairs("DUTS", root), ["DUTS-TE-Image", "data_scripts"]),
    (remove("ECSSD/images/*"), samples, ["images: no images"]),
    (remove(f"{TRUTH}/p001.png"), samples, ["p001", "1 of 3"]),
    (remove("ECSSD/images/p001.jpg"), samples, ["p001", "1 of 3"]),
    (lambda root: write_image(root / TRUTH / "p001.png", np.zeros((40, 50), np.uint8)), measured,
     ["p001.png", "50x40", "200x150"]),
    (lambda root: (root / TRUTH / "p002.png").write_bytes(b"no"), measured, ["p002.png"]),
    (None, lambda root: image_measures(MAPS[0], torch.zeros(3, 5) > 0), ["(3, 4)", "(3, 5)"]),
    (None, lambda root: precision_recall(*MAPS, "F1"), ["'F1'", "saliency", "published"])])
def test_what_is_wrong_is_named(tmp_path, spoil, run, says):
    lay_out(tmp_path)
    if spoil:
        spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as e:
        run(tmp_path)
    assert all(word in str(e.value) for word in says) and "\n" not in str(e.value)


# ---- MoCA

def test_a_box_from_a_mask():
    "Above 0.1 counts; the larger piece, not the surer; inside out, as its border shows."
    soft = torch.zeros(40, 80)
    soft[10:20, 20:40], soft[30:32, 60:62] = .2, 1.
    for mask, box in ((soft, [.25, .25, .5, .5]), (1 - soft, [.25, .25, .5, .5]),
                      (torch.zeros(4, 5), [0] * 4), (torch.eye(10), [0, 0, 1, 1])):  # corners touch
        assert object_box(mask).tolist() == pytest.approx(box)


def test_overlap_of_boxes():
    "The masks have half the size. Nothing found where nothing is: still no success."
    truth, masks = torch.zeros(3, 100, 200, dtype=torch.bool), torch.zeros(3, 50, 100)
    truth[:2, 20:60, 40:120] = True
    masks[0, 10:30, 20:60], masks[1, 10:30, 20:40], masks[2, 3:9, 3:9] = 1, 1, 1
    assert [*map(box_overlap, masks, truth)] == pytest.approx([1, .5, 0])
    assert box_overlap(torch.zeros(5, 5), truth[2]) == 0


def test_moca_averages():
    frames = lambda *values: {t: dict(J=value) for t, value in enumerate(values)}
    score = protocol_result("moca", dict(a=frames(.95, .65, .2), b=frames(.5)), "frames")
    assert score["J"] == pytest.approx((.6 + .5) / 2) and score["frames"] == 4
    rates = [score[f"success {t}"] for t in (.5, .6, .7, .8, .9)]
    assert rates == [.5, .5, .25, .25, .25] and score["success"] == pytest.approx(.35)
