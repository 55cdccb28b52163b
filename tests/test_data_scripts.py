"The data scripts on miniatures of the published archives: what they write, twice, and refuse."
import hashlib
import importlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from gwm_nb.cutouts import write_labels
from gwm_nb.files import list_images, read_mask, write_mask

scripts = Path(__file__).resolve().parent.parent / "data_scripts"
NAMES = sorted({p.stem for p in scripts.glob("[a-z]*.py")} - {"score_clips"})
H, W = 12, 16


@pytest.fixture
def script(monkeypatch):
    "Import a script by its name; its counts can then be patched."
    monkeypatch.syspath_prepend(str(scripts))
    return importlib.import_module


@pytest.fixture
def run(script, monkeypatch, tmp_path, capsys):
    "Call a script in an empty folder. Returns what it printed, or the one line it stopped with."
    work = tmp_path / "work"
    work.mkdir()

    def call(name, *argv, function=None):
        monkeypatch.chdir(work)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, argv)])
        capsys.readouterr()
        try:
            getattr(script(name), function or name)()
        except SystemExit as stop:
            assert isinstance(stop.code, str) and "\n" not in stop.code
            assert stop.code.startswith(f"{function or name}: "), stop.code
            return stop.code
        return capsys.readouterr().out
    call.work = work
    return call


def picture(kind, value=90, size=(H, W)):
    "A plain image of some format, as bytes."
    return cv2.imencode(kind, np.full((*size, 3), value, np.uint8))[1].tobytes()


def mask(kind, values, colour=False):
    "Columns of the given values (grey, or BGR colours), as bytes."
    columns = np.zeros((H, len(values), 3), np.uint8)
    columns[:] = np.array(values, np.uint8).reshape(len(values), -1)
    return cv2.imencode(kind, columns if colour else columns[..., 0])[1].tobytes()


def columns(path):
    "The one row that all rows of a written mask are."
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels.ndim == 2 and pixels.dtype == np.uint8 and (pixels == pixels[:1]).all()
    return pixels[0].tolist()


def as_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_tar(path, files):
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def as_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def written(folder):
    "{path: (content, time)} of all files of data sets, the record aside."
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "prepared.json")
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def contents(folder): return {name: data for name, (data, _) in written(folder).items()}


# ---- miniatures: {script: {archive: {member: bytes}}}

def davis(sequences=("bear", "dog"), resolutions=("480p", "1080p")):
    files = {"DAVIS/README.md": b"readme", "__MACOSX/DAVIS/JPEGImages/480p/bear/._0.jpg": b"junk"}
    for r in resolutions:
        size = (H, W) if r == "480p" else (2 * H, 2 * W)
        files[f"DAVIS/ImageSets/{r}/train.txt"] = b"/JPEGImages/480p/bear/00000.jpg\n"
        for s in sequences:
            for t in range(2):
                files[f"DAVIS/JPEGImages/{r}/{s}/{t:05d}.jpg"] = picture(".jpg", 20 + t, size)
                files[f"DAVIS/Annotations/{r}/{s}/{t:05d}.png"] = mask(".png", [0, 255, t])
    return files


def definition(frames, names):
    "The text that lies beside the annotations of an FBMS sequence."
    listed = "".join(f"Frame number:\n{i}\nFile name:\n{n}\n" for i, n in enumerate(names))
    counts = (f"Total number of frames in this shot:\n{frames}\n"
              f"Total number of labeled frames for this shot:\n{len(names)}\n")
    return f"Total number of regions:\n2\n\nScale of region 1:\n255\n\n{counts}{listed}".encode()


WHITE, BLUE, DARK = (255, 255, 255), (255, 0, 0), (0, 0, 60)        # BGR; grey levels 255, 29, 18


def fbms_train():
    files, place = {}, "Trainingset/bear01"
    for t in (4, 1, 3, 2):                                          # archives are in no order
        files[f"{place}/bear01_{t:04d}.jpg"] = picture(".jpg", 10 * t)
    for t in (1, 3):
        truth = f"{place}/GroundTruth/bear01_{t:04d}"
        files[f"{truth}_gt.ppm"] = mask(".ppm", [WHITE, BLUE, DARK, (30, 200, 90)], colour=True)
        files[f"{truth}_gt.pgm"] = mask(".pgm", [0, 0, 0, 0])       # the grey copy is not taken
        files[f"{truth}_PROB_gt.ppm"] = mask(".ppm", [WHITE] * 4, colour=True)
    names = ["bear01_0001_gt.ppm", "bear01_0003_gt.ppm"]
    return files | {f"{place}/GroundTruth/bear01Def.dat": definition(4, names)}


