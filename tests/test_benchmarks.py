"Protocols, measuring of files, and the command that reports them."
import csv
import itertools
import shutil
import weakref

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from gwm_nb.benchmarks import (Sequence, annotated_sequences, counted_frames, load_predictions,
                               measure_files, predict_sequence, protocol_result, protocols,
                               suitable_protocols)
from gwm_nb.checkpoints import save
from gwm_nb.commands import gwm_evaluate
from gwm_nb.evaluate import boundary_f, jaccard
from gwm_nb.merging import merge_by_border, merge_by_motion
from gwm_nb.network import create_network
from gwm_nb.reports import read_results
from inputs import refused, remove, write_frames, write_image


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
        sequences[name] = counted_frames(measured, len(rows), "published", convention)
    result = protocol_result("published", sequences, convention, "spectral")
    assert result["J"] * 100 == pytest.approx(float(z[key]), abs=1e-5)
    assert result["looks_at_labels"] and result["merged_by"] == "spectral"
    assert result["left_out"] == ("none", "frames 0 and 1 of each sequence")[convention == "DAVIS"]
    assert result["frames"] == (9 if convention == "DAVIS" else 15)


def sequence_of(masks, labels, chosen=(False, True)):
    return Sequence(masks, masks[:, :2], torch.tensor(chosen), dict(enumerate(labels)))


def test_a_choice_each_frame_and_one_for_all():
    "The right mask changes places in one frame of three."
    labels = np.zeros((3, 20, 30), np.uint8)
    labels[:, 5:15, 10:20] = 1
    right = torch.tensor(labels).float()
    inside = torch.stack([right[0], 1 - right[1], right[2]])
    masks = torch.stack([1 - inside, inside], 1)
    J = lambda name, *chosen: [m["J"] for m in protocols[name].measure(
        sequence_of(masks, labels, *chosen)).values()]
    assert J("published") == [1, 1, 1]
    assert J("per-sequence") == J("label-free") == J("per-sequence", (True, False)) == [1, 0, 1]
    assert J("label-free", (True, False)) == [0, 1, 0]


def test_objects_are_matched_as_by_trying_all():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (3, 6, 8)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    masks = torch.tensor(rng.random((3, 5, 24, 32))).softmax(1)
    masks[:, 2] += torch.tensor(labels == 3)
    masks[:, 0] += torch.tensor(labels == 1)
    sequence, part = sequence_of(masks, labels, [False] * 5), masks.argmax(1).numpy()
    table = {(measure, t, k, n): measure(part[t] == k, labels[t] == n + 1)
             for measure in (jaccard, boundary_f) for t in range(3) for k in range(5)
             for n in range(3)}
    mean = lambda measure, t, ks: np.mean([table[measure, t, k, n] for n, k in enumerate(ks)])
    best = max(itertools.permutations(range(5), 3),
               key=lambda ks: sum(mean(m, t, ks) for m in (jaccard, boundary_f) for t in range(3)))
    for t, frame in protocols["k-way"].measure(sequence).items():
        truth, own, inside = labels[t].ravel(), part[t].ravel(), labels[t].ravel() > 0
        assert frame == pytest.approx({
            "J": mean(jaccard, t, best), "F": mean(boundary_f, t, best), "objects": 3,
            "ARI": adjusted_rand_score(truth, own),
            "foreground ARI": adjusted_rand_score(truth[inside], own[inside])})


def test_a_missing_proposal_counts_as_empty():
    "The third object is there in one frame of two; the fourth frame has no object at all."
    labels = np.zeros((2, 20, 30), np.uint8)
    labels[:, :8, :10], labels[:, 10:, 20:], labels[0, 10:, :10] = 1, 2, 3
    mask = torch.tensor(labels == 1).float()
    found = protocols["k-way"].measure(sequence_of(torch.stack([mask, 1 - mask], 1), labels))
    rest = jaccard(labels != 1, labels == 2)
    wanted = [(1 + rest[0] + 0) / 3, (1 + rest[1] + 1) / 3]
    assert [found[t]["J"] for t in (0, 1)] == pytest.approx(wanted)
    nothing = sequence_of(torch.stack([1 - mask, mask * 0], 1), labels * 0)
    assert protocols["k-way"].measure(nothing)[0]["foreground ARI"] == 1


def test_frames_that_do_not_count_and_the_mean_of_k_way_is_over_objects():
    frames = {t: dict(J=t / 10, F=1.) for t in range(6)}
    for protocol, convention, left in (("published", "DAVIS", [2, 3, 4, 5]),
                                       ("label-free", "DAVIS", [1, 2, 3, 4]),
                                       ("k-way", "DAVIS", [0, 1, 2, 3, 4, 5]),
                                       ("published", "frames", [0, 1, 2, 3, 4, 5])):
        assert list(counted_frames(frames, 6, protocol, convention)) == left
    assert list(counted_frames({0: 0, 5: 0}, 9, "label-free", "DAVIS")) == [5]
    refused(counted_frames, {0: 0, 1: 0}, 9, "published", "DAVIS",
            says="published: .* 2 .*0 and 1.*--clips")
    frame = lambda value, objects: dict(J=value, F=value, objects=objects)
    sequences = dict(a={0: frame(1., 1)}, b={0: frame(.5, 3), 1: frame(.3, 3)})
    result = protocol_result("k-way", sequences, "DAVIS")
    assert result["J"] == pytest.approx((1 + 3 * .4) / 4)
    assert (result["average_over"], result["left_out"]) == ("objects", "none")


