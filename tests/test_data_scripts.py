"The data scripts on miniatures of the published archives: what they write, twice, and refuse."
import hashlib
import importlib
import io
import re
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from gwm_nb.benchmarks import suitable_protocols
from gwm_nb.commands import gwm_evaluate
from gwm_nb.cutouts import write_labels
from gwm_nb.datasets import find_masks
from gwm_nb.files import list_images, write_mask
from gwm_nb.reports import read_results
from inputs import Mirror, serve

scripts = Path(__file__).resolve().parent.parent / "data_scripts"
NAMES = sorted({p.stem for p in scripts.glob("[a-z]*.py")} - {"score_clips"})
H, W = 12, 16


@pytest.fixture
def script(monkeypatch):
    "Import a script by its name; its counts can then be patched."
    monkeypatch.syspath_prepend(str(scripts))
    return importlib.import_module


@pytest.fixture
def run(script, call, tmp_path):
    "Call a script in an empty folder. Returns what it printed, or the one line it stopped with."
    work = tmp_path / "work"
    work.mkdir()

    def run(name, *argv, function=None):
        out, end = call(getattr(script(name), function or name), *argv, cwd=work)
        return end or out
    run.work = work
    return run


def picture(kind, value=90):
    return cv2.imencode(kind, np.full((H, W, 3), value, np.uint8))[1].tobytes()


def mask(kind, values, colour=False):
    "Columns of the given values (grey, or BGR colours), as bytes."
    columns = np.zeros((H, len(values), 3), np.uint8)
    columns[:] = np.array(values, np.uint8).reshape(len(values), -1)
    return cv2.imencode(kind, columns if colour else columns[..., 0])[1].tobytes()


def as_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
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


# ---- miniatures: {script: {archive: {member: bytes}}}

def davis(*sequences):
    files = {"DAVIS/README.md": b"readme", "__MACOSX/DAVIS/JPEGImages/480p/bear/._0.jpg": b"junk",
             "DAVIS/ImageSets/480p/train.txt": b"/JPEGImages/480p/bear/00000.jpg\n"}
    for s in sequences:
        for t in range(2):
            files[f"DAVIS/JPEGImages/480p/{s}/{t:05d}.jpg"] = picture(".jpg", 20 + t)
            files[f"DAVIS/Annotations/480p/{s}/{t:05d}.png"] = mask(".png", [0, 255, t])
    return files


WHITE, BLUE, DARK = (255, 255, 255), (255, 0, 0), (0, 0, 60)        # BGR; grey levels 255, 29, 18


def fbms_sequence(place, name, frames, annotated, truth):
    "Frames in no order, annotations, and the text that lists these."
    names, (ending, content) = [name.format(t) for t in frames], truth
    listed = "".join(f"File name:\n{names[i]}{ending}\n" for i in annotated)
    folder, s = f"{place}/GroundTruth", place.split("/")[1]
    return {f"{place}/{names[i]}.jpg": picture(".jpg", 50 + i) for i in range(len(names))[::-1]} | {
        f"{folder}/{names[i]}{ending}": content for i in annotated} | {
        f"{folder}/{s}Def.dat": listed.encode()}


def fbms_train():
    place, truth = "Trainingset/bear01", mask(".ppm", [WHITE, BLUE, DARK, (30, 200, 90)], True)
    files = fbms_sequence(place, "bear01_{:04d}", [1, 2, 3, 4], [0, 2], ("_gt.ppm", truth))
    for t in (1, 3):                                                # copies that are not taken
        files[f"{place}/GroundTruth/bear01_{t:04d}_gt.pgm"] = mask(".pgm", [0] * 4)
        files[f"{place}/GroundTruth/bear01_{t:04d}_PROB_gt.ppm"] = mask(".ppm", [WHITE] * 4, True)
    return files


