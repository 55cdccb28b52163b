"The data scripts on miniatures of the published archives: what they write, that they go on, and what they say of wrong input."
import hashlib
import importlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

scripts = Path(__file__).resolve().parent.parent / "data_scripts"
NAMES = sorted({p.stem for p in scripts.glob("[a-z]*.py")} - {"score_clips"})      # which prepares nothing
H, W = 12, 16


@pytest.fixture
def script(monkeypatch):
    "Import a script by its name; its counts can then be patched."
    monkeypatch.syspath_prepend(str(scripts))
    return importlib.import_module


@pytest.fixture
def run(script, monkeypatch, tmp_path, capsys):
    "Call a script as the command line does, in an empty folder. Returns what it printed, or, if it stopped, the line and no more."
    work = tmp_path / "work"
    work.mkdir()

    def call(name, *argv):
        monkeypatch.chdir(work)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, argv)])
        capsys.readouterr()
        try:
            getattr(script(name), name)()
        except SystemExit as stop:
            assert isinstance(stop.code, str) and "\n" not in stop.code and stop.code.startswith(f"{name}: "), stop.code
            return stop.code
        return capsys.readouterr().out
    call.work = work
    return call


def picture(kind, value=90, size=(H, W)):
    "A plain picture of some format, as bytes."
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
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name != "prepared.json"}


# ---- miniatures: {script: {archive: {member: bytes}}}

def davis(sequences=("bear", "dog"), frames=2, resolutions=("480p", "1080p"), root="DAVIS"):
    files = {f"{root}/README.md": b"readme", f"__MACOSX/{root}/JPEGImages/480p/bear/._00000.jpg": b"junk"}
    for r in resolutions:
        files[f"{root}/ImageSets/{r}/train.txt"] = b"/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n"
        for s in sequences:
            for t in range(frames):
                files[f"{root}/JPEGImages/{r}/{s}/{t:05d}.jpg"] = picture(".jpg", 20 + t, (H, W) if r == "480p" else (2 * H, 2 * W))
                files[f"{root}/Annotations/{r}/{s}/{t:05d}.png"] = mask(".png", [0, 255, t])
    return files


def definition(frames, names):
    "The text that lies beside the annotations of an FBMS sequence."
    text = "Ground truth definition file; do not change!\n\nTotal number of regions:\n2\n\nScale of region 0:\n0\n\nScale of region 1:\n255\n\n"
    text += f"Total number of frames in this shot:\n{frames}\nTotal number of labeled frames for this shot:\n{len(names)}\n"
    return (text + "".join(f"Frame number:\n{i}\nFile name:\n{n}\nInput file name:\n{n[:-4]}.ppm\n" for i, n in enumerate(names))).encode()


WHITE, BLUE, DARK = (255, 255, 255), (255, 0, 0), (0, 0, 60)        # BGR; grey levels 255, 29, 18


def fbms_train():
    files, place = {}, "Trainingset/bear01"
    for t in (4, 1, 3, 2):                                              # archives are in no order
        files[f"{place}/bear01_{t:04d}.jpg"] = picture(".jpg", 10 * t)
    for t in (1, 3):
        files[f"{place}/GroundTruth/bear01_{t:04d}_gt.ppm"] = mask(".ppm", [WHITE, BLUE, DARK, (30, 200, 90)], colour=True)
        files[f"{place}/GroundTruth/bear01_{t:04d}_gt.pgm"] = mask(".pgm", [0, 0, 0, 0])            # the grey copy must not be taken
        files[f"{place}/GroundTruth/bear01_{t:04d}_PROB_gt.ppm"] = mask(".ppm", [WHITE] * 4, colour=True)
    files[f"{place}/GroundTruth/bear01Def.dat"] = definition(4, ["bear01_0001_gt.ppm", "bear01_0003_gt.ppm"])
    return files


def fbms_test():
    files, grey = {}, [0, 12, 13, 25, 26, 102, 103, 255]            # on both sides of the thresholds .05, .1 and .4
    for s, first, digits, separator in (("cars1", 1, 2, "_"), ("marple2", 1, 3, "_"), ("marple7", 1, 3, "_"), ("marple4", 324, 3, "_"), ("tennis", 454, 3, "")):
        name = [f"{s}{separator}{first + t:0{digits}d}" for t in range(3)]
        for t in range(3):
            files[f"Testset/{s}/{name[t]}.jpg"] = picture(".jpg", 50 + t)
        for t in (0, 2):
            files[f"Testset/{s}/GroundTruth/{name[t]}.pgm"] = mask(".pgm", grey)
        files[f"Testset/{s}/GroundTruth/{s}Def.dat"] = definition(3, [f"{name[0]}.pgm", f"{name[2]}.pgm"])
    return files


def segtrack():
    files = {"SegTrackv2/ImageSets/all.txt": b"*girl\n*cheetah\n*worm\n", "SegTrackv2/JPEGImages/CSI_NY.jpg": picture(".jpg"),
             "SegTrackv2/ImageSets/cheetah.txt": b"cheetah/\ncheetah_00001\ncheetah_00002\n", "SegTrackv2/GroundTruth/girl/Thumbs.db": b"junk"}
    for t in (1, 2):
        files[f"SegTrackv2/JPEGImages/girl/girl_{t:04d}.jpg"] = picture(".jpg", t)
        files[f"SegTrackv2/GroundTruth/girl/girl_{t:04d}.png"] = mask(".png", [0, 127, 128, 255])
        files[f"SegTrackv2/JPEGImages/worm/worm_{t + 8:05d}.png"] = picture(".png", t)
        files[f"SegTrackv2/GroundTruth/worm/worm_{t + 8:05d}.png"] = mask(".png", [255, 0, 0, 0])
        files[f"SegTrackv2/JPEGImages/cheetah/cheetah_{t:05d}.bmp"] = picture(".bmp", t)
        files[f"SegTrackv2/GroundTruth/cheetah/1/cheetah_{t:05d}.bmp"] = mask(".bmp", [255, 0, 255, 0])
        files[f"SegTrackv2/GroundTruth/cheetah/2/cheetah_{t:05d}.png"] = mask(".png", [0, 0, 255, 255])
    return files


BIRDS = ["001.Albatross/Albatross_0001_1", "001.Albatross/Albatross_0002_2", "002.Wren/Wren_0001_3"]


