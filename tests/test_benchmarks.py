"Protocols, merging, and the command that reports them."
import csv
import itertools
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from gwm_nb.benchmarks import (Sequence, Spectral, adjusted_rand, by_border, by_motion,
                               cosine_affinity, counted, evaluate_files, facts_in_words, gaps,
                               get_merger, load_predictions, mean_features, measure_files,
                               merged, predicted, protocols, read_results, sequences_there,
                               suitable, summary, two_groups, write_labels)
from gwm_nb.checkpoints import save
from gwm_nb.commands import gwm_evaluate
from gwm_nb.cutouts import voc_palette
from gwm_nb.evaluate import boundary_f, jaccard
from gwm_nb.network import create_network
from gwm_nb.paper import KeyFeatures
from inputs import Bright, recorded_value, write_image


# ---- recorded numbers

@pytest.mark.parametrize("i", range(6))
def test_merging_is_the_published_one(golden, i):
    z = np.load(golden / "eval_merge.npz")
    A = cosine_affinity(torch.tensor(z[f"basis{i}"]))
    np.testing.assert_allclose(A[0].numpy(), z[f"A{i}"], atol=1e-6)
    second = two_groups(A[0])
    found = {frozenset(group.nonzero()[:, 0].tolist()) for group in (second, ~second)}
    assert found == {frozenset(z[f"{name}{i}"].tolist()) for name in ("inda", "indb")}
    out = merged(torch.tensor(z[f"masks{i}"]), second)
    out = out if second[z[f"indb{i}"]].all() else out.flip(1)
    np.testing.assert_allclose(out.numpy(), z[f"out{i}"], atol=1e-6)


@pytest.fixture(scope="module")
def dino():
    "A backbone filled as the recorded runs were."
    backbone = KeyFeatures("vit_small_patch8_224.dino", 4, (11,))
    with torch.no_grad():
        for name, p in backbone.model.named_parameters():
            p.copy_(recorded_value(f"merger.extractor.model.{name}", p.shape))
    return backbone


def test_the_whole_merging_with_a_backbone(golden, dino):
    z = np.load(golden / "eval_merger_vits8.npz")
    images, masks = torch.tensor(z["rgb"]).float() / 255, torch.tensor(z["masks"])
    merge = Spectral(dino)
    np.testing.assert_allclose(merge.features(masks, images).numpy(), z["basis"], atol=1e-5)
    out = merge(masks, images).numpy()
    assert min(np.abs(o - z["cos"]).max() for o in (out, out[:, ::-1])) < 1e-6
    twice = merge(torch.cat([masks] * 5), torch.cat([images] * 5))           # more than one batch
    np.testing.assert_allclose(twice[4].numpy(), out[0], atol=1e-6)


def test_weights_for_spectral_merging_come_from_a_file(dino, tmp_path):
    torch.save(dino.model.state_dict(), tmp_path / "dino.pth")
    merge = get_merger("spectral", tmp_path / "dino.pth")
    images, masks = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48).softmax(1)
    features = Spectral(dino).features(masks, images)
    torch.testing.assert_close(merge.features(masks, images), features)
    with pytest.raises((ValueError, FileNotFoundError), match="nothing.pth"):
        get_merger("spectral", tmp_path / "nothing.pth")


@pytest.mark.parametrize("convention, key", [("DAVIS", "score_DAVIS"), ("frames", "score_FBMS")])
def test_the_published_protocol_to_the_digit(golden, convention, key):
    z = np.load(golden / "eval_unsupmf.npz")
    pairs, sequences = torch.tensor(z["cos"]), {}
    for name in np.unique(z["seq"]):
        rows = np.flatnonzero(z["seq"] == name)
        truths = {t: z["gt"][row].astype(np.uint8) for t, row in enumerate(rows)}
        sequence = Sequence(pairs[rows], pairs[rows], torch.tensor([False, True]), truths)
        measured = protocols["published"].measure(sequence)
        J = [m["J"] for m in measured.values()]
        np.testing.assert_allclose(J, z["iou_each"][rows].max(1), atol=1e-6)
        sequences[name] = counted(measured, len(rows), "published", convention)
    result = summary("published", sequences, convention, "spectral")
    assert result["J"] * 100 == pytest.approx(float(z[key]), abs=1e-5)
    assert result["looks_at_labels"] and result["merged_by"] == "spectral"
    assert result["left_out"] == ("none", "frames 0 and 1 of each sequence")[convention == "DAVIS"]
    assert result["frames"] == (9 if convention == "DAVIS" else 15)


