"Protocols, measuring of files, and the command that reports them."
import csv
import itertools
import weakref

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from gwm_nb.benchmarks import (Sequence, annotated_sequences, counted_frames, evaluate_files,
                               load_predictions, measure_files, predict_sequence, protocol_result,
                               protocols, skipped_frames, suitable_protocols)
from gwm_nb.checkpoints import save
from gwm_nb.commands import gwm_evaluate
from gwm_nb.cutouts import write_labels
from gwm_nb.evaluate import boundary_f, jaccard
from gwm_nb.merging import get_merger, merge_by_border, merge_by_motion
from gwm_nb.network import create_network
from gwm_nb.reports import read_results
from inputs import Bright, write_image


# ---- protocols

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
    assert J("per-sequence") == J("label-free") == J("per-sequence", (True, False)) == [1, 0, 1]
    assert J("label-free", (True, False)) == [0, 1, 0]


def test_void_pixels_count_for_nobody():
    labels = with_square()
    labels[:, :, 25:] = 255
    mask = torch.tensor(labels > 0).float()                   # wrong in the void alone
    for name in suitable_protocols():
        sequence = sequence_of(torch.stack([1 - mask, mask], 1), labels)
        (found,) = protocols[name].measure(sequence).values()
        assert found["J"] == found["F"] == 1


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


def test_the_mean_of_k_way_is_over_objects():
    frame = lambda value, objects: dict(J=value, F=value, objects=objects)
    sequences = dict(a={0: frame(1., 1)}, b={0: frame(.5, 3), 1: frame(.3, 3)})
    result = protocol_result("k-way", sequences, "DAVIS")
    assert result["J"] == pytest.approx((1 + 3 * .4) / 4)
    assert (result["average_over"], result["left_out"]) == ("objects", "none")


def test_frames_that_do_not_count():
    frames = {t: dict(J=t / 10, F=1.) for t in range(6)}
    for protocol, convention, left in (("published", "DAVIS", [2, 3, 4, 5]),
                                       ("label-free", "DAVIS", [1, 2, 3, 4]),
                                       ("k-way", "DAVIS", [0, 1, 2, 3, 4, 5]),
                                       ("published", "frames", [0, 1, 2, 3, 4, 5])):
        assert list(counted_frames(frames, 6, protocol, convention)) == left
    assert list(counted_frames({0: 0, 5: 0}, 9, "label-free", "DAVIS")) == [5]
    with pytest.raises(ValueError, match="published: .* 2 .*0 and 1.*--clips"):
        counted_frames({0: 0, 1: 0}, 9, "published", "DAVIS")


@pytest.mark.parametrize("names, skipped", [
    ("0 1 2 4", "3"), ("008 009 010 013", "011 012"), ("f_1 f_4 f_7 f_13", "f_10"),
    ("0 3 6 9", ""), ("a b d", ""), ("0 7", ""), ("5", ""), ("a1 b3 c5", "")])
def test_skipped_numbers_of_frames(names, skipped):
    assert skipped_frames(names.split()) == skipped.split()


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


def rows_of(out):
    rows = csv.DictReader((out / "results.csv").read_text().splitlines())
    return {(r["protocol"], r["sequence"]): r for r in rows}


def test_annotations_are_perfect(data, capsys):
    found = evaluated(data, data / "Annotations")
    assert list(found) == suitable_protocols() == [name for name in protocols if name != "moca"]
    printed = capsys.readouterr().out.splitlines()
    for name, r in found.items():
        assert (r["J"], r["F"], r["J recall"], r["J decay"]) == (1, 1, 1, 0)
        (caption,) = [line for line in printed if line.startswith(f"{name}: ")]
        assert ("does not look at" not in caption) == r["looks_at_labels"] == (name != "label-free")
    assert list(found["published"]["sequences"]["long"]) == ["00000", "00001", "00002", "00004"]


def test_what_is_written_and_compared(data, capsys):
    "Masks are what the official tools read: one byte a pixel with a palette, named as the frames."
    moved, out = evaluated(data, shifted(data, 4))["label-free"], data.parent / "out"
    assert moved["J"] == pytest.approx(16 / 24) and moved["F"] < 1
    assert sorted(p.name for p in out.iterdir()) == ["masks", "report.html", "results.csv",
                                                     "results.json"]
    rows = rows_of(out)
    assert len(rows) == 5 * 3 and rows["published", ""]["looks_at_labels"] == "True"
    assert float(rows["label-free", ""]["J"]) == pytest.approx(16 / 24)
    files = {p.relative_to(out / "masks"): p for p in (out / "masks").glob("*/*.png")}
    assert len(files) == 8
    for name, file in files.items():
        with Image.open(file) as image:
            assert image.mode == "P" and image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            wanted = cv2.imread(str(data.parent / "moved4" / name), 0) > 0
            assert (np.array(image) == wanted).all()
    evaluated(data, data / "Annotations", "perfect", clips=["long"], protocol="published")
    gwm_evaluate(None, compare=[data.parent / "perfect", out])
    assert "-0.333" in capsys.readouterr().out


