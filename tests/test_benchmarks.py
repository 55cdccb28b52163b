"Protocols, merging, and the command that reports them."
import csv
import itertools
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from gwm_nb.benchmarks import (Sequence, Spectral, adjusted_rand, by_motion, cosine_affinity, counted, get_merger,
                               mean_features, merged, protocols, suitable, summary, two_groups)
from gwm_nb.evaluate import boundary_f, jaccard
from gwm_nb.paper import KeyFeatures
from test_evaluate import Bright


# ---- recorded numbers

@pytest.mark.parametrize("i", range(6))
def test_merging_is_the_published_one(golden, i):
    z = np.load(golden / "eval_merge.npz")
    A = cosine_affinity(torch.tensor(z[f"basis{i}"]))
    np.testing.assert_allclose(A[0].numpy(), z[f"A{i}"], atol=1e-6)
    second = two_groups(A[0])
    groups = {frozenset(second.nonzero()[:, 0].tolist()), frozenset((~second).nonzero()[:, 0].tolist())}
    assert groups == {frozenset(z[f"inda{i}"].tolist()), frozenset(z[f"indb{i}"].tolist())}
    out = merged(torch.tensor(z[f"masks{i}"]), second)
    if not second[z[f"indb{i}"]].all(): out = out.flip(1)
    np.testing.assert_allclose(out.numpy(), z[f"out{i}"], atol=1e-6)


def fill(name, shape):
    "The value that the recorded runs gave to parameter `name`."
    r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith(("pos_embed", "cls_token")): return .5 * r
    if len(shape) >= 2: return r / (r.numel() / shape[0])**.5
    return 1 + .1 * r if name.endswith(".weight") else .1 * r


def test_the_whole_merging_with_a_backbone(golden):
    z = np.load(golden / "eval_merger_vits8.npz")
    backbone = KeyFeatures("vit_small_patch8_224.dino", 4, (11,))
    with torch.no_grad():
        for name, p in backbone.model.named_parameters(): p.copy_(fill(f"merger.extractor.model.{name}", p.shape))
    images, masks = torch.tensor(z["rgb"]).float() / 255, torch.tensor(z["masks"])
    merge = Spectral(backbone)
    features = merge.features(masks, images)
    np.testing.assert_allclose(features.numpy(), z["basis"], atol=1e-5)
    out = merge(masks, images).numpy()
    assert min(np.abs(out - z["cos"]).max(), np.abs(out[:, ::-1] - z["cos"]).max()) < 1e-6
    twice = merge(torch.cat([masks] * 5), torch.cat([images] * 5))           # more than one batch
    np.testing.assert_allclose(twice[4].numpy(), out[0], atol=1e-6)


@pytest.mark.parametrize("convention", ["DAVIS", "frames"])
def test_the_published_protocol_to_the_digit(golden, convention):
    z = np.load(golden / "eval_unsupmf.npz")
    pairs, sequences = torch.tensor(z["cos"]), {}
    for name in np.unique(z["seq"]):
        rows = np.flatnonzero(z["seq"] == name)
        truths = {t: z["gt"][row].astype(np.uint8) for t, row in enumerate(rows)}
        measured = protocols["published"].measure(Sequence(pairs[rows], pairs[rows], torch.tensor([False, True]), truths))
        np.testing.assert_allclose([m["J"] for m in measured.values()], z["iou_each"][rows].max(1), atol=1e-6)
        sequences[name] = counted(measured, len(rows), "published", convention)
    result = summary("published", sequences, convention, "spectral")
    assert result["J"] * 100 == pytest.approx(float(z["score_DAVIS" if convention == "DAVIS" else "score_FBMS"]), abs=1e-5)
    assert result["looks_at_labels"] and result["protocol"] == "published" and result["merged_by"] == "spectral"
    assert result["left_out"] == ("frames 0 and 1 of each sequence" if convention == "DAVIS" else "none")
    assert result["frames"] == (9 if convention == "DAVIS" else 15)