def cub():
    images = {f"CUB_200_2011/images/{b}.jpg": picture(".jpg", 40 + i) for i, b in enumerate(BIRDS)}
    images["CUB_200_2011/images/002.Wren/Wren_0001_3_rgb.jpg"] = picture(".jpg")          # strays like this are in no list
    images["CUB_200_2011/images.txt"] = "".join(f"{i} {b}.jpg\n" for i, b in enumerate(BIRDS, 1)).encode()
    images["CUB_200_2011/train_test_split.txt"] = b"1 0\n2 1\n3 0\n"
    masks = {f"segmentations/{b}.png": mask(".png", [0, 51, 127, 128, 204, 255]) for b in BIRDS}
    return {"CUB_200_2011.tgz": images, "segmentations.tgz": masks}


def flowers():
    lists = io.BytesIO()
    savemat(lists, dict(trnid=np.array([[3, 1]]), valid=np.array([[2]]), tstid=np.array([[4, 5]])))
    near = [(254, 0, 0), (230, 24, 0), (230, 25, 0), (20, 0, 230)]          # BGR: the blue, still it, not any more, a red flower
    wide = [c for c in near for _ in range(16)]                             # whole blocks, so that JPEG keeps the colours
    segmentation = np.repeat(np.array(wide, np.uint8)[None], 16, 0)
    exact = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    jpeg = cv2.imencode(".jpg", segmentation, exact)[1].tobytes()
    return {"102flowers.tgz": {f"jpg/image_{i:05d}.jpg": picture(".jpg", 9 * i) for i in range(1, 6)},
            "102segmentations.tgz": {f"segmim/segmim_{i:05d}.jpg": jpeg for i in range(1, 6)}, "setid.mat": lists.getvalue()}


def salient(images, masks, archives, n=3):
    pictures = {f"{images}/{i:04d}.jpg": picture(".jpg", i) for i in range(n)} | {f"__MACOSX/{images}/._0000.jpg": b"junk"}
    truth = {f"{masks}/{i:04d}.png": mask(".png", [0, 127, 128, 255]) for i in range(n)}
    return {archives[0]: pictures, archives[1]: truth} if len(archives) > 1 else {archives[0]: pictures | truth}


def via(rows, exported=True):
    "A table as the VGG Image Annotator writes it, or as it lies beside the prepared frames, of (frame, box, motion)."
    if not exported:
        return ("x,file_list,spatial_coordinates,metadata\n" + "".join(f"{i},/{f}.jpg,\"{box}\",{{'1': '{m}'}}\n" for i, (f, box, m) in enumerate(rows))).encode()
    text = "# Exported using VGG Image Annotator\n# SHAPE_ID = {\"RECTANGLE\":2}\n# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata\n"
    return (text + "".join(f'"1_{i}","[""/{f}.jpg""]",0,"[]","{box}","{{""1"":""{m}""}}"\n' for i, (f, box, m) in enumerate(rows))).encode()


BOXES = [("crab/00000", [2, 0, 0, 8, 6], 0), ("crab/00006", [2, 6, 3, 8, 6], 0), ("fossa/00003", [2, 4, 3, 4, 3], 2), ("fossa/00001", [2, 4, 3, 8, 6], 1),
         ("zebra/00000", [2, 0, 0, 4, 4], 0), ("fossa/00004", [], 0)]


def moca():
    files = {f"MoCA/JPEGImages/{s}/{t:05d}.jpg": picture(".jpg", 10 * t) for s, n in (("crab", 8), ("fossa", 4), ("zebra", 1)) for t in range(n)}
    return {"MoCA.zip": files | {"MoCA/Annotations/annotations.csv": via(BOXES)}}


MINIATURES = {"davis2016": lambda: {"DAVIS-data.zip": davis()}, "fbms": lambda: {"FBMS_Trainingset.zip": fbms_train(), "FBMS_Testset.zip": fbms_test()},
              "segtrackv2": lambda: {"SegTrackv2.zip": segtrack()}, "moca": moca, "cub": cub, "flowers": flowers,
              "duts": lambda: salient("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", ["DUTS-TE.zip"]),
              "dut_omron": lambda: salient("DUT-OMRON-image", "pixelwiseGT-new-PNG", ["DUT-OMRON-image.zip", "DUT-OMRON-gt-pixelwise.zip.zip"]),
              "ecssd": lambda: salient("images", "ground_truth_mask", ["images.zip", "ground_truth_mask.zip"])}
COUNTS = {"davis2016": dict(TRAIN=["bear"], VAL=["dog"], FRAMES=4), "fbms": dict(TRAIN=["bear01"], TEST=["cars1", "marple2", "marple7", "marple4", "tennis"]),
          "segtrackv2": dict(SEQUENCES=["cheetah", "girl", "worm"]), "moca": dict(SEQUENCES=["crab", "fossa"], FRAMES=5), "cub": dict(TEST_IMAGES=2), "flowers": dict(TEST_IMAGES=2), "duts": dict(TEST_IMAGES=3),
          "dut_omron": dict(IMAGES=3), "ecssd": dict(IMAGES=3)}
FOLDERS = {"davis2016": "DAVIS2016", "fbms": "FBMS", "segtrackv2": "SegTrackv2", "moca": "MoCA", "cub": "CUB_200_2011", "flowers": "Flowers", "duts": "DUTS",
           "dut_omron": "DUT_OMRON", "ecssd": "ECSSD"}
SUMMARIES = {"davis2016": "2 sequences, 4 frames, 4 annotations", "fbms": "6 sequences, 19 frames, 12 annotations",
             "segtrackv2": "3 sequences, 6 frames, 6 annotations", "moca": "2 sequences, 5 frames, 5 annotations", "cub": "2 images, 2 masks", "flowers": "2 images, 2 masks",
             "duts": "3 images, 3 masks", "dut_omron": "3 images, 3 masks", "ecssd": "3 images, 3 masks"}


def archives(name, folder):
    "The miniature as the archives that are published."
    folder.mkdir(parents=True, exist_ok=True)
    return [as_folder(folder, {a: files}) / a if isinstance(files, bytes) else (as_tar if a.endswith(".tgz") else as_zip)(folder / a, files)
            for a, files in MINIATURES[name]().items()]


def unpacked(name, folder):
    "The miniature as the folder that the archives were unpacked to."
    for a, files in MINIATURES[name]().items():
        as_folder(folder, {a: files} if isinstance(files, bytes) else files)
    return folder


