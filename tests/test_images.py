"Still images: agreement with the published code and pysodmetrics, degenerate maps, wrong input."
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gwm_nb import merging
from gwm_nb.benchmarks import box_overlap, object_box
from gwm_nb.images import (ImageScores, StillImages, border_contact, border_object, evaluate_images,
                           f_beta, image_measures, image_sets, precision_recall)
from inputs import Bright, refused, remove, write_image


def lay_out(root, name="ECSSD"):
    "Three images with a bright rectangle, and its masks, in the layout of a data set."
    for i in range(3):
        truth = np.zeros((150, 200), np.uint8)
        truth[30 + 5 * i:110, 60:120 + 10 * i] = 255
        picture = np.where(truth[..., None], 220, 40).astype(np.uint8).repeat(3, -1)
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


def test_published_measures(golden):
    z, scores = np.load(golden / "eval_imgseg.npz"), ImageScores()
    near = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for i in range(6):
        one = {k.removesuffix(str(i)): z[k] for k in z.files if k.endswith(str(i))}
        masks, truth = torch.from_numpy(one["prob"])[0], torch.from_numpy(one["gt"])[0] > 0
        soft = border_object(masks)
        assert torch.equal(soft, masks[0 if one["swap"] else 1])
        scores.add(soft, truth)
        measures, found = image_measures(soft, truth), precision_recall(soft, truth, "published")
        near(border_contact(masks), one["edgeness"])
        near(found, [one["fm_p"], one["fm_r"]])
        f = f_beta(torch.tensor([one["fb_p"].item(), one["fb_r"].item()]))
        near([measures[f"{name}_published"] for name in ("accuracy", "IoU", "F")],
             [one["acc"], one["iou"], f])
    for name, key in (("accuracy_published", "acc"), ("IoU_published", "iou"),
                      ("max_F_published", "f_max"), ("F_published", "f_beta")):
        near(scores.result()[name], z[f"agg_{key}"])


@pytest.mark.parametrize("normalise, wanted", [
    (False, [.466234, .614713, .455401, .418897, .597841, .369943, .535811]),
    (True, [.558895, .662455, .472845, .414828, .599176, .426158, .601497])])
def test_measures_agree_with_pysodmetrics(normalise, wanted):
    "Recorded with pysodmetrics 1.6.2: F, E, mean E, MAE, S, and the means of precision and recall."
    scores = ImageScores(normalise)
    for soft, truth in random_maps():
        soft = (soft.double() * 255).byte().double() / 255 if normalise else soft.double()
        if not normalise or soft.min() < soft.max() or soft.min() in (0, 1):
            scores.add(soft, truth)     # rounding decides their S of other constant maps
    result, curves = scores.result(), scores.result()["curves"]
    found = [result[f"{name}_saliency"] for name in ("max_F", "max_E", "mean_E", "MAE", "S")]
    found += [np.mean(curves[f"{name}_curve_saliency"]) for name in ("precision", "recall")]
    assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", image_sets)
def test_every_data_set(tmp_path, name):
    samples = StillImages(name, lay_out(tmp_path, name))
    square = image_sets[name].square
    assert samples[1]["image"].shape == (3, 128, 128 if square else 170)
    assert samples[1]["mask"].shape == (150, 150 if square else 200)
    assert samples.names == ["p000", "p001", "p002"] and samples[-1]["name"] == "p002"
    with pytest.raises(IndexError):
        samples[3]
    result = evaluate_images(Bright(), name, tmp_path)
    assert (result["data"], result["images"], result["size"]) == (name, 3, 128)
    assert result["IoU_published"] > .95
    assert evaluate_images(Bright(), name, tmp_path, size=None)["IoU_published"] > .98


def test_merging_by_name(tmp_path):
    lay_out(tmp_path)
    measure = lambda k, merge: evaluate_images(Bright(k), "ECSSD", tmp_path, merge=merge)
    border = measure(3, merging.merge_by_border)["IoU_published"]
    assert measure(3, "border")["IoU_published"] == border
    for merge, says in (("none", "got 4"), ("motion", "two frames")):
        refused(measure, 3, merge, says=says)


TRUTH = "ECSSD/ground_truth_mask"


def small(root): write_image(root / TRUTH / "p001.png", np.zeros((40, 50), np.uint8))


@pytest.mark.parametrize("spoil, name, says", [
    (lambda root: None, "ECSD", ["'ECSD'", "'ECSSD'?"]),
    (lambda root: None, "DUTS", ["DUTS-TE-Image", "data_scripts"]),
    (remove("ECSSD/images/*"), "ECSSD", ["images: no images"]),
    (remove(f"{TRUTH}/p001.png"), "ECSSD", ["p001", "1 of 3"]),
    (small, "ECSSD", ["p001.png", "50x40", "200x150"])])
def test_what_is_wrong_is_named(tmp_path, spoil, name, says):
    spoil(lay_out(tmp_path))
    refused(lambda: evaluate_images(Bright(), name, tmp_path), says=says,
            error=(ValueError, FileNotFoundError))


def test_boxes_of_masks_and_their_overlap():
    "Above 0.1 counts; the larger piece, not the surer; inside out, as its border shows."
    soft = torch.zeros(40, 80)
    soft[10:20, 20:40], soft[30:32, 60:62] = .2, 1.
    for mask, box in ((soft, [.25, .25, .5, .5]), (1 - soft, [.25, .25, .5, .5]),
                      (torch.zeros(4, 5), [0] * 4), (torch.eye(10), [0, 0, 1, 1])):  # corners touch
        assert object_box(mask).tolist() == pytest.approx(box)
    truth, masks = torch.zeros(3, 100, 200, dtype=torch.bool), torch.zeros(3, 50, 100)
    truth[:2, 20:60, 40:120] = True
    masks[0, 10:30, 20:60], masks[1, 10:30, 20:40], masks[2, 3:9, 3:9] = 1, 1, 1
    assert [*map(box_overlap, masks, truth)] == pytest.approx([1, .5, 0])  # half size
    assert box_overlap(torch.zeros(5, 5), truth[2]) == 0         # nothing found where nothing is