def fbms_test():
    files, grey = {}, [0, 12, 13, 25, 26, 102, 103, 255]  # beside the thresholds .05, .1, .4
    for s, first, digits, separator in (("cars1", 1, 2, "_"), ("marple2", 1, 3, "_"),
                                        ("marple7", 1, 3, "_"), ("marple4", 324, 3, "_"),
                                        ("tennis", 454, 3, "")):
        name = [f"{s}{separator}{first + t:0{digits}d}" for t in range(3)]
        place = f"Testset/{s}"
        files |= {f"{place}/{name[t]}.jpg": picture(".jpg", 50 + t) for t in range(3)}
        files |= {f"{place}/GroundTruth/{name[t]}.pgm": mask(".pgm", grey) for t in (0, 2)}
        annotated = [f"{name[0]}.pgm", f"{name[2]}.pgm"]
        files[f"{place}/GroundTruth/{s}Def.dat"] = definition(3, annotated)
    return files


def segtrack():
    files = {"ImageSets/all.txt": b"*girl\n*cheetah\n*worm\n", "GroundTruth/girl/Thumbs.db": b"",
             "ImageSets/cheetah.txt": b"cheetah/\ncheetah_00001\ncheetah_00002\n",
             "JPEGImages/CSI_NY.jpg": picture(".jpg")}
    for t in (1, 2):
        for name, kind in ((f"girl/girl_{t:04d}", ".jpg"), (f"worm/worm_{t + 8:05d}", ".png"),
                           (f"cheetah/cheetah_{t:05d}", ".bmp")):
            files[f"JPEGImages/{name}{kind}"] = picture(kind, t)
        cheetah = f"cheetah_{t:05d}"
        files |= {f"GroundTruth/girl/girl_{t:04d}.png": mask(".png", [0, 127, 128, 255]),
                  f"GroundTruth/worm/worm_{t + 8:05d}.png": mask(".png", [255, 0, 0, 0]),
                  f"GroundTruth/cheetah/1/{cheetah}.bmp": mask(".bmp", [255, 0, 255, 0]),
                  f"GroundTruth/cheetah/2/{cheetah}.png": mask(".png", [0, 0, 255, 255])}
    return {f"SegTrackv2/{name}": data for name, data in files.items()}


BIRDS = ["001.Albatross/Albatross_0001_1", "001.Albatross/Albatross_0002_2", "002.Wren/Wren_0001_3"]


def cub():
    place = "CUB_200_2011/images"
    images = {f"{place}/{b}.jpg": picture(".jpg", 40 + i) for i, b in enumerate(BIRDS)}
    images[f"{place}/002.Wren/Wren_0001_3_rgb.jpg"] = picture(".jpg")       # strays are in no list
    images[f"{place}.txt"] = "".join(f"{i} {b}.jpg\n" for i, b in enumerate(BIRDS, 1)).encode()
    images["CUB_200_2011/train_test_split.txt"] = b"1 0\n2 1\n3 0\n"
    masks = {f"segmentations/{b}.png": mask(".png", [0, 51, 127, 128, 204, 255]) for b in BIRDS}
    return {"CUB_200_2011.tgz": images, "segmentations.tgz": masks}


def flowers():
    lists = io.BytesIO()
    savemat(lists, dict(trnid=np.array([[3, 1]]), valid=np.array([[2]]), tstid=np.array([[4, 5]])))
    near = [(254, 0, 0), (230, 24, 0), (230, 25, 0), (20, 0, 230)]  # blue, still, no more, red
    wide = np.array([c for c in near for _ in range(16)], np.uint8)        # blocks of JPEG
    exact = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
             cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    jpeg = cv2.imencode(".jpg", np.repeat(wide[None], 16, 0), exact)[1].tobytes()
    images = {f"jpg/image_{i:05d}.jpg": picture(".jpg", 9 * i) for i in range(1, 6)}
    masks = {f"segmim/segmim_{i:05d}.jpg": jpeg for i in range(1, 6)}
    return {"102flowers.tgz": images, "102segmentations.tgz": masks, "setid.mat": lists.getvalue()}