# ---- merging

def test_mean_features_by_hand():
    masks = torch.zeros(1, 3, 4, 4)
    masks[0, 0, :, :2], masks[0, 1, :, 2:] = 1, .5
    maps = torch.arange(16.).reshape(1, 1, 4, 4)
    assert mean_features(masks, maps)[0, :, 0].tolist() == [6.5, 8.5, 0]


def test_masks_that_move_alike_are_merged():
    "A textured picture shifted to the right, and a square in it that moves down: two masks share the background."
    g = torch.Generator().manual_seed(0)
    texture = F.interpolate(torch.rand(1, 3, 40, 60, generator=g), (128, 192), mode="bicubic")[0].clamp(0, 1)
    patch = F.interpolate(torch.rand(1, 3, 16, 16, generator=g), (48, 48), mode="bicubic")[0].clamp(0, 1)
    images, masks = [], torch.zeros(4, 3, 96, 160)
    for t in range(4):
        image = texture[:, 16:112, 16 - 2 * t:176 - 2 * t].clone()
        image[:, 20 + 2 * t:68 + 2 * t, 60:108] = patch
        images.append(image)
        masks[t, 1, 20 + 2 * t:68 + 2 * t, 60:108] = 1
        masks[t, 0, :, :80] = 1 - masks[t, 1, :, :80]
        masks[t, 2, :, 80:] = 1 - masks[t, 1, :, 80:]
    pair = by_motion(masks, torch.stack(images))
    square = masks[:, 1]
    assert torch.equal(pair[:, 0], square) or torch.equal(pair[:, 1], square)
    with pytest.raises(ValueError, match="at least two frames"):
        by_motion(masks[:1], torch.stack(images[:1]))


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(ValueError, match="one mask"):
        two_groups(torch.ones(1, 1))
    with pytest.raises(ValueError, match="unknown way of merging 'magic'"):
        get_merger("magic")
    with pytest.raises(ValueError, match="two masks, not 4"):
        get_merger("none")(torch.rand(2, 4, 8, 8), None)
    masks = torch.rand(5, 4, 8, 8).softmax(1)
    for name in ("border",):
        pair = get_merger(name)(masks, None)
        torch.testing.assert_close(pair.sum(1), torch.ones(5, 8, 8))


# ---- protocols

def sequence_of(masks, labels, chosen=(False, True)):
    return Sequence(masks, masks[:, :2], torch.tensor(chosen), dict(enumerate(labels)))


def test_a_choice_each_frame_and_one_for_all():
    "The right mask changes places in one frame of three."
    labels = np.zeros((3, 20, 30), np.uint8)
    labels[:, 5:15, 10:20] = 1
    right = torch.tensor(labels).float()
    object_ = torch.stack([right[0], 1 - right[1], right[2]])
    masks = torch.stack([1 - object_, object_], 1)
    found = {name: [m["J"] for m in p.measure(sequence_of(masks, labels)).values()] for name, p in protocols.items() if name in suitable()}
    assert found["published"] == [1, 1, 1]
    assert found["per-sequence"] == found["label-free"] == [1, 0, 1]
    upside_down = sequence_of(masks, labels, (True, False))
    assert [m["J"] for m in protocols["label-free"].measure(upside_down).values()] == [0, 1, 0]
    assert [m["J"] for m in protocols["per-sequence"].measure(upside_down).values()] == [1, 0, 1]


def test_void_pixels_count_for_nobody():
    labels = np.zeros((1, 20, 30), np.uint8)
    labels[:, 5:15, 10:20] = 1
    labels[:, :, 25:] = 255
    mask = torch.tensor(labels > 0).float()                   # wrong in the void alone
    masks = torch.stack([1 - mask, mask], 1)
    for name in suitable():
        (found,) = protocols[name].measure(sequence_of(masks, labels)).values()
        assert found["J"] == found["F"] == 1