# ---- merging

def test_mean_features_by_hand():
    masks = torch.zeros(1, 3, 4, 4)
    masks[0, 0, :, :2], masks[0, 1, :, 2:] = 1, .5
    maps = torch.arange(16.).reshape(1, 1, 4, 4)
    assert mean_features(masks, maps)[0, :, 0].tolist() == [6.5, 8.5, 0]


def test_masks_that_move_alike_are_merged():
    "A texture that goes right, and a square in it that goes down: two masks share the background."
    g = torch.Generator().manual_seed(0)
    grow = lambda n, m, size: F.interpolate(torch.rand(1, 3, n, m, generator=g), size,
                                            mode="bicubic")[0].clamp(0, 1)
    texture, patch = grow(40, 60, (128, 192)), grow(16, 16, (48, 48))
    images, masks = [], torch.zeros(4, 3, 96, 160)
    for t in range(4):
        image = texture[:, 16:112, 16 - 2 * t:176 - 2 * t].clone()
        image[:, 20 + 2 * t:68 + 2 * t, 60:108] = patch
        images.append(image)
        masks[t, 1, 20 + 2 * t:68 + 2 * t, 60:108] = 1
        masks[t, 0, :, :80] = 1 - masks[t, 1, :, :80]
        masks[t, 2, :, 80:] = 1 - masks[t, 1, :, 80:]
    pair, square = by_motion(masks, torch.stack(images)), masks[:, 1]
    assert torch.equal(pair[:, 0], square) or torch.equal(pair[:, 1], square)
    with pytest.raises(ValueError, match="at least two frames"):
        by_motion(masks[:1], torch.stack(images[:1]))


def test_what_cannot_be_merged_is_refused():
    for call, says in ((lambda: two_groups(torch.ones(1, 1)), "one mask"),
                       (lambda: get_merger("magic"), "'magic'.*motion"),
                       (lambda: get_merger("none")(torch.rand(2, 4, 8, 8), None), "not 4")):
        with pytest.raises(ValueError, match=says):
            call()
    pair = get_merger("border")(torch.rand(5, 4, 8, 8).softmax(1), None)
    torch.testing.assert_close(pair.sum(1), torch.ones(5, 8, 8))


# ---- protocols

def sequence_of(masks, labels, chosen=(False, True)):
    return Sequence(masks, masks[:, :2], torch.tensor(chosen), dict(enumerate(labels)))


def with_square(n=1):
    labels = np.zeros((n, 20, 30), np.uint8)
    labels[:, 5:15, 10:20] = 1
    return labels


def test_a_choice_each_frame_and_one_for_all():
    "The right mask changes places in one frame of three."
    labels = with_square(3)
    right = torch.tensor(labels).float()
    inside = torch.stack([right[0], 1 - right[1], right[2]])
    masks = torch.stack([1 - inside, inside], 1)
    J = lambda name, *chosen: [m["J"] for m in protocols[name].measure(
        sequence_of(masks, labels, *chosen)).values()]
    assert J("published") == [1, 1, 1]
    assert J("per-sequence") == J("label-free") == [1, 0, 1]
    assert J("label-free", (True, False)) == [0, 1, 0]
    assert J("per-sequence", (True, False)) == [1, 0, 1]