def salient(images, masks, *archives):
    "Three images with masks, in one archive or in two."
    pictures = {f"{images}/{i:04d}.jpg": picture(".jpg", i) for i in range(3)}
    pictures[f"__MACOSX/{images}/._0000.jpg"] = b"junk"
    truth = {f"{masks}/{i:04d}.png": mask(".png", [0, 127, 128, 255]) for i in range(3)}
    parts = (pictures, truth) if len(archives) > 1 else (pictures | truth,)
    return dict(zip(archives, parts))


def via(rows, exported=True):
    "A table of (frame, box, motion), as the VGG Image Annotator writes it or as it was published."
    if not exported:
        lines = [f"{i},/{f}.jpg,\"{box}\",{{'1': '{m}'}}\n" for i, (f, box, m) in enumerate(rows)]
        return ("x,file_list,spatial_coordinates,metadata\n" + "".join(lines)).encode()
    head = ("# Exported using VGG Image Annotator\n# CSV_HEADER = metadata_id,file_list,flags,"
            "temporal_coordinates,spatial_coordinates,metadata\n")
    return (head + "".join(f'"1_{i}","[""/{f}.jpg""]",0,"[]","{box}","{{""1"":""{m}""}}"\n'
                           for i, (f, box, m) in enumerate(rows))).encode()


BOXES = [("crab/00000", [2, 0, 0, 8, 6], 0), ("crab/00006", [2, 6, 3, 8, 6], 0),
         ("fossa/00003", [2, 4, 3, 4, 3], 2), ("fossa/00001", [2, 4, 3, 8, 6], 1),
         ("zebra/00000", [2, 0, 0, 4, 4], 0), ("fossa/00004", [], 0)]


def moca():
    files = {f"MoCA/JPEGImages/{s}/{t:05d}.jpg": picture(".jpg", 10 * t)
             for s, n in (("crab", 8), ("fossa", 4), ("zebra", 1)) for t in range(n)}
    return {"MoCA.zip": files | {"MoCA/Annotations/annotations.csv": via(BOXES)}}


def mini(folder, summary, make, **counts):
    return SimpleNamespace(folder=folder, summary=summary, make=make, counts=counts)


MINIATURES = {
    "davis2016": mini("DAVIS2016", "2 sequences, 4 frames, 4 annotations",
                      lambda: {"DAVIS-data.zip": davis()}, TRAIN=["bear"], VAL=["dog"], FRAMES=4),
    "fbms": mini("FBMS", "6 sequences, 19 frames, 12 annotations",
                 lambda: {"FBMS_Trainingset.zip": fbms_train(), "FBMS_Testset.zip": fbms_test()},
                 TRAIN=["bear01"], TEST=["cars1", "marple2", "marple7", "marple4", "tennis"]),
    "segtrackv2": mini("SegTrackv2", "3 sequences, 6 frames, 6 annotations",
                       lambda: {"SegTrackv2.zip": segtrack()},
                       SEQUENCES=["cheetah", "girl", "worm"]),
    "moca": mini("MoCA", "2 sequences, 5 frames, 5 annotations", moca,
                 SEQUENCES=["crab", "fossa"], FRAMES=5),
    "cub": mini("CUB_200_2011", "2 images, 2 masks", cub, TEST_IMAGES=2),
    "flowers": mini("Flowers", "2 images, 2 masks", flowers, TEST_IMAGES=2),
    "duts": mini("DUTS", "3 images, 3 masks",
                 lambda: salient("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", "DUTS-TE.zip"),
                 TEST_IMAGES=3),
    "dut_omron": mini("DUT_OMRON", "3 images, 3 masks",
                      lambda: salient("DUT-OMRON-image", "pixelwiseGT-new-PNG",
                                      "DUT-OMRON-image.zip", "DUT-OMRON-gt-pixelwise.zip.zip"),
                      IMAGES=3),
    "ecssd": mini("ECSSD", "3 images, 3 masks",
                  lambda: salient("images", "ground_truth_mask", "images.zip",
                                  "ground_truth_mask.zip"), IMAGES=3)}


def archives(name, folder):
    "The miniature as the archives that are published."
    folder.mkdir(parents=True, exist_ok=True)

    def pack(archive, files):
        if isinstance(files, bytes):
            return as_folder(folder, {archive: files}) / archive
        return (as_tar if archive.endswith(".tgz") else as_zip)(folder / archive, files)
    return [pack(*item) for item in MINIATURES[name].make().items()]


def unpacked(name, folder):
    "The miniature as the folder that the archives were unpacked to."
    for archive, files in MINIATURES[name].make().items():
        as_folder(folder, {archive: files} if isinstance(files, bytes) else files)
    return folder