@pytest.fixture
def data(tmp_path):
    "Two clips of bright squares; one has five frames, of which four are annotated."
    for clip, n in (("long", 5), ("wide", 4)):
        frames = np.zeros((n, 48, 64), np.uint8)
        for t in range(n):
            frames[t, 10:30, 8 + 2 * t:28 + 2 * t] = 255
        for kind in ("JPEGImages", "Annotations"):
            write_frames(tmp_path / "set" / kind / clip, frames)
    (tmp_path / "set/Annotations/long/00003.png").unlink()
    return tmp_path / "set"


def evaluated(data, predictions, out="out", **options):
    gwm_evaluate(None, data=data, predictions=predictions, save=data.parent / out, **options)
    return {r["protocol"]: r for r in read_results(data.parent / out)}


def rows_of(out):
    rows = csv.DictReader((out / "results.csv").read_text().splitlines())
    return {(r["protocol"], r["sequence"]): r for r in rows}


def test_what_is_written_and_compared(data, capsys):
    "Masks are what the official tools read: one byte a pixel with a palette, named as the frames."
    predictions, out = data.parent / "moved", data.parent / "out"
    for file in sorted((data / "Annotations").glob("*/*.png")):
        moved = np.roll(cv2.imread(str(file), 0), 4, 0)
        write_image(predictions / file.parent.name / f"{file.stem}.jpg", moved)
    found = evaluated(data, predictions)
    assert found["label-free"]["J"] == pytest.approx(16 / 24) and found["label-free"]["F"] < 1
    assert list(found) == suitable_protocols() == [name for name in protocols if name != "moca"]
    assert {n for n, r in found.items() if not r["looks_at_labels"]} == {"label-free"}
    assert sorted(p.name for p in out.iterdir()) == ["masks", "report.html", "results.csv",
                                                     "results.json"]
    rows = rows_of(out)
    assert len(rows) == 5 * 3 and rows["published", ""]["looks_at_labels"] == "True"
    files = sorted((out / "masks").glob("*/*.png"))
    assert len(files) == 8
    for file in files:
        with Image.open(file) as image:
            assert image.mode == "P" and image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            name = file.relative_to(out / "masks").with_suffix(".jpg")
            wanted = cv2.imread(str(predictions / name), 0) > 127
            assert (np.array(image) == wanted).all()
    perfect = evaluated(data, data / "Annotations", "perfect", clips=["long"], protocol="published")
    assert list(perfect["published"]["sequences"]["long"]) == ["00000", "00001", "00002", "00004"]
    gwm_evaluate(None, compare=[data.parent / "perfect", out])
    assert "-0.333" in capsys.readouterr().out


def test_hundreds_of_objects_are_matched(tmp_path, capsys):
    "Of 300 objects in 16 bits 83 are found."
    labels = np.kron(np.arange(320).reshape(16, 20), np.pad(np.ones((6, 6), int), (0, 2)))
    truth = np.where(labels <= 300, labels, 0).astype(np.uint16)
    found = np.where(truth > 217, truth, 0).astype(np.uint16)
    for place, image in dict(JPEGImages=truth.astype(np.uint8), Annotations=truth, p=found).items():
        write_frames(tmp_path / place / "many", [image] * 2)
    result = evaluated(tmp_path, tmp_path / "p", protocol="k-way")["k-way"]
    assert capsys.readouterr().out.count("predictions are read as: ") == 1
    assert result["predictions_read_as"] == {"many": "ids, 83 objects"}
    first = result["sequences"]["many"]["00000"]
    assert (first["J"], first["objects"]) == (pytest.approx(83 / 300, abs=1e-3), 300)
    again = evaluated(tmp_path, tmp_path / "p", "again", protocol="k-way", read_as="shades")
    assert again["k-way"]["predictions_read_as"] == {"many": "shades, 1 object"}


def test_several_objects_that_count_as_one_are_told(data):
    "The background, two objects and a void; the truth itself is measured."
    labels = np.zeros((48, 64), np.uint8)
    labels[10:20, 8:28], labels[22:30, 8:28], labels[40:, 60:] = 1, 4, 255
    write_frames(data / "Annotations/wide", [labels] * 4)
    found, rows = evaluated(data, data / "Annotations"), rows_of(data.parent / "out")
    as_one = {"published", "per-sequence", "label-free"}
    assert {n for n in suitable_protocols() if found[n]["taken_as_one"] == {"wide": 2}} == as_one
    assert {n for n in suitable_protocols() if rows[n, "wide"]["taken_as_one"]} == as_one
    assert found["label-free"]["J"] == 1