def test_objects_are_matched_as_by_trying_all():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (3, 6, 8)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    masks = torch.tensor(rng.random((3, 5, 24, 32))).softmax(1)
    masks[:, 2] += torch.tensor(labels == 3)
    masks[:, 0] += torch.tensor(labels == 1)
    found = protocols["k-way"].measure(sequence_of(masks, labels))
    part = masks.argmax(1).numpy()
    score = lambda k, n: np.mean([(jaccard(p == k, t == n) + boundary_f(p == k, t == n)) / 2 for p, t in zip(part, labels)])
    best = max(itertools.permutations(range(5), 3), key=lambda ks: sum(score(k, n + 1) for n, k in enumerate(ks)))
    for t, frame in found.items():
        assert frame["J"] == pytest.approx(np.mean([jaccard(part[t] == k, labels[t] == n + 1) for n, k in enumerate(best)]))
        assert frame["F"] == pytest.approx(np.mean([boundary_f(part[t] == k, labels[t] == n + 1) for n, k in enumerate(best)]))
        assert frame["ARI"] == pytest.approx(adjusted_rand_score(labels[t].ravel(), part[t].ravel()))
        inside = labels[t] > 0
        assert frame["foreground ARI"] == pytest.approx(adjusted_rand_score(labels[t][inside], part[t][inside]))
        assert frame["objects"] == 3


def test_a_missing_proposal_counts_as_empty():
    labels = np.zeros((2, 20, 30), np.uint8)
    labels[:, :8, :10], labels[:, 10:, 20:], labels[0, 10:, :10] = 1, 2, 3         # the third is there in one frame
    mask = torch.tensor(labels == 1).float()
    found = protocols["k-way"].measure(sequence_of(torch.stack([mask, 1 - mask], 1), labels))
    rest = jaccard(labels != 1, labels == 2)
    assert found[0]["J"] == pytest.approx((1 + rest[0] + 0) / 3) and found[1]["J"] == pytest.approx((1 + rest[1] + 1) / 3)


def test_the_mean_of_k_way_is_over_objects():
    sequences = dict(a={0: dict(J=1., F=1., objects=1)}, b={0: dict(J=.5, F=.5, objects=3), 1: dict(J=.3, F=.3, objects=3)})
    result = summary("k-way", sequences, "DAVIS")
    assert result["J"] == pytest.approx((1 + 3 * .4) / 4) and result["average_over"] == "objects" and result["left_out"] == "none"


@pytest.mark.parametrize("a, b", [([0, 0, 1, 1], [1, 1, 0, 0]), ([0, 0, 0], [0, 0, 0]), ([0, 1, 2], [0, 1, 2]), ([0, 0, 1, 2], [0, 1, 1, 2]),
                                  ([0, 0, 0, 0], [0, 1, 2, 3]), ([5], [7])])
def test_adjusted_rand(a, b):
    assert adjusted_rand(np.array(a), np.array(b)) == pytest.approx(adjusted_rand_score(a, b))


def test_frames_that_do_not_count():
    frames = {t: dict(J=t / 10, F=1.) for t in range(6)}
    assert list(counted(frames, 6, "published", "DAVIS")) == [2, 3, 4, 5]
    assert list(counted(frames, 6, "label-free", "DAVIS")) == [1, 2, 3, 4]
    assert list(counted(frames, 6, "k-way", "DAVIS")) == list(counted(frames, 6, "published", "frames")) == list(range(6))
    assert list(counted({0: frames[0], 5: frames[5]}, 9, "label-free", "DAVIS")) == [5]       # few are annotated
    with pytest.raises(ValueError, match="published: 2 annotated frames, and frames 0 and 1 of each sequence are left out"):
        counted({0: frames[0], 1: frames[1]}, 9, "published", "DAVIS")


# ---- files and the command