@pytest.fixture
def small(script, monkeypatch):
    "Set the published counts of a script to those of its miniature."
    def patch(name):
        for constant, value in MINIATURES[name].counts.items():
            assert hasattr(script(name), constant)
            monkeypatch.setattr(script(name), constant, value)
        return MINIATURES[name].summary
    return patch


# ---- what is written

# {script: {written file: the columns of a mask, or the bytes of a frame}}
HALF = {"0002.png": [0, 0, 255, 255]}
WRITTEN = {
    "davis2016": {"JPEGImages/480p/dog/00001.jpg": picture(".jpg", 21),
                  "Annotations/480p/dog/00001.png": [0, 255, 1]},
    "fbms": {"JPEGImages/bear01/00003.jpg": picture(".jpg", 30),
             "JPEGImages/tennis/00002.jpg": picture(".jpg", 51),    # number 455 of the archive
             "JPEGImages/marple4/00001.jpg": picture(".jpg", 50),
             "Annotations/bear01/00001.png": [0, 255, 0, 255],      # white is background, and here
             "Annotations/cars1/00003.png": [0] * 4 + [255] * 4,    # the object
             "Annotations/tennis/00003.png": [0] * 4 + [255] * 4,
             "Annotations/marple7/00003.png": [0] * 2 + [255] * 6,
             "Annotations/marple2/00003.png": [0] * 6 + [255] * 2},
    "segtrackv2": {"JPEGImages/worm/worm_00010.png": picture(".png", 2),
                   "JPEGImages/cheetah/cheetah_00001.bmp": picture(".bmp", 1),
                   "Annotations/girl/girl_0001.png": [0, 0, 255, 255],
                   "Annotations/cheetah/cheetah_00002.png": [255, 0, 255, 255]},  # two objects
    "moca": {},
    "cub": {"test_images/Albatross_0001_1.jpg": picture(".jpg", 40),
            "test_images/Wren_0001_3.jpg": picture(".jpg", 42),
            "test_segmentations/Wren_0001_3.png": [0, 0, 0, 255, 255, 255]},
    "flowers": {"test_images/image_00001.jpg": picture(".jpg", 9),
                "test_images/image_00003.jpg": picture(".jpg", 27),
                "test_segmentations/image_00003.png": [0] * 32 + [255] * 32},
    "duts": {f"DUTS-TE/DUTS-TE-Mask/{n}": c for n, c in HALF.items()},
    "dut_omron": {f"pixelwiseGT-new-PNG/{n}": c for n, c in HALF.items()},
    "ecssd": {f"ground_truth_mask/{n}": c for n, c in HALF.items()}}


@pytest.mark.parametrize("name", NAMES)
def test_archives_and_folders_give_the_same_and_twice_changes_nothing(name, run, small, tmp_path):
    summary, sources = small(name), archives(name, tmp_path / "from")
    told = run(name, *sources, "--out", "a")
    assert summary in told and f"a/{MINIATURES[name].folder}" in told and "files written" in told
    before = written(run.work / "a")
    again = run(name, *sources, "--out", "a")
    assert "already complete" in again and summary in again and written(run.work / "a") == before
    unpacked(name, tmp_path / "plain/below")
    assert summary in run(name, tmp_path / "plain", "--out", "b")             # one level too high
    a, b = (contents(run.work / folder) for folder in "ab")
    assert a == b and len(a) > 0
    assert not [n for n in a if "MACOSX" in n or Path(n).name.startswith(".")]
    for file, wanted in WRITTEN[name].items():
        path = run.work / "a" / MINIATURES[name].folder / file
        assert (path.read_bytes() if isinstance(wanted, bytes) else columns(path)) == wanted, file


def test_scripts_list_what_was_published(script):
    davis2016, fbms, moca = map(script, ("davis2016", "fbms", "moca"))
    assert NAMES == sorted(MINIATURES) and davis2016.FRAMES == 3455
    lists = (davis2016.TRAIN, davis2016.VAL, fbms.TRAIN, fbms.TEST, script("segtrackv2").SEQUENCES,
             moca.SEQUENCES)
    assert [len(set(names)) for names in lists] == [30, 20, 29, 30, 14, 88]
    cut = " ".join(moca.LOGOS.values()).split() + list(moca.BARS)
    assert len(set(cut)) == len(cut) and set(cut) <= set(moca.SEQUENCES)