def test_void_pixels_count_for_nobody():
    labels = with_square()
    labels[:, :, 25:] = 255
    mask = torch.tensor(labels > 0).float()                   # wrong in the void alone
    for name in suitable():
        sequence = sequence_of(torch.stack([1 - mask, mask], 1), labels)
        (found,) = protocols[name].measure(sequence).values()
        assert found["J"] == found["F"] == 1


def test_objects_are_matched_as_by_trying_all():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (3, 6, 8)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    masks = torch.tensor(rng.random((3, 5, 24, 32))).softmax(1)
    masks[:, 2] += torch.tensor(labels == 3)
    masks[:, 0] += torch.tensor(labels == 1)
    found, part = protocols["k-way"].measure(sequence_of(masks, labels)), masks.argmax(1).numpy()
    table = {(measure, t, k, n): measure(part[t] == k, labels[t] == n + 1)
             for measure in (jaccard, boundary_f) for t in range(3) for k in range(5)
             for n in range(3)}
    mean = lambda measure, t, ks: np.mean([table[measure, t, k, n] for n, k in enumerate(ks)])
    best = max(itertools.permutations(range(5), 3),
               key=lambda ks: sum(mean(m, t, ks) for m in (jaccard, boundary_f) for t in range(3)))
    for t, frame in found.items():
        truth, own, inside = labels[t].ravel(), part[t].ravel(), labels[t].ravel() > 0
        assert frame == pytest.approx({
            "J": mean(jaccard, t, best), "F": mean(boundary_f, t, best), "objects": 3,
            "ARI": adjusted_rand_score(truth, own),
            "foreground ARI": adjusted_rand_score(truth[inside], own[inside])})


def test_a_missing_proposal_counts_as_empty():
    "The third object is there in one frame of two."
    labels = np.zeros((2, 20, 30), np.uint8)
    labels[:, :8, :10], labels[:, 10:, 20:], labels[0, 10:, :10] = 1, 2, 3
    mask = torch.tensor(labels == 1).float()
    found = protocols["k-way"].measure(sequence_of(torch.stack([mask, 1 - mask], 1), labels))
    rest = jaccard(labels != 1, labels == 2)
    wanted = [(1 + rest[0] + 0) / 3, (1 + rest[1] + 1) / 3]
    assert [found[t]["J"] for t in (0, 1)] == pytest.approx(wanted)


def test_the_mean_of_k_way_is_over_objects():
    frame = lambda value, objects: dict(J=value, F=value, objects=objects)
    sequences = dict(a={0: frame(1., 1)}, b={0: frame(.5, 3), 1: frame(.3, 3)})
    result = summary("k-way", sequences, "DAVIS")
    assert result["J"] == pytest.approx((1 + 3 * .4) / 4)
    assert (result["average_over"], result["left_out"]) == ("objects", "none")


@pytest.mark.parametrize("a, b", [([0, 0, 1, 1], [1, 1, 0, 0]), ([0, 0, 0], [0, 0, 0]),
                                  ([0, 0, 1, 2], [0, 1, 1, 2]), ([0, 0, 0, 0], [0, 1, 2, 3]),
                                  ([5], [7])])
def test_adjusted_rand(a, b):
    expected = adjusted_rand_score(a, b)
    assert adjusted_rand(np.array(a), np.array(b)) == pytest.approx(expected)


def test_frames_that_do_not_count():
    frames = {t: dict(J=t / 10, F=1.) for t in range(6)}
    for protocol, convention, left in (("published", "DAVIS", [2, 3, 4, 5]),
                                       ("label-free", "DAVIS", [1, 2, 3, 4]),
                                       ("k-way", "DAVIS", [0, 1, 2, 3, 4, 5]),
                                       ("published", "frames", [0, 1, 2, 3, 4, 5])):
        assert list(counted(frames, 6, protocol, convention)) == left
    few = {0: frames[0], 5: frames[5]}
    assert list(counted(few, 9, "label-free", "DAVIS")) == [5]
    with pytest.raises(ValueError, match="published: 2 annotated frames, .*0 and 1"):
        counted({0: frames[0], 1: frames[1]}, 9, "published", "DAVIS")