@pytest.fixture
def two(tmp_path):
    "A clip of two objects, one of which is away for a while; and how to write predictions of it."
    labels = np.zeros((10, 60, 90), np.uint8)
    for t in range(10):
        labels[t, 35:55, 60 - 3 * t:80 - 3 * t] = 2
        if not 4 <= t <= 7: labels[t, 8:24, 10 + 3 * t:30 + 3 * t] = 1
        write_image(tmp_path / f"two/JPEGImages/s/{t:05d}.png", labels[t] * 90)
        write_image(tmp_path / f"two/Annotations/s/{t:05d}.png", labels[t])

    def predict(name, draw, ending="png"):
        for t in range(10):
            write_image(tmp_path / f"{name}/s/{t:05d}.{ending}", draw(labels[t]).astype(np.uint8))
        return tmp_path / name
    return tmp_path / "two", predict


@pytest.mark.parametrize("values, told", [
    ([0, 128, 255], "ids"), ([0, 1, 255], "ids"), ([0, 7, 3], "ids"), ([0, 20, 10], "ids"),
    ([[0, 0, 0], [30, 200, 30], [30, 30, 200]], "colours"),
    ([[0, 0, 0], [255, 255, 255], [30, 30, 200]], "colours")])
def test_predictions_have_one_meaning_for_a_sequence(two, values, told, capsys):
    data, predict = two
    found = evaluated(data, predict("p", lambda x: np.array(values)[x]))
    assert all(r["J"] == r["F"] == 1 for r in found.values())
    line = f"predictions are read as: {told}, 2 objects\n"
    assert capsys.readouterr().out.count(line) == 1
    assert found["k-way"]["predictions_read_as"] == {"s": f"{told}, 2 objects"}
    assert found["k-way"]["annotations_read_as"] == {"s": "ids, 2 objects"}


def test_how_predictions_are_read_can_be_said(two):
    data, predict = two
    label_free = lambda *of, **how: evaluated(data, *of, protocol="label-free", **how)["label-free"]
    read_as = lambda r: r["predictions_read_as"]["s"]
    jpeg = label_free(predict("p", lambda x: np.where(x > 0, 255, 0), "jpg"), "a")
    assert jpeg["J"] > .97 and read_as(jpeg) == "shades, 1 object"
    unclear = predict("q", lambda x: np.dstack([(x == 1) * 255] + [(x > 0) * 255] * 3))
    assert read_as(label_free(unclear, "b")) == "alpha, 1 object"
    shades = label_free(predict("r", lambda x: x * 90), "c", read_as="shades")
    assert read_as(shades) == "shades, 1 object" and shades["J"] < .8
    noise = predict("s", lambda x: np.random.default_rng(0).integers(0, 256, (60, 90, 3)))
    for of, read_as, says in ((unclear, "masks", "masks.*ids, colours, shades, alpha"),
                              (noise, None, "--read-as"), (None, "ids", "--predictions")):
        with pytest.raises(ValueError, match=says):
            label_free(of, "d", read_as=read_as)


def test_hundreds_of_objects_are_matched(tmp_path):
    "210 objects in 8 bits, 300 in 16; of the first 83 are found, of the second all."
    labels = np.kron(np.arange(320).reshape(16, 20), np.pad(np.ones((6, 6), int), (0, 2)))
    for name, n, kept in (("many", 210, 83), ("wide", 300, 300)):
        truth = np.where(labels <= n, labels, 0).astype(np.uint16 if n > 255 else np.uint8)
        found = np.where(truth > n - kept, truth, 0).astype(truth.dtype)
        images = {"set/JPEGImages": truth.astype(np.uint8), "set/Annotations": truth, "p": found}
        for place, t in itertools.product(images, range(2)):
            write_image(tmp_path / place / name / f"{t}.png", images[place])
    found = evaluated(tmp_path / "set", tmp_path / "p", protocol="k-way,label-free,fbms")
    first = {name: found["k-way"]["sequences"][name]["0"] for name in ("many", "wide")}
    assert first["many"]["J"] == pytest.approx(83 / 210, abs=1e-3)
    assert first["wide"]["J"] == found["fbms"]["sequences"]["wide"]["0"]["J"] == 1
    assert first["wide"]["objects"] == 300


def test_several_objects_that_count_as_one_are_told(data):
    "The background, two objects and a void; the truth itself is measured."
    for file in (data / "Annotations/wide").glob("*.png"):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:20, 8:28], labels[22:30, 8:28], labels[40:, 60:] = 1, 4, 255
        write_labels(file, labels)
    found, rows = evaluated(data, data / "Annotations"), rows_of(data.parent / "out")
    as_one = {"published", "per-sequence", "label-free"}
    assert {n for n in suitable_protocols() if found[n]["taken_as_one"] == {"wide": 2}} == as_one
    assert {n for n in suitable_protocols() if rows[n, "wide"]["taken_as_one"]} == as_one
    assert found["label-free"]["J"] == 1