@pytest.mark.parametrize("frames", [["cars"], ["cars1_01", "cars1_001"]])
def test_fbms_frames_without_or_with_equal_numbers(frames, run, tmp_path):
    files = {f"Testset/cars1/{name}.jpg": picture(".jpg") for name in frames}
    line = run("fbms", as_zip(tmp_path / "a.zip", files), "--partial")
    assert "frame number" in line and all(f"{name}.jpg" in line for name in frames)


# ---- MoCA

@pytest.fixture
def moca_data(run, small, tmp_path):
    small("moca")
    run("moca", *archives("moca", tmp_path))
    return run.work / "data/MoCA"


# rows and columns of the written boxes
RIGHT = {"crab/00000": (slice(360), slice(640)),
         "crab/00001": (slice(60, 420), slice(240, 880)),            # x 3, y 1.5, cut as published
         "crab/00002": (slice(180, 540), slice(480, 1120)),
         "fossa/00000": (slice(180, 540), slice(320, 960)),  # before the first box: as there
         "fossa/00001": (slice(180, 360), slice(320, 640))}


def test_moca_takes_every_third_frame_and_boxes_between_annotated_ones(moca_data):
    assert set(written(moca_data)) == {f"{top}/{name}{kind}" for name in RIGHT for top, kind in
                                       (("JPEGImages", ".jpg"), ("Annotations", ".png"))}
    image = cv2.imread(str(moca_data / "JPEGImages/crab/00001.jpg"))
    assert image.shape == (720, 1280, 3) and abs(image.mean() - 30) < 2  # frame 3
    for name, place in RIGHT.items():
        extent = [s.indices(n)[:2] for s, n in zip(place, (720, 1280))]
        found = cv2.imread(str(moca_data / f"Annotations/{name}.png"), cv2.IMREAD_UNCHANGED)
        assert found.shape == (720, 1280) and set(np.unique(found)) == {0, 255}
        first, last = (f(np.argwhere(found), 0) for f in (np.min, np.max))
        assert [*zip(first, last + 1)] == extent, name


def moca_masks(folder, boxes, write):
    "Masks {sequence/frame: (rows, columns)}."
    for name, place in boxes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mask = torch.zeros(720, 1280, dtype=torch.bool)
        mask[place] = True
        write(folder / f"{name}.png", mask)
    return folder


def as_labels(path, mask): write_labels(path, mask.numpy())


def figures(text):
    return dict(line.split() for line in text.splitlines() if not line.startswith("a part"))


def test_moca_s_score_and_protocol_agree(moca_data, run, tmp_path, capsys):
    "By itself on MoCA, whose boxes are no masks; J and F of masks are not reported."
    from gwm_nb.benchmarks import protocols, suitable_protocols
    from gwm_nb.reports import read_results
    from gwm_nb.commands import gwm_evaluate
    half = RIGHT | {"crab/00001": (slice(60, 420), slice(240, 496)),            # 0.4 of the box
                    "fossa/00001": (slice(0), slice(0))}
    masks, labels = (moca_masks(tmp_path / write.__name__, half, write)
                     for write in (write_mask, as_labels))  # of gwm_segment, of gwm_evaluate
    score = lambda folder: figures(run("moca", folder, "--data", moca_data, function="score"))
    found = score(masks)
    assert found == score(labels)
    assert found["J_moca"] == f"{((1 + .4 + 1) / 3 + .5) / 2:.3f}" and found["frames"] == "5"
    assert found["success_0.5_moca"] == found["success_moca"] == "0.600"
    gwm_evaluate(None, data=moca_data, predictions=masks, save=tmp_path / "out")
    (result,) = read_results(tmp_path / "out")
    printed = capsys.readouterr().out
    assert result["protocol"] == "moca" and "F" not in result and not result["looks_at_labels"]
    assert found["J_moca"] == f"{result['J']:.3f}"
    assert found["success_moca"] == f"{result['success']:.3f}"
    assert "moca F" not in printed and "; success 0.5 0.600;" in printed and "; success 0.600\n" in printed
    last = (tmp_path / "out/results.csv").read_text().splitlines()[-1]
    assert last.endswith(f",{result['J']},") and suitable_protocols(moca_data) == ["moca"]
    assert suitable_protocols() == suitable_protocols(tmp_path) == [name for name in protocols if name != "moca"]


