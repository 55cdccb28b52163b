"Still images: agreement with the published code and with pysodmetrics, degenerate maps, and what is said of wrong input."
import warnings

import cv2
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from gwm_nb.benchmarks import box_overlap, moca_score, object_box
from gwm_nb.images import (ImageScores, StillImages, border_contact, border_object, e_measure, evaluate_images, f_beta, find_pairs,
                           image_measures, image_sets, precision_recall, s_measure, show_curves, shrink_shorter, threshold_counts)


class Brightness(nn.Module):
    "Two masks: what is dark, and what is bright; or, with `k`, the bright part in k equal shares."
    def __init__(self, k=1):
        super().__init__()
        self.scale, self.k = nn.Parameter(torch.tensor(20.)), k

    def forward(self, image):
        grey = self.scale * (image.mean(1, keepdim=True) - .5)
        return torch.cat([torch.zeros_like(grey), *[grey] * self.k], 1)


def lay_out(root, name="ECSSD", n=3, size=(150, 200), soft=False):
    "Pictures with a bright rectangle, and its masks, in the layout of a data set."
    for folder in (image_sets[name].images, image_sets[name].truth):
        (root / folder).mkdir(parents=True)
    for i in range(n):
        truth = np.zeros(size, np.uint8)
        truth[30 + 5 * i:110, 60:120 + 10 * i] = 200 if soft else 255
        if soft:
            truth[:20, :20] = 100
        picture = np.where(truth[..., None] > 127, 220, 40).astype(np.uint8).repeat(3, -1)
        cv2.imwrite(str(root / image_sets[name].images / f"p{i:03d}.jpg"), picture)
        cv2.imwrite(str(root / image_sets[name].truth / f"p{i:03d}.png"), truth)
    return root


def random_maps(n=12, size=(60, 83)):
    "Smooth maps and truths of all kinds: usual, empty, full, constant, exactly at the levels, of a single pixel."
    g = torch.Generator().manual_seed(0)
    for i in range(n):
        soft = F.avg_pool2d(torch.rand(1, *size, generator=g), 11, 1, 5)[0]
        truth = F.avg_pool2d(torch.rand(1, *size, generator=g), 15, 1, 7)[0] > .5
        soft = ((soft - soft.min()) / (soft.max() - soft.min()) * .6 + .4 * truth).clamp(0, 1)
        yield soft, truth
    one = torch.zeros(size, dtype=torch.bool)
    one[3, 5] = True
    levels = torch.randint(0, 256, size, generator=g) / 255
    for soft in (levels, torch.zeros(size), torch.ones(size), torch.full(size, .3)):
        for truth in (torch.zeros(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool), one, levels > .6):
            yield soft, truth


# ---- golden

@pytest.fixture(scope="module")
def published(golden): return np.load(golden / "eval_imgseg.npz")


def chosen(z, i):
    masks = torch.from_numpy(z[f"prob{i}"])[0]
    return border_object(masks), torch.from_numpy(z[f"gt{i}"])[0] > 0


@pytest.mark.parametrize("i", range(6))
def test_published_measures_of_a_picture(published, i):
    masks, (soft, truth) = torch.from_numpy(published[f"prob{i}"])[0], chosen(published, i)
    np.testing.assert_allclose(border_contact(masks).numpy(), published[f"edgeness{i}"], atol=1e-5)
    assert torch.equal(soft, masks[0 if published[f"swap{i}"] else 1])
    measures = image_measures(soft, truth)
    for name, key in (("accuracy_published", "acc"), ("IoU_published", "iou")):
        assert abs(measures[name].item() - published[f"{key}{i}"]) < 1e-5
    precision, recall = precision_recall(soft, truth, "published")
    np.testing.assert_allclose(precision.numpy(), published[f"fm_p{i}"], atol=1e-5)
    np.testing.assert_allclose(recall.numpy(), published[f"fm_r{i}"], atol=1e-5)
    pair = torch.tensor([published[f"fb_p{i}"].item(), published[f"fb_r{i}"].item()])
    assert abs(measures["F_published"] - f_beta(pair)) < 1e-5