def run(*argv, cwd):
    "gwm_evaluate in a process of its own."
    code = "from gwm_nb.benchmarks import gwm_evaluate; gwm_evaluate()"
    return subprocess.run([sys.executable, "-c", code, *map(str, argv)], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | dict(PYTHONPATH=str(Path(__file__).parent.parent)), stdin=subprocess.DEVNULL)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def data(tmp_path):
    "Two clips of bright squares; one has five frames, of which four are annotated."
    for clip, n in (("long", 5), ("wide", 4)):
        for t in range(n):
            frame = np.zeros((48, 64), np.uint8)
            frame[10:30, 8 + 2 * t:28 + 2 * t] = 255
            write(tmp_path / f"set/JPEGImages/{clip}/{t:05d}.png", frame)
            if (clip, t) != ("long", 3): write(tmp_path / f"set/Annotations/{clip}/{t:05d}.png", frame)
    return tmp_path / "set"


def evaluated(data, predictions, out="out", **options):
    from gwm_nb.benchmarks import gwm_evaluate, read_results
    gwm_evaluate(None, data=data, predictions=predictions, save=data.parent / out, **options)
    return {r["protocol"]: r for r in read_results(data.parent / out)}


def shifted(data, by):
    for file in sorted((data / "Annotations").glob("*/*.png")):
        write(data.parent / f"moved{by}/{file.parent.name}/{file.name}", np.roll(cv2.imread(str(file), 0), by, 0))
    return data.parent / f"moved{by}"


def test_annotations_are_perfect_and_moved_ones_are_not(data, capsys):
    found = evaluated(data, data / "Annotations")
    assert list(found) == suitable() == [name for name in protocols if name != "moca"]
    assert all(r["J"] == r["F"] == 1 and r["J recall"] == 1 and r["J decay"] == 0 for r in found.values())
    assert list(found["published"]["sequences"]["long"]) == ["00000", "00001", "00002", "00004"]
    moved = evaluated(data, shifted(data, 4), "moved")
    assert moved["label-free"]["J"] == pytest.approx(16 / 24) and moved["label-free"]["F"] < 1
    printed = capsys.readouterr().out
    assert "label-free: object chosen without labels, once a sequence; does not look at labels" in printed
    assert "published: better of two merged masks in each frame, by J; looks at labels" in printed and "k-way J" in printed


def test_what_is_written(data):
    evaluated(data, shifted(data, 4))
    out = data.parent / "out"
    assert sorted(p.name for p in out.iterdir()) == ["masks", "report.html", "results.csv", "results.json"]
    with open(out / "results.csv", newline="") as f: rows = list(csv.DictReader(f))
    assert len(rows) == 5 * 3 and rows[0]["protocol"] == "published" and rows[0]["looks_at_labels"] == "True"
    assert float(rows[2]["J"]) == pytest.approx(16 / 24) and rows[2]["sequence"] == "" and rows[2]["frames"] == "8"
    page = (out / "report.html").read_text()
    assert page.count("<img ") == 3 and "src=\"data:image/png;base64," in page and "http" not in page
    assert all(word in page for word in ("best:", "median:", "worst:", "does not look at labels"))
    report = json.loads((out / "results.json").read_text())
    assert {r["protocol"]: r["looks_at_labels"] for r in report["results"]} == {
        "published": True, "per-sequence": True, "label-free": False, "k-way": True, "fbms": True}


def test_masks_are_what_the_official_tools_read(data):
    "One byte a pixel with a palette, 0 and 1, named as the frames."
    evaluated(data, data / "Annotations", protocol="label-free")
    files = sorted((data.parent / "out/masks").glob("*/*.png"))
    assert [f.relative_to(data.parent / "out/masks") for f in files] == [
        f.relative_to(data / "Annotations") for f in sorted((data / "Annotations").glob("*/*.png"))]
    for file in files:
        with Image.open(file) as picture:
            assert picture.mode == "P" and set(np.unique(picture)) == {0, 1} and picture.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            truth = cv2.imread(str(data / "Annotations" / file.parent.name / file.name), 0)
            assert ((np.array(picture) > 0) == (truth > 0)).all()
    again = evaluated(data, data.parent / "out/masks", "again")
    assert again["k-way"]["J"] == 1