# ---- files and the command

@pytest.fixture
def data(tmp_path):
    "Two clips of bright squares; one has five frames, of which four are annotated."
    for clip, n in (("long", 5), ("wide", 4)):
        for t in range(n):
            frame = np.zeros((48, 64), np.uint8)
            frame[10:30, 8 + 2 * t:28 + 2 * t] = 255
            write_image(tmp_path / f"set/JPEGImages/{clip}/{t:05d}.png", frame)
            if (clip, t) != ("long", 3):
                write_image(tmp_path / f"set/Annotations/{clip}/{t:05d}.png", frame)
    return tmp_path / "set"


def evaluated(data, predictions, out="out", **options):
    gwm_evaluate(None, data=data, predictions=predictions, save=data.parent / out, **options)
    return {r["protocol"]: r for r in read_results(data.parent / out)}


def shifted(data, by):
    "The annotations, moved down by some rows."
    for file in sorted((data / "Annotations").glob("*/*.png")):
        place = data.parent / f"moved{by}/{file.parent.name}/{file.name}"
        write_image(place, np.roll(cv2.imread(str(file), 0), by, 0))
    return data.parent / f"moved{by}"


def test_annotations_are_perfect_and_moved_ones_are_not(data, capsys):
    found = evaluated(data, data / "Annotations")
    assert list(found) == suitable() == [name for name in protocols if name != "moca"]
    for r in found.values():
        assert (r["J"], r["F"], r["J recall"], r["J decay"]) == (1, 1, 1, 0)
    assert list(found["published"]["sequences"]["long"]) == ["00000", "00001", "00002", "00004"]
    printed = capsys.readouterr().out
    for name, result in found.items():
        looks = "looks at labels" if result["looks_at_labels"] else "does not look at labels"
        lines = [line for line in printed.splitlines() if line.startswith(f"{name}: ")]
        assert lines and looks in lines[0]


def test_what_is_written(data):
    moved = evaluated(data, shifted(data, 4))["label-free"]
    out = data.parent / "out"
    assert moved["J"] == pytest.approx(16 / 24) and moved["F"] < 1
    written = ["masks", "report.html", "results.csv", "results.json"]
    assert sorted(p.name for p in out.iterdir()) == written
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    first, third = rows[0], rows[2]
    assert len(rows) == 5 * 3
    assert (first["protocol"], first["looks_at_labels"]) == ("published", "True")
    assert float(third["J"]) == pytest.approx(16 / 24)
    assert (third["sequence"], third["frames"]) == ("", "8")
    page = (out / "report.html").read_text()
    assert page.count("<img ") == page.count("src=\"data:image/png;base64,") == 3
    assert "http" not in page
    assert all(word in page for word in ("best:", "median:", "worst:", "does not look at labels"))
    report = json.loads((out / "results.json").read_text())["results"]
    assert {r["protocol"] for r in report if not r["looks_at_labels"]} == {"label-free"}


def test_masks_are_what_the_official_tools_read(data):
    "One byte a pixel with a palette, 0 and 1, named as the frames."
    evaluated(data, data / "Annotations", protocol="label-free")
    names = lambda place: sorted(p.relative_to(place) for p in place.glob("*/*.png"))
    masks, truth = data.parent / "out/masks", data / "Annotations"
    assert names(masks) == names(truth)
    for name in names(masks):
        with Image.open(masks / name) as picture:
            assert picture.mode == "P" and set(np.unique(picture)) == {0, 1}
            assert picture.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            assert ((np.array(picture) > 0) == (cv2.imread(str(truth / name), 0) > 0)).all()