def test_moca_names_masks_that_are_missing(moca_data, run, tmp_path):
    crabs = {k: v for k, v in RIGHT.items() if k.startswith("crab")}
    masks = moca_masks(tmp_path / "masks", crabs, write_mask)
    score = lambda folder, *argv: run("moca", folder, *argv, "--data", moca_data, function="score")
    line = score(masks)
    assert "1 of 2" in line and "fossa" in line and "--partial" in line
    assert figures(score(masks, "--partial"))["frames"] == "3"
    (masks / "crab/00001.png").unlink()
    assert "frame 00001" in score(masks, "--partial")
    assert "gone" in score(tmp_path / "gone", "--partial")


def test_moca_reads_both_tables_and_names_wrong_lines(script):
    member = script("_prepare").Member
    read = lambda data: script("moca").read_boxes(member("annotations.csv", 0, lambda: data))
    assert read(via(BOXES)) == read(via(BOXES, exported=False)) == {
        "crab": {0: [0, 0, 8, 6], 6: [6, 3, 8, 6]},
        "fossa": {3: [4, 3, 4, 3], 1: [4, 3, 8, 6]}, "zebra": {0: [0, 0, 4, 4]}}
    for data, says in ((via([("crab/00000", "[2,a,1,1,1]", 0)]), "annotations.csv: line 3 "),
                       (b"frame,box\n1,2\n", "file_list and spatial_coordinates")):
        with pytest.raises(ValueError, match=says):
            read(data)


@pytest.mark.parametrize("sequence, rows, columns", [
    ("bear", (0, 720), (0, 1280)), ("meerkat", (37, 720), (89, 1280)),
    ("lichen_katydid", (0, 672), (0, 962)), ("shrimp", (0, 720), (0, 1027)),
    ("peacock_flounder_1", (92, 632), (0, 1280)), ("egyptian_nightjar", (0, 650), (318, 1280))])
def test_moca_leaves_out_logos_and_bars_of_frame_and_box_alike(sequence, rows, columns, script):
    "An animal that fills its box fills it still after the logo is cut away."
    module, pixels = script("moca"), np.zeros((720, 1280, 3), np.uint8)
    taken = module.window(sequence, 720, 1280)
    assert [s.indices(n)[:2] for s, n in zip(taken, (720, 1280))] == [rows, columns]
    pixels[300:500, 400:900] = 255
    png = cv2.imencode(".png", pixels)[1].tobytes()
    member = script("_prepare").Member("f.png", 0, lambda: png)
    box = module.filled_box(member, sequence, (400, 300, 500, 200))
    image, box = (cv2.imdecode(np.frombuffer(m, np.uint8), cv2.IMREAD_GRAYSCALE)
                  for m in (module.frame(member, sequence), box))
    assert ((image > 127) != (box > 127)).mean() < .001


# ---- interrupted, in part, on a full disk

@pytest.mark.parametrize("fault, says", [(KeyboardInterrupt(), "interrupted"),
                                         (OSError(28, "No space left on device"), "0000.png")])
def test_an_interrupted_run_goes_on(fault, says, run, small, monkeypatch, tmp_path):
    summary, sources = small("ecssd"), archives("ecssd", tmp_path)
    writes, write = [], Path.write_bytes

    def stop(path, data):
        writes.append(path)
        if len(writes) == 5:
            write(path, data[:10])
            raise fault
        return write(path, data)
    with monkeypatch.context() as m:
        m.setattr(Path, "write_bytes", stop)
        assert says in run("ecssd", *sources)
    half = written(run.work)
    assert 1 < len(half) < 6 and not list(run.work.rglob("*.part*"))
    assert summary in run("ecssd", *sources) and half.items() <= written(run.work).items()
    lost = run.work / list(half)[-1]
    lost.unlink()
    assert "(1 files written)" in run("ecssd", *sources)
    assert lost.read_bytes() == list(half.values())[-1][0]


def test_a_part_is_completed_later(run, small, tmp_path):
    summary = small("fbms")
    train, test = archives("fbms", tmp_path)
    told = run("fbms", train, "--partial")
    assert "no sequence cars1" in told and "1 sequences, 4 frames, 2 annotations" in told
    assert "already complete" in run("fbms", train, "--partial")
    assert "no sequence cars1" in run("fbms", train)
    assert summary in run("fbms", train, test)


# ---- wrong input

GOOD = salient("images", "ground_truth_mask", "a.zip")["a.zip"]


def link_in_zip(path, target):
    "Add a link images/link.jpg to a zip archive."
    info = zipfile.ZipInfo("images/link.jpg")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, target)
    return path