@pytest.fixture
def small(script, monkeypatch):
    "Set the published counts of a script to those of its miniature."
    def patch(name):
        for constant, value in COUNTS[name].items():
            assert hasattr(script(name), constant)
            monkeypatch.setattr(script(name), constant, value)
    return patch


# ---- what is written

def test_every_script_has_a_miniature():
    assert NAMES == sorted(MINIATURES) == sorted(COUNTS) == sorted(FOLDERS) == sorted(SUMMARIES) and len(NAMES) == 9


@pytest.mark.parametrize("name", NAMES)
def test_archives_and_folders_give_the_same(name, run, small, tmp_path):
    small(name)
    first = run(name, *archives(name, tmp_path / "from"), "--out", "a")
    assert SUMMARIES[name] in first and f"a/{FOLDERS[name]}" in first and "files written" in first
    assert SUMMARIES[name] in run(name, unpacked(name, tmp_path / "plain/below"), "--out", "b")
    assert SUMMARIES[name] in run(name, tmp_path / "plain", "--out", "c")                     # one level too shallow
    a, b, c = [{n: data for n, (data, _) in written(run.work / x).items()} for x in "abc"]
    assert a == b == c and len(a) > 0
    assert not [n for n in a if "MACOSX" in n or Path(n).name.startswith(".")]


def test_tar_of_a_data_set_published_as_zip(run, small, tmp_path):
    small("davis2016")
    as_tar(tmp_path / "again.tar", davis())
    assert SUMMARIES["davis2016"] in run("davis2016", tmp_path / "again.tar")


def test_davis_is_copied_byte_by_byte(run, small, tmp_path):
    small("davis2016")
    archive, = archives("davis2016", tmp_path)
    run("davis2016", archive)
    files = {n: d for n, (d, _) in written(run.work / "data/DAVIS2016").items()}
    assert files == {n.removeprefix("DAVIS/"): d for n, d in davis().items() if "/480p/" in n and "MACOSX" not in n}
    run("davis2016", archive, "--resolution", "1080p")
    assert cv2.imread(str(run.work / "data/DAVIS2016/JPEGImages/1080p/dog/00001.jpg")).shape == (2 * H, 2 * W, 3)
    assert "already complete" in run("davis2016", archive) and "already complete" in run("davis2016", archive, "--resolution=1080p")


def test_davis_lists_its_sequences(script):
    module = script("davis2016")
    assert (len(set(module.TRAIN)), len(set(module.VAL)), len({*module.TRAIN, *module.VAL}), module.FRAMES) == (30, 20, 50, 3455)


def test_davis_2017_is_refused(run, tmp_path):
    archive = as_zip(tmp_path / "DAVIS-2017-trainval-480p.zip", davis(("bear", "bike-packing"), resolutions=("480p",)))
    assert "bike-packing is not a sequence of DAVIS 2016" in run("davis2016", archive) and not any(run.work.iterdir())


def test_fbms_numbers_frames_and_names_annotations_after_them(run, small, tmp_path):
    small("fbms")
    run("fbms", *archives("fbms", tmp_path))
    out = run.work / "data/FBMS"
    names = lambda top, s: sorted(p.name for p in (out / top / s).iterdir())
    assert names("JPEGImages", "bear01") == [f"0000{t}.jpg" for t in (1, 2, 3, 4)] and names("Annotations", "bear01") == ["00001.png", "00003.png"]
    for s in ("cars1", "marple4", "tennis"):                                                  # numbers begin at 1, at 324, at 454 without a separator
        assert names("JPEGImages", s) == ["00001.jpg", "00002.jpg", "00003.jpg"] and names("Annotations", s) == ["00001.png", "00003.png"]
    assert (out / "JPEGImages/bear01/00003.jpg").read_bytes() == picture(".jpg", 30)
    assert (out / "JPEGImages/tennis/00002.jpg").read_bytes() == picture(".jpg", 51)


def test_fbms_thresholds(run, small, tmp_path):
    small("fbms")
    run("fbms", *archives("fbms", tmp_path))
    out = run.work / "data/FBMS/Annotations"
    assert columns(out / "bear01/00001.png") == [0, 255, 0, 255]                              # white background, blue 29, dark red 18, green
    for s, first in (("cars1", 4), ("tennis", 4), ("marple7", 2), ("marple2", 6)):            # grey 0, 12, 13, 25, 26, 102, 103, 255
        assert columns(out / s / "00003.png") == [0] * first + [255] * (8 - first), s


def test_fbms_white_counts_as_object_in_grey_files(run, script, tmp_path):
    files = {"Testset/cars1/cars1_01.jpg": picture(".jpg"), "Testset/cars1/GroundTruth/cars1_01.pgm": mask(".pgm", [0, 255])}
    assert "1 sequences, 1 frames, 1 annotations" in run("fbms", as_zip(tmp_path / "a.zip", files), "--partial")
    assert columns(run.work / "data/FBMS/Annotations/cars1/00001.png") == [0, 255]


def test_fbms_does_not_read_its_own_output_again(run, small, tmp_path):
    small("fbms")
    unpacked("fbms", run.work / "data/FBMS")                                                  # unpacked where the output goes, too
    assert SUMMARIES["fbms"] in run("fbms", "data")
    before = written(run.work / "data/FBMS/JPEGImages")
    (run.work / "data/FBMS/prepared.json").unlink()
    assert "was not written by this script" in run("fbms", "data") and written(run.work / "data/FBMS/JPEGImages") == before
    assert SUMMARIES["fbms"] in run("fbms", "data", "--out", "other")


def test_fbms_lists_its_sequences(script):
    module = script("fbms")
    assert (len(set(module.TRAIN)), len(set(module.TEST)), len({*module.TRAIN, *module.TEST})) == (29, 30, 59)


def test_fbms_names_missing_annotations(run, small, tmp_path):
    small("fbms")
    train, test = fbms_train(), fbms_test()
    del train["Trainingset/bear01/GroundTruth/bear01_0003_gt.ppm"], test["Testset/tennis/tennis454.jpg"]
    sources = as_zip(tmp_path / "a.zip", train), as_zip(tmp_path / "b.zip", test)
    line = run("fbms", *sources)
    assert "bear01/GroundTruth/bear01_0003_gt.ppm" in line and "tennis454.pgm" in line and not any(run.work.iterdir())
    told = run("fbms", *sources, "--partial")
    assert "bear01_0003_gt.ppm" in told and "tennis has 2 frames, its definition file counts 3" in told and "18 frames, 10 annotations" in told
    assert sorted(p.name for p in (run.work / "data/FBMS/Annotations/tennis").iterdir()) == ["00002.png"]       # 456 is now the second