def test_a_palette_with_0_and_255_is_a_mask_too(data):
    from gwm_nb.cutouts import voc_palette
    for file in (data / "Annotations").glob("*/*.png"):
        picture = Image.fromarray(cv2.imread(str(file), 0))
        picture.putpalette(voc_palette())
        (data.parent / "p" / file.parent.name).mkdir(parents=True, exist_ok=True)
        picture.save(data.parent / "p" / file.parent.name / file.name)
    assert evaluated(data, data.parent / "p")["label-free"]["J"] == 1


@pytest.fixture
def two(tmp_path):
    "A clip of two objects, of which one is out of sight for a while; and how to write predictions of it."
    labels = np.zeros((10, 60, 90), np.uint8)
    for t in range(10):
        labels[t, 35:55, 60 - 3 * t:80 - 3 * t] = 2
        if not 4 <= t <= 7: labels[t, 8:24, 10 + 3 * t:30 + 3 * t] = 1
        write(tmp_path / f"two/JPEGImages/s/{t:05d}.png", labels[t] * 90)
        write(tmp_path / f"two/Annotations/s/{t:05d}.png", labels[t])

    def predict(name, draw, ending="png"):
        for t in range(10): write(tmp_path / f"{name}/s/{t:05d}.{ending}", draw(labels[t]))
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
    from gwm_nb.benchmarks import gwm_evaluate
    data, predict = two
    unclear = predict("p", lambda x: np.dstack([np.where(x > 0, 255, 0)] * 3 + [np.where(x == 1, 255, 0)]).astype(np.uint8))
    assert evaluated(data, unclear, "a", protocol="label-free")["label-free"]["predictions_read_as"] == {"s": "alpha, 1 object"}
    found = evaluated(data, predict("q", lambda x: np.array([0, 90, 180], np.uint8)[x]), "b", read_as="shades", protocol="label-free")
    assert found["label-free"]["predictions_read_as"] == {"s": "shades, 1 object"} and found["label-free"]["J"] < .8
    with pytest.raises(ValueError, match="masks.*ids, colours, shades, alpha"): evaluated(data, unclear, "c", read_as="masks")
    photograph = predict("r", lambda x: np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    with pytest.raises(ValueError, match="--read-as"): evaluated(data, photograph, "d")
    with pytest.raises(ValueError, match="--read-as"): gwm_evaluate("net.safetensors", data=data, read_as="ids")


def test_hundreds_of_objects_are_matched(tmp_path):
    "210 objects in 8 bits, 300 in 16; of the first 83 are found, of the second all."
    labels = np.kron(np.arange(320).reshape(16, 20), np.pad(np.ones((6, 6), int), (0, 2)))
    for name, n, kept in (("many", 210, 83), ("wide", 300, 300)):
        truth = np.where(labels <= n, labels, 0).astype(np.uint16 if n > 255 else np.uint8)
        for t in range(2):
            write(tmp_path / f"set/JPEGImages/{name}/{t}.png", (truth > 0).astype(np.uint8) * 255)
            write(tmp_path / f"set/Annotations/{name}/{t}.png", truth)
            write(tmp_path / f"p/{name}/{t}.png", np.where(truth > n - kept, truth, 0).astype(truth.dtype))
    found = evaluated(tmp_path / "set", tmp_path / "p", protocol="k-way,label-free,fbms")
    J = {name: next(iter(frames.values()))["J"] for name, frames in found["k-way"]["sequences"].items()}
    assert J == {"many": pytest.approx(83 / 210, abs=1e-3), "wide": 1}
    assert found["k-way"]["sequences"]["wide"]["0"]["objects"] == 300 and found["fbms"]["sequences"]["wide"]["0"]["J"] == 1


def captions(capsys): return {line.split(":")[0]: line for line in capsys.readouterr().out.splitlines() if " mean over " in line}


def rows_of(out):
    with open(out / "results.csv", newline="") as f: return {(r["protocol"], r["sequence"]): r for r in csv.DictReader(f)}


def test_several_objects_that_count_as_one_are_told(data, capsys):
    "The background, two objects and a void; the truth itself is measured."
    from gwm_nb.benchmarks import write_labels
    for file in (data / "Annotations/wide").glob("*.png"):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:20, 8:28], labels[22:30, 8:28], labels[40:, 60:] = 1, 4, 255
        write_labels(file, labels)
    found, told = evaluated(data, data / "Annotations"), "labels with several objects taken as one: wide (2 objects)"
    lines, out = captions(capsys), data.parent / "out"
    assert all((told in lines[name]) == (name in ("published", "per-sequence", "label-free")) for name in suitable())
    assert found["label-free"]["J"] == 1 and found["label-free"]["taken_as_one"] == {"wide": 2} and found["k-way"]["taken_as_one"] == {}
    rows = rows_of(out)
    assert [rows[name, "wide"]["taken_as_one"] for name in ("published", "k-way", "fbms")] == ["2 objects", "", ""]
    assert rows["label-free", "long"]["taken_as_one"] == "" and rows["label-free", ""]["taken_as_one"] == "wide (2 objects)"
    assert told in (out / "report.html").read_text()