def holding(path, data):
    path.write_bytes(data)
    return path


def cut(path, size): return holding(path, path.read_bytes()[:size])


def good_zip(d): return as_zip(d / "good.zip", GOOD)


# script, its sources in a folder, what the line has to say: the value, and what to do
WRONG = {
    "traversal": ("ecssd", lambda d: [as_zip(d / "a.zip", {"images/../../../out.jpg": b"x"})],
                  ["a.zip", "out.jpg", "get it again"]),
    "absolute": ("ecssd", lambda d: [as_tar(d / "a.tar", {"/tmp/out.jpg": b"x"})],
                 ["a.tar", "/tmp/out.jpg", "get it again"]),
    "link out, zip": ("ecssd", lambda d: [link_in_zip(good_zip(d), "../../secret")],
                      ["good.zip", "images/link.jpg", "get it again"]),
    "rar": ("segtrackv2", lambda d: [holding(d / "a.zip", b"Rar!\x1a\x07\x00")], ["unpack"]),
    "cut zip": ("ecssd", lambda d: [cut(good_zip(d), -400)], ["good.zip", "get it again"]),
    "cut tar": ("ecssd", lambda d: [cut(as_tar(d / "a.tgz", GOOD), 200)],
                ["a.tgz", "get it again"]),
    "davis 2017": ("davis2016", lambda d: [as_zip(d / "a.zip", davis(("bear", "bike-packing")))],
                   ["bike-packing"]),
    "empty folder": ("cub", lambda d: [d], ["nothing of CUB_200_2011"]),
    "no source": ("dut_omron", lambda d: [d / "gone.zip"], ["gone.zip"]),
    "too few": ("ecssd", lambda d: [good_zip(d)], ["3 images instead of 1000", "images.zip"]),
    "no setid": ("flowers", lambda d: archives("flowers", d)[:2], ["setid.mat is missing"]),
    "nothing given": ("duts", lambda d: [], ["DUTS-TE.zip of http://", "--download"]),
    "out is a file": ("ecssd", lambda d: [good_zip(d), "--partial", "--out", holding(d / "x", b"")],
                      ["from/x"])}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gives_one_line_and_writes_nothing(case, run, tmp_path):
    (tmp_path / "from").mkdir()
    name, make, says = WRONG[case]
    sources = make(tmp_path / "from")
    before = sorted(tmp_path.rglob("*"))
    line = run(name, *sources)
    assert line.startswith(f"{name}: ") and all(word in line for word in says), line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name, lost, message", [
    ("davis2016", "/480p/dog/", "2 frames instead of 4, no sequence dog"),
    ("fbms", "marple2/GroundTruth/", "no annotations of marple2"),
    ("fbms", "bear01_0003_gt.ppm", "bear01/GroundTruth/bear01_0003_gt.ppm"),
    ("fbms", "tennis454.jpg", "tennis454.pgm"),
    ("segtrackv2", "cheetah/2/cheetah_00002.png", "cheetah/cheetah_00002, object 2"),
    ("segtrackv2", "JPEGImages/cheetah/cheetah_00001.bmp", "no frame cheetah/cheetah_00001"),
    ("moca", "JPEGImages/crab/00003.jpg", "4 frames instead of 5, no frame crab/00003"),
    ("cub", "train_test_split.txt", "train_test_split.txt is missing"),
    ("flowers", "segmim/segmim_00003.jpg", "1 images instead of 2, no mask of image_00003"),
    ("duts", "DUTS-TE-Image/0001.jpg", "2 images instead of 3")])
def test_what_is_missing_is_named(name, lost, message, run, small, tmp_path):
    small(name)
    folder = unpacked(name, tmp_path / "plain")
    gone = [p for p in folder.rglob("*.*") if lost in p.relative_to(folder).as_posix()]
    for p in filter(Path.is_file, gone):
        p.unlink()
    line = run(name, folder)
    assert gone and message in line and not any(run.work.iterdir()), line
    if lost == "tennis454.jpg":
        told = run(name, folder, "--partial")
        assert "tennis has 2 frames" in told and "18 frames, 11 annotations" in told
        left = (run.work / "data/FBMS/Annotations/tennis").iterdir()
        assert [p.name for p in left] == ["00002.png"]                   # 456 is now the second