def test_fbms_frames_without_or_with_equal_numbers(run, tmp_path):
    place = "Testset/cars1/"
    assert "no frame number" in run("fbms", as_zip(tmp_path / "a.zip", {f"{place}cars.jpg": picture(".jpg")}), "--partial")
    twice = {f"{place}cars1_01.jpg": picture(".jpg"), f"{place}cars1_001.jpg": picture(".jpg")}
    assert "same frame number" in run("fbms", as_zip(tmp_path / "b.zip", twice), "--partial") and not any(run.work.iterdir())


def test_segtrack_keeps_frames_and_unites_objects(run, small, tmp_path):
    small("segtrackv2")
    run("segtrackv2", *archives("segtrackv2", tmp_path))
    out = run.work / "data/SegTrackv2"
    assert sorted(p.relative_to(out / "JPEGImages").as_posix() for p in (out / "JPEGImages").rglob("*.*")) == [
        "cheetah/cheetah_00001.bmp", "cheetah/cheetah_00002.bmp", "girl/girl_0001.jpg", "girl/girl_0002.jpg", "worm/worm_00009.png", "worm/worm_00010.png"]
    assert (out / "JPEGImages/worm/worm_00010.png").read_bytes() == picture(".png", 2)
    assert columns(out / "Annotations/girl/girl_0001.png") == [0, 0, 255, 255]
    assert columns(out / "Annotations/cheetah/cheetah_00002.png") == [255, 0, 255, 255]


def test_segtrack_names_missing_annotations(run, small, tmp_path):
    small("segtrackv2")
    files = segtrack()
    del files["SegTrackv2/GroundTruth/cheetah/2/cheetah_00002.png"], files["SegTrackv2/JPEGImages/cheetah/cheetah_00001.bmp"]
    source = as_zip(tmp_path / "a.zip", files)
    line = run("segtrackv2", source)
    assert "no annotation of cheetah/cheetah_00002, object 2" in line and "no frame cheetah/cheetah_00001" in line and not any(run.work.iterdir())
    assert "3 sequences, 5 frames, 4 annotations" in run("segtrackv2", source, "--partial")


def test_segtrack_lists_its_sequences(script):
    assert len(set(script("segtrackv2").SEQUENCES)) == 14


def box_of(path):
    "left, top, right, bottom of what is white in a written mask of 0 and 255."
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(pixels)) == {0, 255} and pixels.shape == (720, 1280)
    y, x = pixels.nonzero()
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_moca_takes_every_third_frame_and_boxes_between_those_that_are_annotated(run, small, tmp_path):
    small("moca")
    run("moca", *archives("moca", tmp_path))
    out = run.work / "data/MoCA"
    names = {p.relative_to(out).as_posix() for p in out.rglob("*.*") if p.name != "prepared.json"}
    assert names == {f"JPEGImages/{s}/{t:05d}.jpg" for s, n in (("crab", 3), ("fossa", 2)) for t in range(n)} | {
        f"Annotations/{s}/{t:05d}.png" for s, n in (("crab", 3), ("fossa", 2)) for t in range(n)}
    image = cv2.imread(str(out / "JPEGImages/crab/00001.jpg"))
    assert image.shape == (720, 1280, 3) and abs(image.mean() - 30) < 2                       # frame 3
    assert [box_of(out / f"Annotations/crab/{t:05d}.png") for t in (0, 2)] == [[0, 0, 640, 360], [480, 180, 1120, 540]]
    assert box_of(out / "Annotations/crab/00001.png") == [240, 60, 880, 420]                  # x 3, y 1.5, cut to whole pixels as published
    assert box_of(out / "Annotations/fossa/00000.png") == [320, 180, 960, 540]                # before the first annotated frame: as there
    assert box_of(out / "Annotations/fossa/00001.png") == [320, 180, 640, 360]


def moca_masks(folder, boxes, palette=False):
    "Masks {sequence/frame: (rows, columns)} as gwm_segment writes them (0/255), or as gwm_evaluate does (labels with a palette)."
    from gwm_nb.cutouts import write_labels
    from gwm_nb.files import write_mask
    for name, (rows, columns) in boxes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mask = torch.zeros(720, 1280, dtype=torch.bool)
        mask[rows, columns] = True
        if palette:
            write_labels(folder / f"{name}.png", mask.numpy())
        else:
            write_mask(folder / f"{name}.png", mask)
    return folder


@pytest.fixture
def moca_data(run, small, tmp_path):
    small("moca")
    run("moca", *archives("moca", tmp_path))
    return run.work / "data/MoCA"


def call_score(script, monkeypatch, capsys, *argv):
    monkeypatch.setattr(sys, "argv", ["moca.py", *map(str, argv)])
    capsys.readouterr()
    script("moca").score()
    return dict(line.split() for line in capsys.readouterr().out.splitlines() if not line.startswith("a part"))


RIGHT = {"crab/00000": (slice(360), slice(640)), "crab/00001": (slice(60, 420), slice(240, 880)), "crab/00002": (slice(180, 540), slice(480, 1120)),
         "fossa/00000": (slice(180, 540), slice(320, 960)), "fossa/00001": (slice(180, 360), slice(320, 640))}      # as the boxes are written, see above


@pytest.mark.parametrize("palette", [False, True])
def test_moca_scores_masks(palette, moca_data, script, monkeypatch, capsys, tmp_path):
    half = RIGHT | {"crab/00001": (slice(60, 420), slice(240, 496)), "fossa/00001": (slice(0), slice(0))}           # 0.4 of the box, and nothing
    for boxes, J, success in ((RIGHT, 1, 1), (half, ((1 + .4 + 1) / 3 + .5) / 2, 3 / 5)):
        found = call_score(script, monkeypatch, capsys, moca_masks(tmp_path / f"masks{J}", boxes, palette), "--data", moca_data)
        assert found["J_moca"] == f"{J:.3f}" and found["success_0.5_moca"] == found["success_moca"] == f"{success:.3f}" and found["frames"] == "5"