def test_frames_without_annotation_and_annotations_without_frame_are_told(data, capsys):
    "Frame 3 of long has no annotation. Of wide one frame is gone, then its annotation, too: the gap in the numbers remains."
    (data / "JPEGImages/wide/00002.png").unlink()
    found = evaluated(data, data / "Annotations")
    assert all(r["without_annotation"] == {"long": 1} and r["missing_frames"] == {"wide": ["00002"]} for r in found.values())
    assert found["label-free"]["frames"] == 4 + 3
    assert all(line.endswith("; frames without annotation: long (1); frames that are not there: wide (00002)") for line in captions(capsys).values())
    rows = rows_of(data.parent / "out")
    assert rows["fbms", "wide"]["missing_frames"] == "00002" and rows["fbms", "long"]["without_annotation"] == "1"
    (data / "Annotations/wide/00002.png").unlink()
    assert evaluated(data, data / "Annotations", "again")["published"]["missing_frames"] == {"wide": ["00002"]}
    assert evaluated(data, data / "Annotations", "long", clips=["long"])["published"]["missing_frames"] == {}


def test_a_last_frame_that_is_gone_is_known_by_its_annotation(data):
    (data / "JPEGImages/wide/00003.png").unlink()
    assert evaluated(data, data / "Annotations")["published"]["missing_frames"] == {"wide": ["00003"]}


def test_of_many_sequences_the_first_are_told():
    from gwm_nb.benchmarks import facts_in_words
    told = facts_in_words(dict(without_annotation={f"s{i}": i for i in range(1, 9)}, missing_frames=dict(a=[str(t) for t in range(10)])))
    assert told["without_annotation"] == "s1 (1), s2 (2), s3 (3), s4 (4), s5 (5), s6 (6) and 2 more"
    assert told["missing_frames"] == "a (0, 1, 2, 3, 4, 5 and 4 more)" and told["taken_as_one"] == ""


@pytest.mark.parametrize("names, lacking", [("0 1 2 4", "3"), ("008 009 010 013", "011 012"), ("f_1 f_4 f_7 f_13", "f_10"), ("0 3 6 9", ""), ("a b d", ""), ("0 7", ""), ("5", ""),
                                            ("a1 b3 c5", "")])
def test_gaps_in_the_numbers_of_frames(names, lacking):
    from gwm_nb.benchmarks import gaps
    assert gaps(names.split()) == lacking.split()