def test_a_palette_with_0_and_255_is_a_mask_too(data):
    for file in (data / "Annotations").glob("*/*.png"):
        picture = Image.fromarray(cv2.imread(str(file), 0))
        picture.putpalette(voc_palette())
        (data.parent / "p" / file.parent.name).mkdir(parents=True, exist_ok=True)
        picture.save(data.parent / "p" / file.parent.name / file.name)
    assert evaluated(data, data.parent / "p", protocol="label-free")["label-free"]["J"] == 1


@pytest.fixture
def two(tmp_path):
    "A clip of two objects, of which one is out of sight for a while; and how to write predictions of it."
    labels = np.zeros((10, 60, 90), np.uint8)
    for t in range(10):
        labels[t, 35:55, 60 - 3 * t:80 - 3 * t] = 2
        if not 4 <= t <= 7: labels[t, 8:24, 10 + 3 * t:30 + 3 * t] = 1
        write_image(tmp_path / f"two/JPEGImages/s/{t:05d}.png", labels[t] * 90)
        write_image(tmp_path / f"two/Annotations/s/{t:05d}.png", labels[t])

    def predict(name, draw, ending="png"):
        for t in range(10): write_image(tmp_path / f"{name}/s/{t:05d}.{ending}", draw(labels[t]))
        return tmp_path / name
    return tmp_path / "two", predict


@pytest.mark.parametrize("values, told", [
    ([0, 128, 255], "ids, 2 objects"), ([0, 1, 255], "ids, 2 objects"), ([0, 7, 3], "ids, 2 objects"), ([0, 20, 10], "ids, 2 objects"),
    ([[0, 0, 0], [30, 200, 30], [30, 30, 200]], "colours, 2 objects"), ([[0, 0, 0], [255, 255, 255], [30, 30, 200]], "colours, 2 objects")])
def test_predictions_have_one_meaning_for_a_sequence(two, values, told, capsys):
    data, predict = two
    found = evaluated(data, predict("p", lambda x: np.array(values, np.uint8)[x]))
    assert all(r["J"] == r["F"] == 1 for r in found.values())
    assert capsys.readouterr().out.count(f"predictions are read as: {told}\n") == 1
    assert found["k-way"]["predictions_read_as"] == {"s": told} and found["k-way"]["annotations_read_as"] == {"s": "ids, 2 objects"}


def test_predictions_in_jpeg_are_shades(two, capsys):
    data, predict = two
    found = evaluated(data, predict("p", lambda x: np.where(x > 0, 255, 0).astype(np.uint8), "jpg"), protocol="label-free")
    assert found["label-free"]["J"] > .97 and "predictions are read as: shades, 1 object" in capsys.readouterr().out