def test_frames_without_annotation_and_annotations_without_frame_are_told(data):
    "Of long frame 3 has no annotation; of wide one frame is gone, then its annotation, too."
    evaluate = lambda out: evaluated(data, data / "Annotations", out, protocol="fbms")["fbms"]
    (data / "JPEGImages/wide/00002.png").unlink()
    result = evaluate("out")
    assert result["without_annotation"] == {"long": 1} and result["frames"] == 4 + 3
    assert result["missing_frames"] == {"wide": ["00002"]}
    (data / "Annotations/wide/00002.png").unlink()
    assert evaluate("again")["missing_frames"] == {"wide": ["00002"]}        # by the numbers


def shrink(*places):
    return lambda data: [write_image(file, np.zeros((24, 32), np.uint8))
                         for place in places for file in data.parent.glob(place)]


@pytest.mark.parametrize("spoil, says", [
    (remove("../found/long/00002.png"), "long: .*00002 .1 of 4"),
    (shrink("found/wide/00001.png"), "wide/00001.png .*32x24.* 64x48"),
    (lambda data: shutil.rmtree(data / "Annotations/wide"), "wide .*no annotation"),
    (shrink("set/Annotations/wide/*", "found/wide/*"), "wide/00000.png .*32x24.* 64x48"),
    (shrink("set/JPEGImages/wide/00002.png"), "wide: .*00002 .*32x24, .* 00000 .*64x48"),
    (lambda data: (data / "Annotations/wide/00000.png").rename(
        data / "Annotations/wide/00004.png"), "annotation 00004 .*, frames 00000 to 00003"),
    (lambda data: (data / "Annotations/wide/00002.png").write_bytes(b"no image"),
     "wide/00002.png: not a readable image")])
def test_what_is_wrong_is_named(data, spoil, says):
    shutil.copytree(data / "Annotations", data.parent / "found")
    spoil(data)
    refused(evaluated, data, data.parent / "found",
            says=says, error=(ValueError, FileNotFoundError))
    assert not (data.parent / "out").exists()


def test_a_known_data_set_names_what_is_missing(data, capsys):
    data = data.rename(data.parent / "DAVIS2016")
    for kind in ("JPEGImages", "Annotations"):
        (data / kind / "wide").rename(data / kind / "dog")
    found = evaluated(data, data / "Annotations")["published"]
    assert "19 validation sequences are missing: blackswan, bmx" in capsys.readouterr().out
    assert found["left_out"] == "frames 0 and 1 of each sequence"
    assert list(found["sequences"]["dog"]) == ["00002", "00003"]
    (data / "Annotations/dog/00002.png").unlink()
    refused(evaluated, data, data / "Annotations", "again", says="00002 .*annotation")


@pytest.mark.parametrize("argv, says", [
    ("", "--predictions"), ("--predictions none", "none: no such folder"),
    ("--predictions set/Annotations --read-as masks", "ids, colours, shades, alpha"),
    ("nothing.safetensors --read-as ids", "--predictions"),
    ("--predictions set/Annotations --protocol best", "'best'"),
    ("--predictions set/Annotations --polish guided", "--polish"),
    ("nothing.safetensors --polish flow+wax", "'wax'"),
    ("--predictions set/Annotations --convention x", "'x'")])
def test_a_wrong_command_line(data, argv, says, call):
    assert says in call(gwm_evaluate, *argv.split(), "--data", data, cwd=data.parent)[1]


def test_one_sequence_in_memory_at_a_time(data):
    made, alive = [], []

    def source(clip, names, truths):
        alive.append(sum(ref() is not None for ref in made))
        sequence = load_predictions(data / "Annotations", clip, names, truths)
        made.append(weakref.ref(sequence))
        return sequence
    measure_files(annotated_sequences(data)[0] * 3, source, suitable_protocols())
    assert alive == [0] * 6


def test_earlier_results_are_refused_before_any_work(data):
    (data.parent / "out").mkdir()
    (data.parent / "out/results.json").write_text("mine")
    (data / "Annotations/wide/00002.png").write_bytes(b"no image")
    refused(evaluated, data, data / "Annotations", says="out .*choose another folder")
    assert (data.parent / "out/results.json").read_text() == "mine"


def test_masks_are_merged_by_motion_unless_told_otherwise(data, capsys):
    "And by the border where a clip has a single frame, in which nothing moves."
    save(create_network("small", 4), data.parent / "net.safetensors")
    gwm_evaluate(data.parent / "net.safetensors", data=data, protocol="published", size="32x48")
    assert "merged by motion" in capsys.readouterr().out
    network = create_network("convnext_atto", 4, pretrained=False)  # masks of half the flow's size
    pair = lambda merge: predict_sequence(network, annotated_sequences(data, ["wide"])[0][0], {},
                                          merge, (32, 48)).pair
    assert pair(merge_by_motion).shape == (4, 2, 16, 24)
    remove("*/wide/0000[123].png")(data)
    assert pair(merge_by_motion).equal(pair(merge_by_border)) and len(pair(merge_by_motion)) == 1