def fbms_test():
    files, names = {}, {"cars1_{:02d}": 1, "marple2_{:03d}": 1, "marple7_{:03d}": 1,
                        "marple4_{:03d}": 324, "tennis{:03d}": 454}
    for name, first in names.items():
        place = "Testset/" + name.split("_")[0].split("{")[0]
        truth = ".pgm", mask(".pgm", [0, 12, 13, 25, 26, 102, 103, 255])    # about .05, .1, .4
        files |= fbms_sequence(place, name, range(first, first + 3), [0, 2], truth)
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


def cub():
    birds = "001.Albatross/Albatross_0001_1", "002.Wren/Wren_0002_2", "002.Wren/Wren_0001_3"
    place = "CUB_200_2011/images"
    images = {f"{place}/{b}.jpg": picture(".jpg", 40 + i) for i, b in enumerate(birds)}
    images[f"{place}/002.Wren/Wren_0001_3_rgb.jpg"] = picture(".jpg")       # strays are in no list
    images[f"{place}.txt"] = "".join(f"{i} {b}.jpg\n" for i, b in enumerate(birds, 1)).encode()
    images["CUB_200_2011/train_test_split.txt"] = b"1 0\n2 1\n3 0\n"
    masks = {f"segmentations/{b}.png": mask(".png", [0, 51, 127, 128, 204, 255]) for b in birds}
    return {"CUB_200_2011.tgz": images, "segmentations.tgz": masks}


def flowers():
    lists = io.BytesIO()
    savemat(lists, dict(trnid=np.array([[3, 1]]), valid=np.array([[2]]), tstid=np.array([[4, 5]])))
    blues = mask(".png", [(254, 0, 0), (230, 24, 0), (230, 25, 0), (20, 0, 230)], colour=True)
    images = {f"jpg/image_{i:05d}.jpg": picture(".jpg", 9 * i) for i in range(1, 6)}
    masks = {f"segmim/segmim_{i:05d}.jpg": blues for i in range(1, 6)}
    return {"102flowers.tgz": images, "102segmentations.tgz": masks, "setid.mat": lists.getvalue()}


def salient(images, masks, *archives):
    "Three images with masks, in one archive or in two."
    pictures = {f"{images}/{i:04d}.jpg": picture(".jpg", i) for i in range(3)}
    pictures[f"__MACOSX/{images}/._0000.jpg"] = b"junk"
    truth = {f"{masks}/{i:04d}.png": mask(".png", [0, 127, 128, 255]) for i in range(3)}
    parts = (pictures, truth) if len(archives) > 1 else (pictures | truth,)
    return dict(zip(archives, parts))


def via(rows):
    "A table of (frame, box, motion), as it was published."
    lines = [f"1,/{f}.jpg,\"{box}\",{{'1': '{m}'}}\n" for f, box, m in rows]
    return ("# VIA\nx,file_list,spatial_coordinates,metadata\n" + "".join(lines)).encode()


BOXES = [("crab/00000", [2, 0, 0, 8, 6], 0), ("crab/00006", [2, 6, 3, 8, 6], 0),
         ("fossa/00003", [2, 4, 3, 4, 3], 2), ("fossa/00001", [2, 4, 3, 8, 6], 1),
         ("zebra/00000", [2, 0, 0, 4, 4], 0), ("fossa/00004", [], 0)]


def moca():
    files = {f"MoCA/JPEGImages/{s}/{t:05d}.jpg": picture(".jpg", 10 * t)
             for s, n in (("crab", 8), ("fossa", 4), ("zebra", 1)) for t in range(n)}
    return {"MoCA.zip": files | {"MoCA/Annotations/annotations.csv": via(BOXES)}}


def mini(folder, summary, archives, **counts): return SimpleNamespace(**locals())