def test_how_predictions_are_read_can_be_said(two, capsys):
    data, predict = two
    unclear = predict("p", lambda x: np.dstack([np.where(x == 1, 255, 0)] + [np.where(x > 0, 255, 0)] * 3).astype(np.uint8))
    assert evaluated(data, unclear, "a", protocol="label-free")["label-free"]["predictions_read_as"] == {"s": "alpha, 1 object"}
    found = evaluated(data, predict("q", lambda x: np.array([0, 90, 180], np.uint8)[x]), "b", read_as="shades", protocol="label-free")
    assert found["label-free"]["predictions_read_as"] == {"s": "shades, 1 object"} and found["label-free"]["J"] < .8
    with pytest.raises(ValueError, match="masks.*ids, colours, shades, alpha"): evaluated(data, unclear, "c", read_as="masks")
    photograph = predict("r", lambda x: np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    with pytest.raises(ValueError, match="--read-as"): evaluated(data, photograph, "d")
    with pytest.raises(ValueError, match="--predictions"): evaluated(data, None, "e", read_as="ids")


def test_hundreds_of_objects_are_matched(tmp_path):
    "210 objects in 8 bits, 300 in 16; of the first 83 are found, of the second all."
    labels = np.kron(np.arange(320).reshape(16, 20), np.pad(np.ones((6, 6), int), (0, 2)))
    for name, n, kept in (("many", 210, 83), ("wide", 300, 300)):
        truth = np.where(labels <= n, labels, 0).astype(np.uint16 if n > 255 else np.uint8)
        for t in range(2):
            write_image(tmp_path / f"set/JPEGImages/{name}/{t}.png", (truth > 0).astype(np.uint8) * 255)
            write_image(tmp_path / f"set/Annotations/{name}/{t}.png", truth)
            write_image(tmp_path / f"p/{name}/{t}.png", np.where(truth > n - kept, truth, 0).astype(truth.dtype))
    found = evaluated(tmp_path / "set", tmp_path / "p", protocol="k-way,label-free,fbms")
    J = {name: next(iter(frames.values()))["J"] for name, frames in found["k-way"]["sequences"].items()}
    assert J == {"many": pytest.approx(83 / 210, abs=1e-3), "wide": 1}
    assert found["k-way"]["sequences"]["wide"]["0"]["objects"] == 300 and found["fbms"]["sequences"]["wide"]["0"]["J"] == 1



def captions(capsys):
    lines = capsys.readouterr().out.splitlines()
    return {line.split(":")[0]: line for line in lines if " mean over " in line}


def rows_of(out):
    rows = csv.DictReader((out / "results.csv").read_text().splitlines())
    return {(r["protocol"], r["sequence"]): r for r in rows}


def test_several_objects_that_count_as_one_are_told(data, capsys):
    "The background, two objects and a void; the truth itself is measured."
    for file in (data / "Annotations/wide").glob("*.png"):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:20, 8:28], labels[22:30, 8:28], labels[40:, 60:] = 1, 4, 255
        write_labels(file, labels)
    found, told = evaluated(data, data / "Annotations"), "wide (2 objects)"
    lines, out = captions(capsys), data.parent / "out"
    as_one = {"published", "per-sequence", "label-free"}
    assert {name for name in suitable() if told in lines[name]} == as_one
    assert {n for n in suitable() if found[n]["taken_as_one"] == {"wide": 2}} == as_one
    assert found["label-free"]["J"] == 1
    rows = {key: row["taken_as_one"] for key, row in rows_of(out).items()}
    assert rows["published", "wide"] == "2 objects" and rows["label-free", ""] == told
    assert rows["k-way", "wide"] == rows["fbms", "wide"] == rows["label-free", "long"] == ""
    assert told in (out / "report.html").read_text()


def test_frames_without_annotation_and_annotations_without_frame_are_told(data, capsys):
    "Of long frame 3 has no annotation; of wide one frame is gone, then its annotation, too."
    evaluate = lambda *more, **options: evaluated(data, data / "Annotations", *more,
                                                  protocol="label-free,fbms", **options)
    (data / "JPEGImages/wide/00002.png").unlink()
    for result in evaluate().values():
        assert result["without_annotation"] == {"long": 1}
        assert result["missing_frames"] == {"wide": ["00002"]}
    lines = captions(capsys).values()
    assert all("long (1)" in line and "wide (00002)" in line for line in lines)
    rows = rows_of(data.parent / "out")
    assert rows["fbms", "wide"]["missing_frames"] == "00002"
    assert rows["fbms", "long"]["without_annotation"] == "1"
    assert rows["label-free", ""]["frames"] == str(4 + 3)
    (data / "Annotations/wide/00002.png").unlink()
    assert evaluate("again")["fbms"]["missing_frames"] == {"wide": ["00002"]}     # by the numbers
    assert evaluate("one", clips=["long"])["fbms"]["missing_frames"] == {}
    (data / "JPEGImages/wide/00003.png").unlink()
    assert evaluate("last")["fbms"]["missing_frames"] == {"wide": ["00003"]}