def test_frames_without_annotation_and_annotations_without_frame_are_told(data):
    "Of long frame 3 has no annotation; of wide one frame is gone, then its annotation, too."
    evaluate = lambda *out, **options: evaluated(
        data, data / "Annotations", *out, protocol="fbms", **options)["fbms"]
    (data / "JPEGImages/wide/00002.png").unlink()
    result = evaluate()
    assert result["without_annotation"] == {"long": 1} and result["frames"] == 4 + 3
    assert result["missing_frames"] == {"wide": ["00002"]}
    (data / "Annotations/wide/00002.png").unlink()
    assert evaluate("again")["missing_frames"] == {"wide": ["00002"]}        # by the numbers
    assert evaluate("one", clips=["long"])["missing_frames"] == {}
    (data / "JPEGImages/wide/00003.png").unlink()
    assert evaluate("last")["missing_frames"] == {"wide": ["00003"]}


def renumber(data):
    for f in sorted((data / "Annotations/wide").glob("*"), reverse=True):
        f.rename(f.with_name(f"{int(f.stem) + 1:05d}.png"))


def shrink(*places):
    "Overwrite files with smaller images."
    return lambda data: [write_image(file, np.zeros((24, 32), np.uint8))
                         for place in places for file in data.parent.glob(place)]


def remove(place, folder=False):
    def spoil(data):
        for file in data.parent.glob(place): file.unlink()
        if folder: file.parent.rmdir()
    return spoil


def spoil_image(data): (data / "Annotations/wide/00002.png").write_bytes(b"no image")


@pytest.mark.parametrize("spoil, says", [
    (remove("moved0/long/00002.png"), "long: .*00002 .1 of 4"),
    (shrink("moved0/wide/00001.png"), "wide/00001.png .*32x24.* 64x48"),
    (remove("set/Annotations/wide/*", folder=True), "wide .*no annotation"),
    (remove("set/Annotations/wide/*"), "Annotations/wide: no images"),
    (shrink("set/Annotations/wide/00002.png"), "wide/00002.png .*32x24.* 64x48"),
    (shrink("set/Annotations/wide/*", "moved0/wide/*"), "wide/00000.png .*32x24.* 64x48"),
    (shrink("set/JPEGImages/wide/00002.png"), "wide: .*00002 .*32x24, .* 00000 .*64x48"),
    (renumber, "annotation 00004 .* 00001 to 00004, frames 00000 to 00003"),
    (spoil_image, "wide/00002.png: not a readable image")])
def test_what_is_wrong_is_named(data, spoil, says):
    predictions = shifted(data, 0)
    spoil(data)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        evaluated(data, predictions)
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
    with pytest.raises(ValueError, match="00002 .*annotation"):
        evaluated(data, data / "Annotations", "again")


def test_a_network_is_measured_at_the_annotation_s_size(data):
    merge, seen = get_merger("none"), []

    def source(clip, names, truths):
        sequence = predict_sequence(Bright(), clip, truths, merge, (24, 32))
        seen.append(tuple(sequence.masks.shape))
        return sequence
    results = evaluate_files(source, data, ["published", "label-free"], data.parent / "out")
    assert seen == [(5, 2, 24, 32), (4, 2, 24, 32)] and all(.9 < r["J"] <= 1 for r in results)
    assert len(list((data.parent / "out/masks/long").iterdir())) == 5      # the unannotated, too
    shrink("set/Annotations/wide/00002.png")(data)
    with pytest.raises(ValueError, match="wide/00002.png .*32x24"):
        evaluate_files(source, data, ["published"])
    assert len(seen) == 2                           # found before the first sequence is measured


@pytest.mark.parametrize("argv, says", [
    ("", "--predictions"), ("nothing.safetensors", "nothing.safetensors"),
    ("--predictions none", "none: no such folder"),
    ("--predictions set/Annotations --protocol best", "'best'"),
    ("--predictions set/Annotations --convention x", "'x'"),
    ("--predictions set/Annotations --protocol label-free", None)])
def test_the_command_line(data, argv, says, call):
    printed, end = call(gwm_evaluate, *argv.split(), "--data", data, cwd=data.parent)
    assert says in end if says else end is None and "1.000" in printed


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
    evaluated(data, data / "Annotations", protocol="label-free")
    before = (data.parent / "out/results.json").read_bytes()
    spoil_image(data)
    with pytest.raises(ValueError, match="out .*choose another folder"):
        evaluated(data, data / "Annotations")
    assert (data.parent / "out/results.json").read_bytes() == before


def test_masks_are_merged_by_motion_unless_told_otherwise(data, capsys):
    "And by the border where a clip has a single frame, in which nothing moves."
    save(create_network("small", 4), data.parent / "net.safetensors")
    gwm_evaluate(data.parent / "net.safetensors", data=data, protocol="published", size="32x48")
    assert "merged by motion" in capsys.readouterr().out
    network = create_network("convnext_atto", 4, pretrained=False)  # masks of half the flow's size
    pair = lambda merge: predict_sequence(network, annotated_sequences(data, ["wide"])[0][0], {},
                                          merge, (32, 48)).pair
    assert pair(merge_by_motion).shape == (4, 2, 16, 24)
    remove("set/*/wide/0000[123].png")(data)
    assert pair(merge_by_motion).equal(pair(merge_by_border)) and len(pair(merge_by_motion)) == 1