MINIATURES = {
    "davis2016": mini("DAVIS2016", "2 sequences, 4 frames, 4 annotations", TRAIN=["bear"],
                      VAL=["dog"], FRAMES=4, archives={"DAVIS-data.zip": davis("bear", "dog")}),
    "fbms": mini("FBMS", "6 sequences, 19 frames, 12 annotations",
                 {"FBMS_Trainingset.zip": fbms_train(), "FBMS_Testset.zip": fbms_test()},
                 TRAIN=["bear01"], TEST=["cars1", "marple2", "marple7", "marple4", "tennis"]),
    "segtrackv2": mini("SegTrackv2", "3 sequences, 6 frames, 6 annotations",
                       {"SegTrackv2.zip": segtrack()}, SEQUENCES=["cheetah", "girl", "worm"]),
    "moca": mini("MoCA", "2 sequences, 5 frames, 5 annotations", moca(),
                 SEQUENCES=["crab", "fossa"], FRAMES=5),
    "cub": mini("CUB_200_2011", "2 images, 2 masks", cub(), TEST_IMAGES=2),
    "flowers": mini("Flowers", "2 images, 2 masks", flowers(), TEST_IMAGES=2),
    "duts": mini("DUTS", "3 images, 3 masks", TEST_IMAGES=3, archives=salient(
        "DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", "DUTS-TE.zip")),
    "dut_omron": mini("DUT_OMRON", "3 images, 3 masks", IMAGES=3, archives=salient(
        "DUT-OMRON-image", "pixelwiseGT-new-PNG",
        "DUT-OMRON-image.zip", "DUT-OMRON-gt-pixelwise.zip.zip")),
    "ecssd": mini("ECSSD", "3 images, 3 masks", IMAGES=3, archives=salient(
        "images", "ground_truth_mask", "images.zip", "ground_truth_mask.zip"))}