def test_of_many_sequences_the_first_are_told():
    facts = dict(without_annotation={f"s{i}": i for i in range(1, 9)},
                 missing_frames=dict(a=[str(t) for t in range(10)]))
    told = facts_in_words(facts)
    some = ", ".join(f"s{i} ({i})" for i in range(1, 7))
    assert told["without_annotation"] == f"{some} and 2 more" and told["taken_as_one"] == ""
    assert told["missing_frames"] == "a (0, 1, 2, 3, 4, 5 and 4 more)"


@pytest.mark.parametrize("names, lacking", [
    ("0 1 2 4", "3"), ("008 009 010 013", "011 012"), ("f_1 f_4 f_7 f_13", "f_10"),
    ("0 3 6 9", ""), ("a b d", ""), ("0 7", ""), ("5", ""), ("a1 b3 c5", "")])
def test_gaps_in_the_numbers_of_frames(names, lacking):
    assert gaps(names.split()) == lacking.split()


def test_side_by_side(data, capsys):
    compare = lambda *names: gwm_evaluate(None, compare=[data.parent / name for name in names])
    chosen = dict(protocol="published,label-free")
    evaluated(data, data / "Annotations", "a", **chosen)
    evaluated(data, shifted(data, 4), "b", clips=["long"], **chosen)
    capsys.readouterr()
    compare("a", "b")
    printed = capsys.readouterr().out
    assert "-0.333" in printed and "standard deviation" in printed
    assert "measured for one only and left out: 1" in printed
    evaluated(data, data / "Annotations", "c", convention="frames", **chosen)
    with pytest.raises(ValueError, match="average_over .*'sequences' .*'frames'"):
        compare("a", "c")
    with pytest.raises(FileNotFoundError, match="results.json.*--save"):
        compare("a", "set")


def renumber(data):
    for f in sorted((data / "Annotations/wide").glob("*"), reverse=True):
        f.rename(f.with_name(f"{int(f.stem) + 1:05d}.png"))


def shrink(*places):
    "Overwrite files with smaller pictures."
    return lambda data: [write_image(file, np.zeros((24, 32), np.uint8))
                         for place in places for file in data.parent.glob(place)]


def remove(place, folder=False):
    def spoil(data):
        for file in data.parent.glob(place):
            file.unlink()
        if folder:
            file.parent.rmdir()
    return spoil


def spoil_picture(data): (data / "Annotations/wide/00002.png").write_bytes(b"no picture")


@pytest.mark.parametrize("spoil, says", [
    (remove("moved0/long/00002.png"), "long: .*00002 .1 of 4"),
    (shrink("moved0/wide/00001.png"), "wide/00001.png is 32x24, its frame 64x48"),
    (remove("set/Annotations/wide/*", folder=True), "wide has no annotation"),
    (remove("set/Annotations/wide/*"), "Annotations/wide: no images"),
    (shrink("set/Annotations/wide/00002.png"), "wide/00002.png is 32x24, its frame 64x48"),
    (shrink("set/Annotations/wide/*", "moved0/wide/*"), "wide/00000.png is 32x24, its frame 64x48"),
    (shrink("set/JPEGImages/wide/00002.png"), "wide: frame 00002 is 32x24, .* 00000 is 64x48"),
    (renumber, "annotation 00004 .* 00001 to 00004, frames 00000 to 00003"),
    (spoil_picture, "wide/00002.png: not a readable image")])
def test_what_is_wrong_is_named(data, spoil, says):
    predictions = shifted(data, 0)
    spoil(data)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        evaluated(data, predictions)
    assert not (data.parent / "out").exists()


def test_a_known_data_set_names_what_is_not_there(data, capsys):
    data = data.rename(data.parent / "DAVIS2016")
    for kind in ("JPEGImages", "Annotations"):
        (data / kind / "wide").rename(data / kind / "dog")
    found = evaluated(data, data / "Annotations")["published"]
    printed = capsys.readouterr().out
    assert "19 validation sequences are not there: blackswan, bmx-trees" in printed
    assert found["left_out"] == "frames 0 and 1 of each sequence"
    assert list(found["sequences"]["dog"]) == ["00002", "00003"]
    (data / "Annotations/dog/00002.png").unlink()
    with pytest.raises(ValueError, match="frame 00002 has no annotation"):
        evaluated(data, data / "Annotations", "again")