def test_side_by_side(data, capsys):
    from gwm_nb.benchmarks import gwm_evaluate
    evaluated(data, data / "Annotations", "a")
    evaluated(data, shifted(data, 4), "b", clips=["long"])
    capsys.readouterr()
    gwm_evaluate(None, compare=[data.parent / "a", data.parent / "b"])
    printed = capsys.readouterr().out
    assert "-0.333" in printed and "standard deviation" in printed and "measured for one only and left out: 1" in printed
    evaluated(data, data / "Annotations", "c", convention="frames")
    with pytest.raises(ValueError, match="published: average_over is 'sequences' for one and 'frames' for the other"):
        gwm_evaluate(None, compare=[data.parent / "a", data.parent / "c"])
    with pytest.raises(FileNotFoundError, match="no results.json; make it with gwm_evaluate --save"):
        gwm_evaluate(None, compare=[data.parent / "a", data])


def gone(data): (data.parent / "moved0/long/00002.png").unlink()
def small(data): write(data.parent / "moved0/wide/00001.png", np.zeros((24, 32), np.uint8))
def bare(data): [f.unlink() for f in (data / "Annotations/wide").glob("*")] and (data / "Annotations/wide").rmdir()
def odd(data): write(data / "Annotations/wide/00002.png", np.zeros((24, 32), np.uint8))
def empty(data): [f.unlink() for f in (data / "Annotations/wide").glob("*")]
def uneven(data): write(data / "JPEGImages/wide/00002.png", np.zeros((24, 32), np.uint8))
def shifted_by_one(data): [f.rename(f.with_name(f"{int(f.stem) + 1:05d}.png")) for f in sorted((data / "Annotations/wide").glob("*"), reverse=True)]


def others(data):
    "All annotations, and the predictions, are of one size, which isn't that of the frames."
    for folder in (data / "Annotations/wide", data.parent / "moved0/wide"):
        for file in folder.glob("*"): write(file, np.zeros((24, 32), np.uint8))


def broken(data): (data / "Annotations/wide/00002.png").write_bytes(b"no picture")


@pytest.mark.parametrize("spoil, message", [
    (gone, "long: no prediction for frame 00002 .1 of 4 are missing"), (small, "moved0/wide/00001.png is 32x24, its frame 64x48"),
    (bare, "sequence wide has no annotation"), (odd, "wide/00002.png is 32x24, its frame 64x48"),
    (others, "wide/00000.png is 32x24, its frame 64x48"), (uneven, "wide: frame 00002 is 32x24, but frame 00000 is 64x48"), (empty, "Annotations/wide: no images in this folder"),
    (shifted_by_one, "annotation 00004 has no frame: annotations are named 00001 to 00004, frames 00000 to 00003"), (broken, "wide/00002.png: not a readable image")])
def test_what_is_wrong_is_named(data, spoil, message):
    predictions = shifted(data, 0)
    spoil(data)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluated(data, predictions)
    assert not (data.parent / "out").exists()


def test_a_known_data_set_names_what_is_not_there(data, capsys):
    data = data.rename(data.parent / "DAVIS2016")
    for kind in ("JPEGImages", "Annotations"): (data / kind / "wide").rename(data / kind / "dog")
    found = evaluated(data, data / "Annotations")
    printed = capsys.readouterr().out
    assert "19 validation sequences are not there: blackswan, bmx-trees" in printed
    assert found["published"]["left_out"] == "frames 0 and 1 of each sequence" and list(found["published"]["sequences"]["dog"]) == ["00002", "00003"]
    (data / "Annotations/dog/00002.png").unlink()
    with pytest.raises(ValueError, match="frame 00002 has no annotation"):
        evaluated(data, data / "Annotations", "again")