def test_published_measures_of_a_data_set(published):
    scores = ImageScores()
    for i in range(6):
        scores.add(*chosen(published, i))
    result = scores.result()
    for name, key in (("accuracy_published", "acc"), ("IoU_published", "iou"), ("max_F_published", "f_max"), ("F_published", "f_beta")):
        assert abs(result[name] - published[f"agg_{key}"]) < 1e-5, name


# ---- against loops and the field's own tool

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_histograms_count_what_a_loop_counts(dtype):
    levels = torch.arange(256, dtype=dtype) / 255
    for soft, truth in random_maps():
        soft = soft.to(dtype)
        for strict in (False, True):
            counts = threshold_counts(soft, truth, strict)
            codes = (soft * 255).to(torch.uint8)
            for k in range(256):
                mask = soft > levels[k] if strict else codes >= k
                assert counts[:, k].tolist() == [(mask & ~truth).sum(), (mask & truth).sum()], (k, strict)


def test_levels_are_those_of_the_published_code():
    "Which counts up in steps of 1/255 and compares with float32."
    steps = torch.from_numpy(np.arange(0, 1, 1 / 255)[1:].astype(np.float32))
    assert torch.equal(steps, torch.arange(1, 255) / 255)


@pytest.mark.parametrize("normalise", [False, True])
def test_measures_agree_with_pysodmetrics(normalise):
    sod = pytest.importorskip("py_sod_metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tools = dict(F=sod.Fmeasure(), MAE=sod.MAE(), S=sod.Smeasure(), E=sod.Emeasure())
    scores = ImageScores(normalise)
    for soft, truth in random_maps():
        soft = (soft.double() * 255).byte().double() / 255 if normalise else soft.double()
        if normalise and 0 < soft.min() == soft.max() < 1:
            continue                                       # rounding decides their S of a constant map: its variance is 0, or a little more
        scores.add(soft, truth)
        theirs = ((soft * 255).round().byte().numpy(), truth.numpy().astype(np.uint8) * 255) if normalise else (soft.numpy(), truth.numpy())
        for tool in tools.values():
            tool.step(*theirs, normalize=normalise)
        single = image_measures(soft, truth, normalise)
        for name, mine in (("MAE", single["MAE_saliency"]), ("S", single["S_saliency"])):
            last = tools[name].maes[-1] if name == "MAE" else tools[name].sms[-1]
            assert abs(mine.item() - last) < 1e-9, name
        np.testing.assert_allclose(single["E_curve_saliency"].numpy(), tools["E"].changeable_ems[-1][::-1], atol=1e-9)
        np.testing.assert_allclose(single["F_curve_saliency"].numpy(), tools["F"].changeable_fms[-1][::-1], atol=1e-9)
    result, F_, E = scores.result(), tools["F"].get_results(), tools["E"].get_results()["em"]["curve"]
    np.testing.assert_allclose(result["curves"]["precision_curve_saliency"], F_["pr"]["p"][::-1], atol=1e-9)
    np.testing.assert_allclose(result["curves"]["recall_curve_saliency"], F_["pr"]["r"][::-1], atol=1e-9)
    expected = dict(max_F_saliency=F_["fm"]["curve"].max(), max_E_saliency=E.max(), mean_E_saliency=E.mean(),
                    MAE_saliency=tools["MAE"].get_results()["mae"], S_saliency=tools["S"].get_results()["sm"])
    for name, value in expected.items():
        assert abs(result[name] - value) < 1e-9, name


# ---- by hand

def test_values_that_can_be_stated():
    truth = torch.tensor([[True, True, False, False]])
    soft = torch.tensor([[1., .4, .6, 0.]])
    measures = image_measures(soft, truth)
    assert measures["accuracy_published"] == .5 and measures["IoU_published"] == pytest.approx(1 / 3)
    assert measures["IoU_best_of_two"] == pytest.approx(1 / 3) and measures["MAE_saliency"] == pytest.approx(.3)
    precision, recall = precision_recall(soft, truth)
    assert recall[0] == 1 and precision[0] == .5                                   # the lowest level calls everything object
    assert recall[102] == 1 and precision[102] == pytest.approx(2 / 3)             # 0.4 * 255 = 102
    assert recall[103] == .5 and precision[103] == .5 and precision[255] == 1
    assert f_beta(torch.tensor([.5, 1.])) == pytest.approx(1.3 * .5 / (.15 + 1))


@pytest.mark.parametrize("kind", ["empty", "full"])
def test_truth_without_object_or_without_background(kind):
    truth = torch.full((8, 9), kind == "full")
    right, wrong = truth.float(), 1 - truth.float()
    assert s_measure(right, truth) == 1 and s_measure(wrong, truth) == 0
    assert e_measure(right, truth).max() == pytest.approx(72 / 71) and e_measure(wrong, truth)[1:].max() == pytest.approx(0)     # n - 1, as published
    assert image_measures(right, truth)["IoU_published"] == (kind == "full")       # two empty masks: 0, as published
    published, field = (precision_recall(right, truth, p) for p in ("published", "saliency"))
    assert published.eq(1).all() and field.isfinite().all()


def test_rounding_does_not_decide_s_of_a_constant_map():
    truth = torch.zeros(60, 83, dtype=torch.bool)
    truth[3, 5] = True
    values = [s_measure(torch.full((60, 83), v, dtype=torch.float64), truth).item() for v in (76 / 255, .298, .29803, 77 / 255, .25)]
    assert max(values) - min(values) < .03                 # else parts of the picture would count as 0 or 1


def test_measures_are_finite_and_in_their_range():
    for soft, truth in random_maps():
        for normalise in (False, True):
            for name, value in image_measures(soft, truth, normalise).items():
                assert value.isfinite().all() and (value >= 0).all() and (value <= 1 + 1e-3).all(), name


def test_a_little_outside_of_the_range_is_cut():
    truth = torch.tensor([[True, False]])
    assert image_measures(torch.tensor([[1.0000002, -1e-8]]), truth)["MAE_saliency"] == 0


def test_scores_do_not_keep_pictures():
    scores = ImageScores()
    for soft, truth in random_maps(3):
        scores.add(soft, truth)
    assert max(v.numel() for v in scores.sums.values()) == 256 and scores.result()["images"] == 19


def test_mean_of_curves_before_the_maximum():
    truth = torch.tensor([[True, False]])
    scores = ImageScores()
    scores.add(torch.tensor([[.3, .1]]), truth)            # perfect between .1 and .3
    scores.add(torch.tensor([[.9, .7]]), truth)            # perfect between .7 and .9
    assert scores.result()["max_F_saliency"] < .9


# ---- the border

def test_border_contact_counts_sides():
    masks = torch.zeros(3, 20, 30)
    masks[0, :, :2] = 1                                    # all of the left, 2/30 of top and bottom
    masks[1, :2, :10] = 1                                  # a third of the top counts in full
    assert border_contact(masks).tolist() == pytest.approx([1 + 2 * 2 / 30, 1 + 2 / 20, 0])
    assert torch.equal(border_contact(masks[None].repeat(2, 1, 1, 1))[1], border_contact(masks))


def test_border_object_joins_the_others():
    masks = torch.rand(4, 20, 30).softmax(0)
    masks[:, :2], masks[2, :2] = 0, 1
    masks[:, :, :2] = masks[:, :2, :1].mean(1, keepdim=True)
    assert torch.allclose(border_object(masks), masks.sum(0) - masks[border_contact(masks).argmax()], atol=1e-6)
    assert border_object(torch.ones(1, 5, 5)).sum() == 0


# ---- data sets

def test_the_layouts_are_those_of_the_data_scripts():
    assert {n: (s.images, s.square) for n, s in image_sets.items()} == {
        "CUB": ("CUB_200_2011/test_images", True), "Flowers": ("Flowers/test_images", True), "DUTS": ("DUTS/DUTS-TE/DUTS-TE-Image", False),
        "DUT-OMRON": ("DUT_OMRON/DUT-OMRON-image", False), "ECSSD": ("ECSSD/images", False)}


@pytest.mark.parametrize("name", image_sets)
def test_every_data_set(tmp_path, name):
    samples = StillImages(name, lay_out(tmp_path, name))
    shapes = tuple(samples[1]["image"].shape), tuple(samples[1]["mask"].shape)
    assert samples.names == ["p000", "p001", "p002"] and len(samples) == 3
    assert shapes == (((3, 128, 128), (150, 150)) if image_sets[name].square else ((3, 128, 170), (150, 200)))
    result = evaluate_images(Brightness(), name, tmp_path)
    assert result["data"] == name and result["images"] == 3 and result["size"] == 128 and result["IoU_published"] > .95
    assert evaluate_images(Brightness(), name, tmp_path, size=None)["IoU_published"] > .98
    assert samples[-1]["name"] == "p002"
    with pytest.raises(IndexError):
        samples[3]


def test_truth_is_cut_at_half_of_the_scale(tmp_path):
    sample = StillImages("ECSSD", lay_out(tmp_path, soft=True))[0]
    assert sample["mask"].dtype == torch.bool and sample["mask"].sum() == 80 * 60


def test_shorter_side():
    assert shrink_shorter(torch.zeros(3, 300, 400)).shape == (3, 128, 170) and shrink_shorter(torch.zeros(3, 401, 300), 30).shape == (3, 40, 30)
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    assert torch.equal(shrink_shorter(image, None), image / 255)


def test_more_masks_and_merging(tmp_path):
    lay_out(tmp_path)
    merged = []

    def halves(masks, images):
        merged.append((tuple(images.shape), tuple(masks.shape)))
        return torch.stack([masks[:, 0], masks[:, 1:].sum(1)], 1)

    two, four = (evaluate_images(Brightness(k), "ECSSD", tmp_path) for k in (1, 3))
    joined = evaluate_images(Brightness(3), "ECSSD", tmp_path, merge=halves)
    assert four["IoU_published"] == pytest.approx(joined["IoU_published"]) and abs(four["IoU_published"] - two["IoU_published"]) < .05
    assert merged == [((1, 3, 128, 170), (1, 4, 128, 170))] * 3 and (joined["merge"], four["merge"]) == ("halves", None)


def test_merging_by_name(tmp_path, monkeypatch):
    "The ways of merging that videos have, one more of one's own included."
    from gwm_nb import benchmarks
    lay_out(tmp_path)
    measure = lambda k, merge: evaluate_images(Brightness(k), "ECSSD", tmp_path, merge=merge)
    plain, none, border = measure(1, None), measure(1, "none"), measure(3, "border")
    assert (none["merge"], border["merge"]) == ("none", "border") and none["IoU_published"] == plain["IoU_published"]
    assert border["IoU_published"] == evaluate_images(Brightness(3), "ECSSD", tmp_path, merge=benchmarks.by_border)["IoU_published"]
    monkeypatch.setitem(benchmarks.mergers, "first", lambda weights: lambda masks, images: torch.stack([masks[:, 0], 1 - masks[:, 0]], 1))
    assert measure(3, "first")["merge"] == "first"
    for k, merge, says in ((3, "none", "takes two masks, not 4"), (3, "motion", "at least two frames"), (1, "magic", "unknown way of merging 'magic'; choose from spectral")):
        with pytest.raises(ValueError, match=says):
            measure(k, merge)


def test_figures_carry_the_name_of_their_protocol(tmp_path):
    result = evaluate_images(Brightness(), "ECSSD", lay_out(tmp_path))
    figures = {k for k, v in result.items() if isinstance(v, float)}
    assert figures == {"accuracy_published", "IoU_published", "F_published", "max_F_published", "IoU_best_of_two", "MAE_saliency", "S_saliency",
                       "max_F_saliency", "max_E_saliency", "mean_E_saliency"}
    assert "no labels" in result["object"] and {len(c) for n, c in result["curves"].items() if "published" not in n} == {256}


def test_curves_are_drawn(tmp_path):
    import matplotlib.pyplot as plt
    figure = show_curves({"a": evaluate_images(Brightness(), "ECSSD", lay_out(tmp_path))})
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 1]
    plt.close(figure)