def test_moca_is_a_protocol_with_the_script_s_figures(moca_data, script, monkeypatch, capsys, tmp_path):
    "By itself on MoCA, whose boxes are no masks; J and F of masks are not reported."
    from gwm_nb.benchmarks import gwm_evaluate, protocols, read_results, suitable
    half = RIGHT | {"crab/00001": (slice(60, 420), slice(240, 496)), "fossa/00001": (slice(0), slice(0))}           # 0.4 of the box, and nothing
    masks = moca_masks(tmp_path / "masks", half)
    scored = call_score(script, monkeypatch, capsys, masks, "--data", moca_data)
    gwm_evaluate(None, data=moca_data, predictions=masks, save=tmp_path / "out")
    (result,) = read_results(tmp_path / "out")
    printed = capsys.readouterr().out
    assert result["protocol"] == "moca" and "F" not in result and not result["looks_at_labels"] and "moca F" not in printed
    assert scored["J_moca"] == f"{result['J']:.3f}" and scored["success_moca"] == f"{result['success']:.3f}" == "0.600"
    assert "success 0.600; success 0.5 0.600" in printed and (tmp_path / "out/results.csv").read_text().splitlines()[-1].endswith(f",{result['J']},")
    assert suitable(moca_data) == ["moca"] and suitable() == suitable(tmp_path) == [name for name in protocols if name != "moca"]


def test_moca_names_masks_that_are_missing(moca_data, script, monkeypatch, capsys, tmp_path):
    masks = moca_masks(tmp_path / "masks", {k: v for k, v in RIGHT.items() if k.startswith("crab")})
    call = lambda *argv: call_score(script, monkeypatch, capsys, *argv, "--data", moca_data)
    with pytest.raises(SystemExit, match="^score: .*masks: 1 of 2 sequences are missing, fossa first; .*--partial"):
        call(masks)
    assert call(masks, "--partial")["frames"] == "3"
    (masks / "crab/00001.png").unlink()
    with pytest.raises(SystemExit, match="^score: .*crab: no prediction for frame 00001 .1 of 3 are missing"):
        call(masks, "--partial")
    (tmp_path / "empty").mkdir()
    for folder, says in (("gone", "no such folder of masks"), ("empty", "2 of 2 sequences are missing")):
        with pytest.raises(SystemExit, match=says):
            call(tmp_path / folder, "--partial")


def test_moca_is_a_data_set_that_the_library_knows(moca_data):
    from gwm_nb.videos import data_sets, find_data_sets, known_data_set
    assert known_data_set(moca_data) is data_sets["MoCA"] and find_data_sets("MoCA", moca_data.parent) == {"MoCA": moca_data}


def test_the_score_of_moca_as_a_program(moca_data, tmp_path):
    masks = moca_masks(tmp_path / "masks", RIGHT)
    done = subprocess.run([sys.executable, scripts / "moca.py", "score", masks, "--data", moca_data], capture_output=True, text=True)
    assert done.returncode == 0 and "J_moca            1.000" in done.stdout, done.stderr


def test_moca_stops_at_frame_300(script):
    module, frames = script("moca"), dict.fromkeys(range(400))
    jobs, missing = module.plan_sequence("crab", frames, {0: (0, 0, 1, 1), 399: (0, 0, 1, 1)})
    assert len(jobs) == 200 and jobs[-1].target == "Annotations/crab/00099.png" and not missing
    assert module.plan_sequence("crab", {}, {3: (0, 0, 1, 1)}) == ([], ["no frame crab/00000", "no frame crab/00003"])


@pytest.mark.parametrize("sequence, rows, columns", [("bear", (0, 720), (0, 1280)), ("meerkat", (37, 720), (89, 1280)), ("lichen_katydid", (0, 672), (0, 962)),
                                                     ("seal_2", (95, 720), (0, 1280)), ("shrimp", (0, 720), (0, 1027)),
                                                     ("peacock_flounder_1", (92, 632), (0, 1280)), ("egyptian_nightjar", (0, 650), (318, 1280))])
def test_moca_leaves_out_logos_and_bars(sequence, rows, columns, script):
    taken = script("moca").window(sequence, 720, 1280)
    assert [s.indices(n)[:2] for s, n in zip(taken, (720, 1280))] == [rows, columns]


def test_moca_cuts_frame_and_box_alike(script):
    "An animal that fills its box fills it still after the logo is cut away."
    module = script("moca")
    pixels = np.zeros((720, 1280, 3), np.uint8)
    pixels[300:500, 400:900] = 255
    member = script("_prepare").Member("f.png", 0, lambda: cv2.imencode(".png", pixels)[1].tobytes())
    image = cv2.imdecode(np.frombuffer(module.frame(member, "meerkat"), np.uint8), cv2.IMREAD_GRAYSCALE)
    box = cv2.imdecode(np.frombuffer(module.filled_box(member, "meerkat", (400, 300, 500, 200)), np.uint8), cv2.IMREAD_UNCHANGED)
    assert ((image > 127) != (box > 127)).mean() < .001


def test_moca_reads_both_tables_and_names_wrong_lines(script):
    read = lambda data: script("moca").read_boxes(script("_prepare").Member("annotations.csv", 0, lambda: data))
    assert read(via(BOXES)) == read(via(BOXES, exported=False)) == {
        "crab": {0: [0, 0, 8, 6], 6: [6, 3, 8, 6]}, "fossa": {3: [4, 3, 4, 3], 1: [4, 3, 8, 6]}, "zebra": {0: [0, 0, 4, 4]}}
    for bad in ([("crab/00000", "[2,1,1]", 0)], [("crab/00000", "[2,a,1,1,1]", 0)], [("crab", "[2,1,1,1,1]", 0)]):
        with pytest.raises(ValueError, match="annotations.csv: line 4 is not a frame with its box"):
            read(via(bad))
    with pytest.raises(ValueError, match="no columns file_list and spatial_coordinates"):
        read(b"frame,box\n1,2\n")


def test_moca_lists_its_sequences(script):
    module = script("moca")
    cut = " ".join(module.LOGOS.values()).split() + list(module.BARS)
    assert len(set(module.SEQUENCES)) == len(module.SEQUENCES) == 88 and len(set(cut)) == len(cut) and set(cut) <= set(module.SEQUENCES)