def test_a_network_is_measured_at_the_annotation_s_size(data):
    from gwm_nb.benchmarks import evaluate_files, predicted
    merge, seen = get_merger("none"), []

    def look(clip, names, truths):
        sequence = predicted(Bright(), clip, truths, merge, (24, 32))
        seen.append(tuple(sequence.masks.shape))
        return sequence
    results = evaluate_files(look, data, ["published", "label-free"], data.parent / "out")
    assert seen == [(5, 2, 24, 32), (4, 2, 24, 32)] and all(.9 < r["J"] <= 1 for r in results)
    assert len(list((data.parent / "out/masks/long").iterdir())) == 5                # the unannotated frame, too
    seen.clear()
    write(data / "Annotations/wide/00000.png", np.zeros((24, 32), np.uint8))
    for t in range(1, 4): (data / f"Annotations/wide/{t:05d}.png").unlink()
    with pytest.raises(ValueError, match="wide/00000.png is 32x24, its frame 64x48"):
        evaluate_files(look, data, ["published"])
    assert seen == []                               # a fault of the second sequence is found before the first is measured


def test_the_command_line(data):
    done = run("--data", data, "--predictions", data / "Annotations", "--protocol", "label-free", cwd=data.parent)
    assert done.returncode == 0 and "1.000" in done.stdout and "sequences: 100%" in done.stderr, done.stderr
    for argv, message in ((["--data", data], "give either a trained network or --predictions"),
                          (["nothing.safetensors", "--data", data], "nothing.safetensors"),
                          (["--data", data, "--predictions", data / "none"], "no such folder of predictions"),
                          (["--data", data, "--predictions", data / "Annotations", "--protocol", "best"], "unknown protocol 'best'"),
                          (["--data", data, "--predictions", data / "Annotations", "--convention", "x"], "unknown convention 'x'")):
        done = run(*argv, cwd=data.parent)
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


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
    assert len(alive) == 6 and set(alive) == {0}


def test_weights_for_spectral_merging_come_from_a_file(tmp_path):
    backbone = KeyFeatures("vit_small_patch8_224.dino", 4, (11,))
    torch.save(backbone.model.state_dict(), tmp_path / "dino.pth")
    merge = get_merger("spectral", tmp_path / "dino.pth")
    images, masks = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48).softmax(1)
    torch.testing.assert_close(merge.features(masks, images), Spectral(backbone).features(masks, images))
    with pytest.raises((ValueError, FileNotFoundError), match="nothing.pth"):
        get_merger("spectral", tmp_path / "nothing.pth")


def test_earlier_results_are_refused_before_any_work(data):
    evaluated(data, data / "Annotations", protocol="label-free")
    before = (data.parent / "out/results.json").read_bytes()
    (data / "Annotations/wide/00002.png").write_bytes(b"not looked at")
    with pytest.raises(ValueError, match="results of an earlier evaluation are there"):
        evaluated(data, data / "Annotations")
    assert (data.parent / "out/results.json").read_bytes() == before


def test_masks_are_merged_by_motion_unless_told_otherwise(data, capsys):
    "And by the border where a clip has a single frame, in which nothing moves."
    from gwm_nb.benchmarks import by_border, gwm_evaluate, predicted, sequences_there
    from gwm_nb.checkpoints import save
    from gwm_nb.network import create_network
    save(create_network("small", 4), data.parent / "net.safetensors")
    gwm_evaluate(data.parent / "net.safetensors", data=data, protocol="published", size="32x48")
    assert "merged by motion" in capsys.readouterr().out
    network = create_network("convnext_atto", 4, pretrained=False)          # its masks are half as large as the flow
    pair = lambda merge: predicted(network, sequences_there(data, ["wide"])[0][0], {}, merge, (32, 48)).pair
    assert pair(by_motion).shape == (4, 2, 16, 24)
    for kind in ("JPEGImages", "Annotations"):
        for t in range(1, 4): (data / f"{kind}/wide/{t:05d}.png").unlink()
    assert pair(by_motion).equal(pair(by_border)) and len(pair(by_motion)) == 1