@pytest.mark.parametrize("case", ["unknown", "no folder", "no pictures", "no mask", "no picture", "size", "broken", "empty scores", "sizes", "protocol"])
def test_what_is_wrong_is_named(tmp_path, case):
    root, run, words = lay_out(tmp_path), lambda: StillImages("ECSSD", tmp_path), None
    images, truth = root / "ECSSD/images", root / "ECSSD/ground_truth_mask"
    if case == "unknown":
        run, words = lambda: find_pairs("ECSD", root), "unknown data set 'ECSD'; choose from CUB, Flowers, DUTS, DUT-OMRON, ECSSD"
    if case == "no folder":
        run, words = lambda: find_pairs("DUTS", root), "DUTS-TE-Image: no such folder for DUTS; prepare it with data_scripts"
    if case == "no pictures":
        for f in images.iterdir():
            f.unlink()
        words = "images: no images in this folder"
    if case == "no mask":
        (truth / "p001.png").unlink()
        words = "ground_truth_mask: no mask named p001 (1 of 3 are missing)"
    if case == "no picture":
        (images / "p001.jpg").unlink()
        words = "images: no picture named p001 (1 of 3 are missing)"
    if case == "size":
        cv2.imwrite(str(truth / "p001.png"), np.zeros((40, 50), np.uint8))
        run, words = lambda: evaluate_images(Brightness(), "ECSSD", root), "p001.png: this mask is 50x40, but its picture is 200x150"
    if case == "broken":
        (truth / "p002.png").write_bytes(b"no picture")
        run, words = lambda: evaluate_images(Brightness(), "ECSSD", root), "p002.png: not a readable image"
    if case == "empty scores":
        run, words = ImageScores().result, "no picture was added"
    if case == "sizes":
        run, words = lambda: image_measures(torch.zeros(3, 4), torch.zeros(3, 5) > 0), "the mask is (3, 4), the truth (3, 5)"
    if case == "protocol":
        run, words = lambda: precision_recall(torch.zeros(3, 4), torch.zeros(3, 4) > 0, "F1"), "unknown protocol 'F1'; choose saliency or published"
    with pytest.raises((ValueError, FileNotFoundError)) as e:
        run()
    assert words in str(e.value) and "\n" not in str(e.value)