def test_cub_takes_the_test_images_of_the_list(run, small, tmp_path):
    small("cub")
    run("cub", *archives("cub", tmp_path))
    out = run.work / "data/CUB_200_2011"
    assert sorted(p.name for p in (out / "test_images").iterdir()) == ["Albatross_0001_1.jpg", "Wren_0001_3.jpg"]
    assert (out / "test_images/Wren_0001_3.jpg").read_bytes() == picture(".jpg", 42)
    assert columns(out / "test_segmentations/Wren_0001_3.png") == [0, 0, 0, 255, 255, 255]


def test_cub_with_the_list_of_three_parts(run, tmp_path):
    (tmp_path / "train_val_test_split.txt").write_text("1 0\n2 2\n3 1\n")
    told = run("cub", *archives("cub", tmp_path), tmp_path / "train_val_test_split.txt")
    assert "1 images, 1 masks" in told and [p.name for p in (run.work / "data/CUB_200_2011/test_images").iterdir()] == ["Albatross_0002_2.jpg"]


def test_cub_is_written_beside_what_was_unpacked_there(run, small):
    small("cub")
    unpacked("cub", run.work / "data")
    assert SUMMARIES["cub"] in run("cub", "data") and "already complete" in run("cub", "data")
    assert len(list((run.work / "data/CUB_200_2011/images").rglob("*.jpg"))) == 4


def test_flowers_takes_the_list_of_the_benchmark_and_what_is_not_blue(run, small, tmp_path):
    small("flowers")
    run("flowers", *archives("flowers", tmp_path))
    out = run.work / "data/Flowers"
    assert sorted(p.name for p in (out / "test_images").iterdir()) == ["image_00001.jpg", "image_00003.jpg"]
    assert columns(out / "test_segmentations/image_00003.png") == [0] * 32 + [255] * 32


@pytest.mark.parametrize("name, truth", [("duts", "DUTS-TE/DUTS-TE-Mask"), ("dut_omron", "pixelwiseGT-new-PNG"), ("ecssd", "ground_truth_mask")])
def test_masks_are_cut_at_half(name, truth, run, small, tmp_path):
    small(name)
    run(name, *archives(name, tmp_path))
    assert columns(run.work / "data" / FOLDERS[name] / truth / "0002.png") == [0, 0, 255, 255]


# ---- twice, and interrupted

@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_changes_nothing(name, run, small, tmp_path):
    small(name)
    sources = archives(name, tmp_path)
    run(name, *sources)
    before = {p: p.stat().st_mtime_ns for p in run.work.rglob("*")}
    told = run(name, *sources)
    assert "already complete" in told and SUMMARIES[name] in told and {p: p.stat().st_mtime_ns for p in run.work.rglob("*")} == before


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_goes_on(name, run, small, script, monkeypatch, tmp_path):
    small(name)
    sources = archives(name, tmp_path)
    run(name, *sources, "--out", "whole")
    shared, count = script("_prepare"), iter(range(100))
    write = shared.write_file

    def stop(path, data):
        if next(count) == 3:
            raise KeyboardInterrupt
        write(path, data)
    with monkeypatch.context() as m:
        m.setattr(shared, "write_file", stop)
        assert "interrupted" in run(name, *sources)
    half = written(run.work / "data")
    (next(p for p in (run.work / "data").rglob("*") if p.name in {Path(n).name for n in half}).parent / ".00000.jpg.part").write_bytes(b"torn")
    assert len(half) == 2 and "files written" in run(name, *sources)
    after = {n: v for n, v in written(run.work / "data").items() if not n.endswith(".part")}
    assert half.items() <= after.items() and {n: d for n, (d, _) in after.items()} == {n: d for n, (d, _) in written(run.work / "whole").items()}
    assert "already complete" in run(name, *sources)


def test_a_lost_file_comes_back(run, small, tmp_path):
    small("duts")
    source, = archives("duts", tmp_path)
    run("duts", source)
    lost = run.work / "data/DUTS/DUTS-TE/DUTS-TE-Mask/0001.png"
    content = lost.read_bytes()
    lost.unlink()
    assert "(1 files written)" in run("duts", source) and lost.read_bytes() == content


def test_a_part_is_completed_later(run, small, tmp_path):
    small("fbms")
    train, test = archives("fbms", tmp_path)
    told = run("fbms", train, "--partial")
    assert "a part only: no sequence cars1" in told and "1 sequences, 4 frames, 2 annotations" in told
    assert "already complete" in run("fbms", train, "--partial") and "no sequence cars1" in run("fbms", train)
    assert SUMMARIES["fbms"] in run("fbms", train, test)


def test_full_disk_leaves_no_half_file(run, small, script, monkeypatch, tmp_path):
    small("ecssd")
    sources = archives("ecssd", tmp_path)
    writes, real = [], Path.write_bytes

    def full(path, data):
        writes.append(path)
        if len(writes) == 3:
            real(path, data[:10])
            raise OSError(28, "No space left on device")
        return real(path, data)
    with monkeypatch.context() as m:
        m.setattr(Path, "write_bytes", full)
        line = run("ecssd", *sources)
    assert "No space left on device" in line and "data/ECSSD/images/0001.jpg" in line
    assert [n for n in written(run.work)] == ["data/ECSSD/images/0000.jpg"] and not list(run.work.rglob("*.part*"))
    assert SUMMARIES["ecssd"] in run("ecssd", *sources)


# ---- wrong input

def symlink(target):
    "A zip archive with a link."
    info = zipfile.ZipInfo("images/link.jpg")
    info.external_attr = 0o120777 << 16
    return info, target