def test_a_network_is_measured_at_the_annotation_s_size(data):
    merge, seen = get_merger("none"), []

    def look(clip, names, truths):
        sequence = predicted(Bright(), clip, truths, merge, (24, 32))
        seen.append(tuple(sequence.masks.shape))
        return sequence
    results = evaluate_files(look, data, ["published", "label-free"], data.parent / "out")
    assert seen == [(5, 2, 24, 32), (4, 2, 24, 32)] and all(.9 < r["J"] <= 1 for r in results)
    assert len(list((data.parent / "out/masks/long").iterdir())) == 5      # the unannotated, too
    seen.clear()
    remove("set/Annotations/wide/0000[123].png")(data)
    shrink("set/Annotations/wide/00000.png")(data)
    with pytest.raises(ValueError, match="wide/00000.png is 32x24, its frame 64x48"):
        evaluate_files(look, data, ["published"])
    assert seen == []                               # found before the first sequence is measured


def test_the_command_line(data):
    "In a process of its own; see the next test for wrong input."
    code = "from gwm_nb.commands import gwm_evaluate; gwm_evaluate()"
    argv = ["--data", data, "--predictions", data / "Annotations", "--protocol", "label-free"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], cwd=data.parent,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env=os.environ | dict(PYTHONPATH=str(Path(__file__).parent.parent)))
    assert done.returncode == 0 and "1.000" in done.stdout, done.stderr
    assert "sequences" in done.stderr


@pytest.mark.parametrize("argv, says", [
    ("", "--predictions"), ("nothing.safetensors", "nothing.safetensors"),
    ("--predictions none", "none: no such folder"),
    ("--predictions set/Annotations --protocol best", "'best'"),
    ("--predictions set/Annotations --convention x", "'x'")])
def test_wrong_input_is_one_line(data, argv, says, call):
    assert says in call(gwm_evaluate, *argv.split(), "--data", data, cwd=data.parent)[1]


def test_one_sequence_in_memory_at_a_time(data):
    import weakref
    from gwm_nb.benchmarks import load_predictions, measure_files, sequences_there
    clips, _ = sequences_there(data)
    made, alive = [], []

    def look(clip, names, truths):
        alive.append(sum(ref() is not None for ref in made))
        sequence = load_predictions(data / "Annotations", clip, names, truths)
        made.append(weakref.ref(sequence))
        return sequence
    measure_files(clips * 3, look, suitable())
    assert alive == [0] * 6


def test_earlier_results_are_refused_before_any_work(data):
    evaluated(data, data / "Annotations", protocol="label-free")
    before = (data.parent / "out/results.json").read_bytes()
    spoil_picture(data)
    with pytest.raises(ValueError, match="out: .*choose another folder"):
        evaluated(data, data / "Annotations")
    assert (data.parent / "out/results.json").read_bytes() == before


def test_masks_are_merged_by_motion_unless_told_otherwise(data, capsys):
    "And by the border where a clip has a single frame, in which nothing moves."
    save(create_network("small", 4), data.parent / "net.safetensors")
    gwm_evaluate(data.parent / "net.safetensors", data=data, protocol="published", size="32x48")
    assert "merged by motion" in capsys.readouterr().out
    network = create_network("convnext_atto", 4, pretrained=False)  # masks of half the flow's size
    pair = lambda merge: predicted(network, sequences_there(data, ["wide"])[0][0], {}, merge,
                                   (32, 48)).pair
    assert pair(by_motion).shape == (4, 2, 16, 24)
    remove("set/*/wide/0000[123].png")(data)
    assert pair(by_motion).equal(pair(by_border)) and len(pair(by_motion)) == 1