# ---- MoCA

def test_a_box_from_a_mask():
    soft = torch.zeros(40, 80)
    soft[10:20, 20:40], soft[30:32, 60:62] = .2, 1.        # above 0.1 counts; the larger box, not the surer piece
    assert object_box(soft).tolist() == pytest.approx([.25, .25, .5, .5])
    assert object_box(1 - soft).tolist() == pytest.approx([.25, .25, .5, .5])      # inside out, as its border shows
    assert object_box(torch.zeros(4, 5)).tolist() == [0, 0, 0, 0]
    diagonal = torch.eye(10)
    assert object_box(diagonal).tolist() == [0, 0, 1, 1]   # corners touch


def test_a_box_is_not_turned_by_half_of_the_border():
    soft = torch.zeros(10, 10)
    soft[:, :5] = 1.                                       # exactly half of the 36 border pixels
    assert object_box(soft).tolist() == [0, 0, .5, 1]
    soft[:, :6] = 1.
    assert object_box(soft).tolist() == pytest.approx([.6, 0, 1, 1])


def test_overlap_of_boxes():
    truth = torch.zeros(3, 100, 200, dtype=torch.bool)
    truth[:2, 20:60, 40:120] = True
    masks = torch.zeros(3, 50, 100)                        # half the size
    masks[0, 10:30, 20:60], masks[1, 10:30, 20:40], masks[2, 3:9, 3:9] = 1, 1, 1
    assert box_overlap(masks, truth).tolist() == pytest.approx([1, .5, 0])
    assert box_overlap(torch.zeros(1, 5, 5), truth[2:]).tolist() == [0]           # nothing found where nothing is: still no success
    with pytest.raises(ValueError):
        box_overlap(masks[:2], truth)


def test_moca_averages():
    score = moca_score({"a": torch.tensor([.95, .65, .2]), "b": torch.tensor([.5])})
    assert score["J_moca"] == pytest.approx((.6 + .5) / 2) and score["frames"] == 4
    assert [score[f"success_{t}_moca"] for t in (.5, .6, .7, .8, .9)] == [.5, .5, .25, .25, .25] and score["success_moca"] == pytest.approx(.35)
    with pytest.raises(ValueError, match="no clip has boxes"):
        moca_score({})