def test_an_unreadable_mask_is_named_and_a_circle_of_folders_harmless(run, small, tmp_path):
    summary = small("ecssd")
    empty = as_zip(tmp_path / "e.zip", GOOD | {"ground_truth_mask/0000.png": b""})
    assert "ground_truth_mask/0000.png" in run("ecssd", empty)
    folder = unpacked("ecssd", tmp_path / "plain")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    assert summary in run("ecssd", folder, "--out", "b")


def test_what_others_wrote_is_not_touched(run, small, tmp_path):
    small("duts")
    source, = archives("duts", tmp_path)
    unpacked("duts", run.work / "data/DUTS")                    # its masks are not cut at half yet
    before = written(run.work)
    for wrong in (source, "data/DUTS"):
        assert "data/DUTS" in (line := run("duts", wrong)) and "--out" in line
    assert written(run.work) == before


# ---- checksums and downloads

@pytest.mark.parametrize("name", ["cub", "flowers", "duts", "ecssd"])
def test_download(name, run, small, script, monkeypatch, tmp_path):
    summary, sources = small(name), archives(name, tmp_path)
    names = sorted(MINIATURES[name].make())
    assert sorted(script(name).PUBLISHED) == names
    assert "not as published" in run(name, *sources, "--out", "b")
    sums = {p: hashlib.md5(p.read_bytes()).hexdigest() for p in sources}
    offered = {p.name: (p.as_uri(), f"md5:{sums[p]}") for p in sources}
    monkeypatch.setattr(script(name), "PUBLISHED", offered)
    told = run(name, "--download")
    assert summary in told and f"{sums[sources[0]]}, as published" in told
    assert "already complete" in run(name, "--download")
    assert sorted(p.name for p in (run.work / "data/archives").iterdir()) == names


def test_a_cut_download_goes_on_and_a_wrong_one_is_refused(run, small, script, monkeypatch,
                                                           tmp_path):
    "A server that breaks off, then is asked for the rest only."
    summary = small("duts")
    source, = archives("duts", tmp_path)
    data, asked = source.read_bytes(), []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int((self.headers["Range"] or "bytes=0-")[6:-1])
            asked.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:] if start else data[:1000])

        def log_message(self, *_): pass

    def offer(url, kind="md5:" + "0" * 32):
        monkeypatch.setattr(script("duts"), "PUBLISHED", {source.name: (url, kind)})
    offer(source.as_uri())
    assert "md5 000" in run("duts", "--download") and not list(run.work.rglob("*.*"))
    offer(f"{source.as_uri()}.gone")
    assert "download it by hand" in run("duts", "--download")
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(.01,), daemon=True).start()
    try:
        whole = hashlib.md5(data).hexdigest()
        offer(f"http://127.0.0.1:{server.server_port}/DUTS-TE.zip", f"md5:{whole}")
        assert "ended early" in run("duts", "--download") and summary in run("duts", "--download")
    finally:
        server.shutdown()
        server.server_close()
    assert asked == [0, 1000]
    assert (run.work / "data/archives/DUTS-TE.zip").read_bytes() == data


# ---- as a user meets them

def test_the_process(tmp_path):
    "Started as a program, with too little: exit code 1, one line on stderr, nothing written."
    source = as_zip(tmp_path / "DAVIS-data.zip", davis())
    done = subprocess.run([sys.executable, scripts / "davis2016.py", source], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("davis2016: ") and "4 frames instead of 3455" in done.stderr
    assert list(tmp_path.iterdir()) == [source]
    done = subprocess.run([sys.executable, scripts / "moca.py", "score", "gone"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("score: "), done.stderr


def test_the_library_reads_what_is_written(run, small, tmp_path):
    from gwm_nb.datasets import data_sets, find_data_sets, find_masks, known_data_set
    for name in ("davis2016", "fbms", "segtrackv2", "moca"):
        small(name)
        run(name, *archives(name, tmp_path / name))
    data = run.work / "data"
    for sequence in ("DAVIS2016/JPEGImages/480p/dog", "FBMS/JPEGImages/tennis",
                     "SegTrackv2/JPEGImages/worm", "MoCA/JPEGImages/crab"):
        names = [f.stem for f in list_images(data / sequence)]
        masks = find_masks(data / sequence.replace("JPEGImages", "Annotations"), names)
        assert masks and set(masks) <= set(names)
        assert all(0 < read_mask(m).float().mean() < 1 for m in masks.values())
    assert known_data_set(data / "MoCA") is data_sets["MoCA"]
    assert find_data_sets("MoCA", data) == {"MoCA": data / "MoCA"}