def archives(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for archive, files in MINIATURES[name].archives.items():
        if isinstance(files, bytes):
            (folder / archive).write_bytes(files)
        else:
            (as_tar if archive.endswith(".tgz") else as_zip)(folder / archive, files)
    return [folder / archive for archive in MINIATURES[name].archives]


def unpacked(name, folder):
    for archive, files in MINIATURES[name].archives.items():
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
WRITTEN = {
    "davis2016": {"JPEGImages/480p/dog/00001.jpg": picture(".jpg", 21),
                  "Annotations/480p/dog/00001.png": [0, 255, 1]},
    "fbms": {"JPEGImages/bear01/00003.jpg": picture(".jpg", 52),
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
    "cub": {"test_images/Albatross_0001_1.jpg": picture(".jpg", 40),
            "test_images/Wren_0001_3.jpg": picture(".jpg", 42),
            "test_segmentations/Wren_0001_3.png": [0, 0, 0, 255, 255, 255]},
    "flowers": {"test_images/image_00001.jpg": picture(".jpg", 9),
                "test_images/image_00003.jpg": picture(".jpg", 27),
                "test_segmentations/image_00003.png": [0, 0, 255, 255]},  # blue is background
    "duts": {"DUTS-TE/DUTS-TE-Mask/0002.png": [0, 0, 255, 255]},
    "dut_omron": {"pixelwiseGT-new-PNG/0002.png": [0, 0, 255, 255]},
    "ecssd": {"ground_truth_mask/0002.png": [0, 0, 255, 255]}}


@pytest.mark.parametrize("name", NAMES)
def test_archives_and_folders_give_the_same_and_twice_changes_nothing(name, run, small, tmp_path):
    summary, sources = small(name), archives(name, tmp_path / "from")
    told = run(name, *sources, "--out", "a")
    assert summary in told and f"a/{MINIATURES[name].folder}" in told and "files written" in told
    a = written(run.work / "a")
    again = run(name, *sources, "--out", "a")
    assert "already complete" in again and summary in again and written(run.work / "a") == a
    unpacked(name, tmp_path / "plain/below")                                  # one level too low
    (tmp_path / "plain/below/again").symlink_to(tmp_path / "plain")           # a circle
    assert summary in run(name, tmp_path / "plain", "--out", "b")
    b = written(run.work / "b")
    assert a and {n: data for n, (data, _) in a.items()} == {n: data for n, (data, _) in b.items()}
    assert not [n for n in a if "MACOSX" in n or Path(n).name.startswith(".")]
    for file, wanted in WRITTEN.get(name, {}).items():
        path = run.work / "a" / MINIATURES[name].folder / file
        if isinstance(wanted, bytes):
            assert path.read_bytes() == wanted
        else:
            pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(pixels, np.tile(wanted, (len(pixels), 1))), file


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
        found = cv2.imread(str(moca_data / f"Annotations/{name}.png"), cv2.IMREAD_UNCHANGED)
        assert found.shape == (720, 1280) and set(np.unique(found)) == {0, 255}
        (top, left), (bottom, right) = (f(np.argwhere(found), 0) for f in (np.min, np.max))
        extent = np.zeros((720, 1280), bool)
        extent[place] = True
        assert extent[top, left] and extent[bottom, right] and found[extent].mean() > 240, name


def test_moca_leaves_out_logos_and_bars(script):
    window = script("moca").window
    assert window("meerkat", 720, 1280) == (slice(37, None), slice(89, None))
    assert window("peacock_flounder_1", 720, 1280) == (slice(92, 632), slice(0, None))


def moca_masks(folder, boxes, write=write_mask):
    for name, place in boxes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mask = torch.zeros(720, 1280, dtype=torch.bool)
        mask[place] = True
        write(folder / f"{name}.png", mask)
    return folder


def figures(text):
    return dict(line.split() for line in text.splitlines() if not line.startswith("a part"))


def test_moca_s_score_and_protocol_agree(moca_data, run, tmp_path, capsys):
    "By itself on MoCA, whose boxes are no masks; J and F of masks are not reported."
    half = RIGHT | {"crab/00001": (slice(60, 420), slice(240, 496)),            # 0.4 of the box
                    "fossa/00001": (slice(0), slice(0))}
    masks = moca_masks(tmp_path / "masks", half)           # of gwm_segment, then of gwm_evaluate
    labels = moca_masks(tmp_path / "ids", half, lambda path, m: write_labels(path, m.numpy()))
    found, same = (figures(run("moca", folder, "--data", moca_data, function="score"))
                   for folder in (masks, labels))
    assert found == same and found["J_moca"] == f"{((1 + .4 + 1) / 3 + .5) / 2:.3f}"
    assert found["success_0.5_moca"] == found["success_moca"] == "0.600" and found["frames"] == "5"
    gwm_evaluate(None, data=moca_data, predictions=masks, save=tmp_path / "out")
    (result,), printed = read_results(tmp_path / "out"), capsys.readouterr().out
    assert result["protocol"] == "moca" and "F" not in result and not result["looks_at_labels"]
    for name, key in (("J_moca", "J"), ("success_moca", "success")):
        assert found[name] == f"{result[key]:.3f}"
    assert "moca F" not in printed and "; success 0.5 0.600;" in printed
    assert suitable_protocols(moca_data) == ["moca"] and "moca" not in suitable_protocols(tmp_path)


def test_moca_names_masks_that_are_missing(moca_data, run, tmp_path):
    crabs = {k: v for k, v in RIGHT.items() if k.startswith("crab")}
    masks = moca_masks(tmp_path / "masks", crabs)
    score = lambda *argv: run("moca", masks, *argv, "--data", moca_data, function="score")
    assert re.search("1 of 2.*fossa.*--partial", score())
    assert figures(score("--partial"))["frames"] == "3"


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


def test_a_part_is_completed_later(run, small, tmp_path):
    summary = small("fbms")
    train, test = archives("fbms", tmp_path)
    told = run("fbms", train, "--partial")
    assert "no sequence cars1" in told and "1 sequences, 4 frames, 2 annotations" in told
    assert "already complete" in run("fbms", train, "--partial")
    assert "no sequence cars1" in run("fbms", train) and summary in run("fbms", train, test)


# ---- wrong input

def link_out(d):
    info = zipfile.ZipInfo("images/link.jpg")
    info.external_attr = 0o120777 << 16
    return as_zip(d / "a.zip", {info: "../../secret"})


# script, its sources in a folder, what the line has to say: the value, and what to do
WRONG = {
    "traversal": ("ecssd", lambda d: [as_zip(d / "a.zip", {"images/../../../out.jpg": b"x"})],
                  "a.zip.*out.jpg.*get it again"),
    "link out": ("ecssd", lambda d: [link_out(d)], "a.zip.*images/link.jpg.*get it again"),
    "cut": ("ecssd", lambda d: [as_folder(d, {"a.tgz": bytes(99)}) / "a.tgz"], "a.tgz.*it again"),
    "davis 2017": ("davis2016", lambda d: [as_zip(d / "a.zip", davis("bear", "bike-packing"))],
                   "bike-packing"),
    "no setid": ("flowers", lambda d: archives("flowers", d)[:2], "setid.mat is missing"),
    "nothing given": ("duts", lambda d: [], "DUTS-TE.zip of http://.*--download"),
    "no number": ("fbms", lambda d: [as_zip(d / "a.zip", {"Testset/cars1/cars.jpg": b"x"}),
                                     "--partial"], "cars.jpg.*frame number")}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gives_one_line_and_writes_nothing(case, run, tmp_path):
    (tmp_path / "from").mkdir()
    name, make, says = WRONG[case]
    sources = make(tmp_path / "from")
    line = run(name, *sources)
    assert re.match(f"{name}: .*{says}", line) and not list(run.work.iterdir()), line


@pytest.mark.parametrize("name, lost, message", [
    ("davis2016", "/480p/dog/", "2 frames instead of 4, no sequence dog"),
    ("fbms", "bear01_0003_gt.ppm", "bear01/GroundTruth/bear01_0003_gt.ppm"),
    ("segtrackv2", "cheetah/2/cheetah_00002.png", "cheetah/cheetah_00002, object 2"),
    ("flowers", "segmim/segmim_00003.jpg", "1 images instead of 2, no mask of image_00003")])
def test_what_is_missing_is_named(name, lost, message, run, small, tmp_path):
    small(name)
    folder = unpacked(name, tmp_path / "plain")
    gone = [p for p in folder.rglob("*.*") if lost in p.relative_to(folder).as_posix()]
    for p in gone:
        p.unlink()
    assert gone and message in run(name, folder) and not any(run.work.iterdir())


def test_what_others_wrote_is_left(run, small, tmp_path):
    small("duts")
    source, = archives("duts", tmp_path)
    unpacked("duts", run.work / "data/DUTS")                    # its masks are not cut at half yet
    before = written(run.work)
    assert re.search("data/DUTS.*--out", run("duts", source)) and written(run.work) == before


@pytest.mark.parametrize("name", ["cub", "flowers", "duts", "ecssd"])
def test_download(name, run, small, script, monkeypatch, tmp_path):
    "A wrong file is refused, a cut download goes on."
    summary, sources = small(name), archives(name, tmp_path)
    assert sorted(script(name).PUBLISHED) == sorted(p.name for p in sources)
    assert "not as published" in run(name, *sources, "--out", "b")
    files = {f"/{p.name}": p.read_bytes() for p in sources}
    first, sums = f"/{sources[0].name}", {n: hashlib.md5(d).hexdigest() for n, d in files.items()}
    with serve(files) as server:
        def offer(**changes):
            urls = {n[1:]: (f"{server}{n}", f"md5:{changes.get('md5', sums[n])}") for n in files}
            monkeypatch.setattr(script(name), "PUBLISHED", urls)
        offer(md5="0" * 32)
        assert "md5 000" in run(name, "--download") and not list(run.work.rglob("data/*.*"))
        offer()
        Mirror.files = files | {first: (files[first][:100], len(files[first]))}
        assert "ended early" in run(name, "--download")
        Mirror.files = files | {first: bytes(100) + files[first][100:]}     # the rest is right
        told = run(name, "--download")
    assert summary in told and f"{sums[first]}, as published" in told
    assert "already complete" in run(name, "--download")


def test_the_library_reads_what_is_written(run, small, tmp_path):
    small("segtrackv2")
    run("segtrackv2", *archives("segtrackv2", tmp_path))
    data = run.work / "data/SegTrackv2"
    names = [f.stem for f in list_images(data / "JPEGImages/worm")]
    assert find_masks(data / "Annotations/worm", names).keys() == set(names)