def wrong(case, folder):
    "(script, its sources, what the line must say)"
    good = salient("images", "ground_truth_mask", ["a.zip"])["a.zip"]
    whole = as_zip(folder / "good.zip", good)
    if case == "traversal":
        return "ecssd", [as_zip(folder / "a.zip", good | {"images/../../../escaped.jpg": b"x"})], "leads out of the archive"
    if case == "absolute":
        return "ecssd", [as_tar(folder / "a.tar", good | {"/tmp/escaped.jpg": b"x"})], "leads out of the archive"
    if case == "link out, zip":
        with zipfile.ZipFile(whole, "a") as archive:
            archive.writestr(*symlink("../../secret"))
        return "ecssd", [whole], "leads out of the archive"
    if case in ("link out, tar", "hard link out, tar"):
        link = tarfile.TarInfo("images/link.jpg")
        link.type, link.linkname = (tarfile.LNKTYPE, "../secret") if "hard" in case else (tarfile.SYMTYPE, "/etc/passwd")
        with tarfile.open(folder / "a.tar", "w") as archive:
            archive.addfile(link)
        return "ecssd", [folder / "a.tar"], "leads out of the archive"
    if case in ("rar", "rar by another name"):
        source = folder / ("SegTrackv2.rar" if case == "rar" else "SegTrackv2.zip")
        source.write_bytes(b"" if case == "rar" else b"Rar!\x1a\x07\x00")
        return "segtrackv2", [source], "unpack this .rar archive first"
    if case == "cut zip":
        whole.write_bytes(whole.read_bytes()[:-400])
        return "ecssd", [whole], "damaged or cut off"
    if case == "cut tar":
        tar = as_tar(folder / "a.tgz", {"images/noise.jpg": os.urandom(9000)} | good)
        tar.write_bytes(tar.read_bytes()[:5000])
        return "ecssd", [tar], "damaged or cut off"
    if case == "no archive":
        (folder / "images.zip").write_text("<html>Not found</html>")
        return "ecssd", [folder / "images.zip"], "images.zip: neither a .zip nor a .tar archive"
    if case == "wrong archive":
        return "davis2016", [whole], "good.zip: nothing of DAVIS2016 in it; needed: DAVIS-data.zip of https://davischallenge.org"
    if case == "empty folder":
        (folder / "empty").mkdir()
        return "cub", [folder / "empty"], "nothing of CUB_200_2011 in it"
    if case == "no source":
        return "dut_omron", [folder / "gone.zip"], "gone.zip: no such archive or folder"
    if case == "no mask":
        return "ecssd", [as_zip(folder / "a.zip", {n: d for n, d in good.items() if n != "ground_truth_mask/0001.png"})], "no mask of 0001"
    if case == "too few":
        return "ecssd", [whole], "ECSSD is not complete: 3 images instead of 1000; needed: images.zip"
    if case == "no annotation":
        files = davis()
        del files["DAVIS/Annotations/480p/bear/00001.png"]
        return "davis2016", [as_zip(folder / "a.zip", files)], "4 frames instead of 3455, no sequence blackswan"
    if case == "no list":
        files = {n: d for n, d in cub()["CUB_200_2011.tgz"].items() if not n.endswith("split.txt")}
        return "cub", [as_tar(folder / "a.tgz", files)], "train_test_split.txt is missing"
    if case == "no setid":
        return "flowers", archives("flowers", folder)[:2], "setid.mat is missing"
    if case == "option":
        return "duts", [whole, "--partail"], "unrecognized arguments"
    if case == "nothing given":
        return "duts", [], "give the archives or the folder that you have: DUTS-TE.zip of http://saliencydetection.net/duts/; or --download"
    if case == "out is a file":
        (folder / "taken").write_text("")
        return "ecssd", [whole, "--partial", "--out", folder / "taken"], "taken"
    raise KeyError(case)


@pytest.mark.parametrize("case", ["traversal", "absolute", "link out, zip", "link out, tar", "hard link out, tar", "rar",
                                  "rar by another name", "cut zip", "cut tar", "no archive", "wrong archive", "empty folder",
                                  "no source", "no mask", "too few", "no annotation", "no list", "no setid", "option", "nothing given",
                                  "out is a file"])
def test_wrong_input_gives_one_line_and_writes_nothing(case, run, tmp_path):
    (tmp_path / "from").mkdir()
    name, sources, message = wrong(case, tmp_path / "from")
    before = sorted(p for p in tmp_path.rglob("*"))
    line = run(name, *sources)
    assert line.startswith(f"{name}: ") and message in line, line
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name, lost, message", [
    ("davis2016", "Annotations/480p/dog/00001.png", "DAVIS2016 is not complete: no annotation of dog/00001; "),
    ("davis2016", "JPEGImages/480p/dog/00001.jpg", "3 frames instead of 4, no frame of annotation dog/00001; "),
    ("davis2016", "/480p/dog/", "2 frames instead of 4, no sequence dog; "),
    ("fbms", "marple2/GroundTruth/", "FBMS is not complete: no annotations of marple2; "),
    ("fbms", "Trainingset", "FBMS is not complete: no sequence bear01; "),
    ("segtrackv2", "GroundTruth/girl/", "SegTrackv2 is not complete: no annotations of girl; "),
    ("segtrackv2", "GroundTruth/worm/worm_00010.png", "SegTrackv2 is not complete: no annotation of worm/worm_00010; "),
    ("moca", "JPEGImages/crab/00003.jpg", "MoCA is not complete: 4 frames instead of 5, no frame crab/00003; "),
    ("moca", "JPEGImages/fossa/", "MoCA is not complete: 3 frames instead of 5, no sequence fossa; "),
    ("moca", "annotations.csv", "annotations.csv is missing; needed: "),
    ("cub", "Wren_0001_3.", "1 images instead of 2, no image 002.Wren/Wren_0001_3; "),
    ("cub", "segmentations/002.Wren", "1 images instead of 2, no mask of Wren_0001_3; "),
    ("flowers", "segmim/segmim_00003.jpg", "1 images instead of 2, no mask of image_00003; "),
    ("duts", "DUTS-TE-Image/0001.jpg", "2 images instead of 3, no picture of mask 0001; ")])
def test_what_is_missing_is_named(name, lost, message, run, small, tmp_path):
    small(name)
    folder = unpacked(name, tmp_path / "plain")
    gone = [p for p in folder.rglob("*.*") if p.is_file() and lost in p.relative_to(folder).as_posix()]
    for p in gone:
        p.unlink()
    line = run(name, folder)
    assert gone and message in line and not any(run.work.iterdir()), line


def test_damage_inside_an_archive_is_named(run, small, tmp_path):
    small("ecssd")
    images, masks = archives("ecssd", tmp_path)
    data = masks.read_bytes()
    where = data.index(b"IDAT") + 8
    masks.write_bytes(data[:where] + bytes([data[where] ^ 255]) + data[where + 1:])
    line = run("ecssd", images, masks)
    assert "ground_truth_mask.zip: this archive is damaged" in line and not list(run.work.rglob("*.part*"))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"ground_truth_mask/000{i}.png", bytes(5000))
    data = (tmp_path / "packed.zip").read_bytes()
    start = 30 + len("ground_truth_mask/0000.png")
    (tmp_path / "packed.zip").write_bytes(data[:start] + b"\x07" + data[start + 1:])           # a kind of block that there is not
    assert "packed.zip: this archive is damaged" in run("ecssd", images, tmp_path / "packed.zip")
    empty = as_zip(tmp_path / "empty.zip", {f"ground_truth_mask/000{i}.png": b"" for i in range(3)})
    assert "ground_truth_mask/0000.png: not a readable picture" in run("ecssd", images, empty)


def test_what_others_wrote_is_not_touched(run, small, tmp_path):
    small("duts")
    source, = archives("duts", tmp_path)
    unpacked("duts", run.work / "data/DUTS")                    # its masks are not cut at half yet
    before = written(run.work)
    assert "exists but was not written by this script" in run("duts", source) and "exists but" in run("duts", "data/DUTS") and written(run.work) == before


def test_links_inside_an_archive_and_circles_in_folders_are_harmless(run, small, script, tmp_path):
    small("ecssd")
    source = as_zip(tmp_path / "a.zip", salient("images", "ground_truth_mask", ["a"])["a"])
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr(*symlink("0001.jpg"))
    assert SUMMARIES["ecssd"] in run("ecssd", source)
    folder = unpacked("ecssd", tmp_path / "plain")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    with script("_prepare").open_sources([folder]) as members:
        assert len(members) == 7
    assert SUMMARIES["ecssd"] in run("ecssd", folder, "--out", "b")


# ---- checksums and downloads

def published(folder, sources):
    return {p.name: (p.as_uri(), f"md5:{hashlib.md5(p.read_bytes()).hexdigest()}") for p in sources}


def test_checksums_are_said_and_never_claimed(run, small, script, monkeypatch, tmp_path):
    small("duts"), small("dut_omron")
    source, = archives("duts", tmp_path)
    told = run("duts", source)
    assert f"DUTS-TE.zip: md5 {hashlib.md5(source.read_bytes()).hexdigest()}, not as published" in told
    monkeypatch.setattr(script("duts"), "PUBLISHED", published(tmp_path, [source]))
    assert ", as published" in run("duts", source, "--out", "b")
    image, truth = archives("dut_omron", tmp_path)
    computed = f"DUT-OMRON-image.zip: sha256 {hashlib.sha256(image.read_bytes()).hexdigest()} (computed; no published checksum is known)"
    assert computed in run("dut_omron", image, truth)


@pytest.mark.parametrize("name", ["cub", "flowers", "duts", "ecssd"])
def test_download(name, run, small, script, monkeypatch, tmp_path):
    small(name)
    assert {kind.split(":")[0] for _, kind in script(name).PUBLISHED.values()} <= {"md5", "sha256"}
    assert sorted(script(name).PUBLISHED) == sorted(MINIATURES[name]())
    monkeypatch.setattr(script(name), "PUBLISHED", published(tmp_path, archives(name, tmp_path)))
    assert SUMMARIES[name] in run(name, "--download") and "already complete" in run(name, "--download")
    assert sorted(p.name for p in (run.work / "data/archives").iterdir()) == sorted(MINIATURES[name]())


def test_wrong_downloads(run, small, script, monkeypatch, tmp_path):
    small("duts")
    source, = archives("duts", tmp_path)
    right = published(tmp_path, [source])
    monkeypatch.setattr(script("duts"), "PUBLISHED", {"DUTS-TE.zip": (right["DUTS-TE.zip"][0], "md5:" + "0" * 32)})
    assert "has not the published md5 000" in run("duts", "--download") and not list(run.work.rglob("*.*"))
    monkeypatch.setattr(script("duts"), "PUBLISHED", {"DUTS-TE.zip": (f"{source.as_uri()}.gone", "md5:" + "0" * 32)})
    assert "download it by hand" in run("duts", "--download")


def test_a_cut_download_goes_on(run, small, script, monkeypatch, tmp_path):
    "A server that breaks off, then is asked for the rest only."
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer
    small("duts")
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
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        place = f"http://127.0.0.1:{server.server_port}/DUTS-TE.zip", f"md5:{hashlib.md5(data).hexdigest()}"
        monkeypatch.setattr(script("duts"), "PUBLISHED", {"DUTS-TE.zip": place})
        assert "ended early" in run("duts", "--download") and SUMMARIES["duts"] in run("duts", "--download")
    finally:
        server.shutdown(), server.server_close()
    assert asked == [0, 1000] and (run.work / "data/archives/DUTS-TE.zip").read_bytes() == data


# ---- as a user meets them

def test_the_process(tmp_path):
    "Started as a program, with input that is not enough: exit code 1, one line on stderr, nothing written."
    source = as_zip(tmp_path / "DAVIS-data.zip", davis())
    done = subprocess.run([sys.executable, scripts / "davis2016.py", source], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("davis2016: DAVIS2016 is not complete: 4 frames instead of 3455") and list(tmp_path.iterdir()) == [source]


def test_the_library_reads_what_is_written(run, small, tmp_path):
    from gwm_nb.files import list_images, read_mask
    from gwm_nb.videos import find_masks
    for name in ("davis2016", "fbms", "segtrackv2", "moca"):
        small(name)
        run(name, *archives(name, tmp_path / name))
    for sequence in ("DAVIS2016/JPEGImages/480p/dog", "FBMS/JPEGImages/tennis", "SegTrackv2/JPEGImages/worm", "MoCA/JPEGImages/crab"):
        frames = list_images(run.work / "data" / sequence)
        masks = find_masks(run.work / "data" / sequence.replace("JPEGImages", "Annotations"), [f.stem for f in frames])
        assert masks and set(masks) <= {f.stem for f in frames} and all(0 < read_mask(m).float().mean() < 1 for m in masks.values())


@pytest.mark.parametrize("name", NAMES)
def test_help_and_readme_say_where_to_get_it(name, script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        getattr(script(name), name)()
    page = next(w for w in script(name).ORIGIN.split() if w.startswith("http"))
    assert stop.value.code == 0 and page in "".join(capsys.readouterr().out.split("\n"))
    readme = (scripts / "README.md").read_text(encoding="utf-8")
    assert page in readme and f"data_scripts/{name}.py" in readme
