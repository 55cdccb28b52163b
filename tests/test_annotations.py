"Annotations and predictions as people have them: one kind for a sequence, or refused in one line."
import unicodedata

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gwm_nb.annotations import Annotations, read_annotation
from gwm_nb.reports import read_results
from gwm_nb.commands import gwm_evaluate
from gwm_nb.show import VideoWriter
from gwm_nb.videos import VideoFrames, find_masks, lonely_masks
from gwm_nb.evaluate import evaluate
from gwm_nb.store import FlowSettings

N, H, W = 5, 60, 90
yy, xx = np.mgrid[:H, :W]
TRUTH = np.stack([(xx - 30 - 3 * t)**2 + (yy - 30)**2 < 14**2 for t in range(N)])
SECOND = np.stack([(xx - 60)**2 + (yy - 15 - t)**2 < 8**2 for t in range(N)]) & ~TRUTH
BOTH = TRUTH * 1 + SECOND * 2
RIM = np.stack([cv2.dilate(m.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0 for m in TRUTH]) & ~TRUTH
PHOTO = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * (252 * 3) + [224, 224, 192]
RED, GREEN, WHITE = ([255, 0, 0], [0, 255, 0], [255, 255, 255])


def indexed(labels, colours=VOC):
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(colours + [0] * (768 - len(colours)))
    return picture


def painted(labels, *colours, background=(0, 0, 0)):
    "Labels 0, 1, ... as an RGB picture."
    return Image.fromarray(np.array([background, *colours], np.uint8)[labels])


def soft(mask, width=7): return cv2.GaussianBlur(mask.astype(np.uint8) * 255, (width, width), 0)


def halved(mask):
    "Outlines as an enlarged or smoothed drawing has them: few shades."
    large = cv2.resize(mask.astype(np.uint8) * 255, (4 * W, 4 * H), interpolation=cv2.INTER_NEAREST)
    moved = np.roll(large, 2, 1)
    return cv2.resize(moved, (W, H), interpolation=cv2.INTER_AREA)


def opaque(rgb, alpha): return Image.fromarray(np.dstack([rgb, alpha.astype(np.uint8)]))


BLACK = np.zeros((H, W, 3), np.uint8)
PNG = {  # what is written for frame t; each has the truth as its object
    "0 and 255": lambda t: Image.fromarray(TRUTH[t].astype(np.uint8) * 255),
    "0 and 1": lambda t: Image.fromarray(TRUTH[t].astype(np.uint8)),
    "ids": lambda t: Image.fromarray(TRUTH[t].astype(np.uint8) * 3),
    "one dim id": lambda t: Image.fromarray(TRUTH[t].astype(np.uint8) * 38),
    "16 bit ids": lambda t: Image.fromarray(TRUTH[t].astype(np.uint16) * 3),
    "16 bit large ids": lambda t: Image.fromarray(TRUTH[t].astype(np.uint16) * 1001),
    "16 bit 65535": lambda t: Image.fromarray(TRUTH[t].astype(np.uint16) * 65535),
    "16 bit ids, 65535 void": lambda t: Image.fromarray(np.where(RIM[t], 65535, TRUTH[t]).astype(np.uint16)),
    "1 bit": lambda t: Image.fromarray(TRUTH[t]),
    "mixed depth": lambda t: Image.fromarray(TRUTH[t]) if t % 2 else Image.fromarray(TRUTH[t].astype(np.uint8) * 255),
    "palette": lambda t: indexed(TRUTH[t]),
    "palette, white background": lambda t: indexed(TRUTH[t], [255, 255, 255, 128, 0, 0]),
    "palette, 255 void": lambda t: indexed(np.where(RIM[t], 255, TRUTH[t])),
    "palette, 0 and 255": lambda t: indexed(TRUTH[t] * 255),
    "ids, 255 void": lambda t: Image.fromarray(np.where(RIM[t], 255, TRUTH[t]).astype(np.uint8)),
    "ids, wide void": lambda t: Image.fromarray(np.where(yy > 50, 255, TRUTH[t]).astype(np.uint8)),
    "alpha alone": lambda t: opaque(BLACK, TRUTH[t] * 255),
    "alpha on white": lambda t: opaque(BLACK + 255, TRUTH[t] * 255),
    "alpha of a photograph": lambda t: opaque(PHOTO, TRUTH[t] * 255),
    "alpha of ids": lambda t: opaque(BLACK, TRUTH[t] * 128),
    "soft alpha": lambda t: opaque(PHOTO, soft(TRUTH[t])),
    "cut out": lambda t: opaque(np.array(painted(TRUTH[t] * 1, RED)), TRUTH[t] * 255),
    "opaque": lambda t: opaque(np.array(painted(TRUTH[t] * 1, WHITE)), np.full((H, W), 255)),
    "grey and alpha": lambda t: Image.fromarray(np.dstack([np.zeros((H, W), np.uint8), TRUTH[t].astype(np.uint8) * 255]), "LA"),
    "grey and opaque": lambda t: Image.fromarray(np.dstack([TRUTH[t].astype(np.uint8) * 255, np.full((H, W), 255, np.uint8)]), "LA"),
    "red": lambda t: painted(TRUTH[t] * 1, RED),
    "dark red": lambda t: painted(TRUTH[t] * 1, [128, 0, 0]),
    "colours": lambda t: painted(TRUTH[t] * 1, [64, 0, 128]),
    "colours, white void": lambda t: painted(np.where(RIM[t], 2, TRUTH[t]), RED, WHITE),
    "colours, void of VOC": lambda t: painted(np.where(RIM[t], 2, TRUTH[t]), [128, 0, 0], [224, 224, 192]),
    "grey in RGB": lambda t: painted(TRUTH[t] * 1, WHITE),
    "ids in RGB": lambda t: painted(TRUTH[t] * 1, [3, 3, 3]),
    "soft": lambda t: Image.fromarray(soft(TRUTH[t])),
    "very soft": lambda t: Image.fromarray(soft(TRUTH[t], 15)),
    "few shades": lambda t: Image.fromarray(cv2.blur(TRUTH[t].astype(np.uint8) * 255, (3, 3)) // 28 * 28),
    "soft in 16 bits": lambda t: Image.fromarray(cv2.GaussianBlur(TRUTH[t].astype(np.uint16) * 65535, (7, 7), 0)),
    "soft in RGB": lambda t: Image.fromarray(np.dstack([soft(TRUTH[t])] * 3)),
    "soft red": lambda t: Image.fromarray(np.dstack([soft(TRUTH[t]), BLACK[..., :2]])),
}


def write(folder, draw, ending="png", first=0, **options):
    folder.mkdir(exist_ok=True)
    for t in range(N): draw(t).save(folder / f"{t + first:05d}.{ending}", **options)
    return folder


def smallest_J(annotations, truth=TRUTH):
    scores = []
    for name, wanted in zip(annotations.files, truth):
        object, void = (x.numpy() for x in annotations.mask(name))
        scores.append((object & wanted & ~void).sum() / ((object | wanted) & ~void).sum())
    return min(scores)


@pytest.mark.parametrize("kind", PNG)
def test_each_kind_is_read_for_what_it_says(tmp_path, kind):
    annotations = Annotations(write(tmp_path / "truth", PNG[kind]))
    exact = not any(word in kind for word in ("soft", "shades"))
    assert smallest_J(annotations) >= (1 if exact else .93), annotations.about
    left_out = sum(int(annotations.mask(name)[1].sum()) for name in annotations.files)
    assert left_out == (0 if "void" not in kind else (yy > 50).sum() * N if "wide" in kind else RIM.sum())


@pytest.mark.parametrize("draw, ending, options", [
    (PNG["0 and 255"], "jpg", dict(quality=75)), (PNG["0 and 255"], "jpg", dict(quality=20)), (PNG["soft"], "jpg", {}), (PNG["grey in RGB"], "jpg", dict(quality=60)),
    (PNG["red"], "jpg", {}), (PNG["dark red"], "jpg", {}), (PNG["0 and 255"], "webp", dict(quality=70)), (PNG["0 and 255"], "tif", {}), (PNG["ids"], "bmp", {}), (PNG["ids"], "pgm", {}),
    (PNG["16 bit ids"], "tif", {}), (lambda t: Image.fromarray(TRUTH[t].astype(np.float32)), "tif", {}), (lambda t: Image.fromarray(soft(TRUTH[t]).astype(np.float32) / 255), "tif", {})])
def test_other_formats(tmp_path, draw, ending, options):
    assert smallest_J(Annotations(write(tmp_path / "truth", draw, ending, **options))) > .93


def test_ids_keep_their_numbers(tmp_path):
    write(tmp_path / "truth", lambda t: Image.fromarray(BOTH[t].astype(np.uint8)))
    assert np.array_equal(Annotations(tmp_path / "truth").labels("00002"), BOTH[2])
    write(tmp_path / "large", lambda t: Image.fromarray(np.array([0, 1001, 26002], np.uint16)[BOTH[t]]))
    assert np.array_equal(Annotations(tmp_path / "large").labels("00002"), BOTH[2])
    write(tmp_path / "colours", lambda t: painted(BOTH[t], GREEN, RED))
    assert np.array_equal(Annotations(tmp_path / "colours").labels("00002"), BOTH[2])


def test_a_frame_is_understood_by_its_folder(tmp_path):
    "All 255 is the object beside 0 and 255, and nothing beside ids; black says nothing in either."
    for kind, value in (("0 and 255", 1), ("ids, 255 void", 255), ("palette, 255 void", 255)):
        folder = write(tmp_path / kind, PNG[kind])
        full = np.full((H, W), 255)
        (indexed(full) if "palette" in kind else Image.fromarray(full.astype(np.uint8))).save(folder / "00009.png")
        assert np.unique(Annotations(folder).labels("00009")).tolist() == [value]
    write(tmp_path / "black", lambda t: Image.fromarray(BLACK))
    assert not Annotations(tmp_path / "black").labels("00000").any()


@pytest.mark.parametrize("draw, ending", [
    (lambda t: opaque(np.array(painted(TRUTH[t] * 1, WHITE)), TRUTH[t][::-1, ::-1] * 255), "png"),
    (lambda t: Image.fromarray(PHOTO), "png"), (lambda t: Image.fromarray(PHOTO[..., 0]), "png"),
    (lambda t: Image.fromarray(cv2.resize(PHOTO, (W, H), interpolation=cv2.INTER_CUBIC)), "jpg"), (PNG["ids"], "jpg"),
    (lambda t: Image.fromarray(soft(TRUTH[t]) // 3), "png"), (lambda t: painted(TRUTH[t] * 1, RED, background=GREEN), "png"),
    (lambda t: Image.fromarray(TRUTH[t].astype(np.int32) - 1), "tif")])
def test_what_cannot_be_told_is_refused_in_one_line(tmp_path, draw, ending):
    with pytest.raises(ValueError) as error: Annotations(write(tmp_path / "truth", draw, ending)).labels("00000")
    assert str(tmp_path / "truth") in str(error.value) and "\n" not in str(error.value)


# ---- one meaning for a sequence

LEAVING = np.where((np.arange(N) == 2)[:, None, None] & (BOTH == 1), 0, BOTH)            # one object is out of sight
TWO = np.array([[0, 0, 0], [30, 200, 30], [200, 30, 30]], np.uint8)
RAINBOW = np.random.default_rng(1).permutation(2**24)[:700]
RAINBOW = np.stack([RAINBOW >> 16, RAINBOW >> 8 & 255, RAINBOW & 255], 1).astype(np.uint8)
RAINBOW[0] = 0


def tiles(n):
    "Labels 1 to n in tiles of 6x6 pixels with gaps."
    labels, columns = np.zeros((8 * -(-n // 20), 160), np.int32), 20
    for k in range(n): labels[k // columns * 8:, k % columns * 8:][:6, :6] = k + 1
    return labels


def segments(n):
    "Labels 1 to n that touch, without background."
    points = np.random.default_rng(2).random((n, 2)) * [H, W]
    return ((yy[..., None] - points[:, 0])**2 + (xx[..., None] - points[:, 1])**2).argmin(-1) + 1


def smooth(labels, colours):
    "Labels as colours with antialiased outlines."
    large = np.kron(labels, np.ones((4, 4), np.uint8))
    return Image.fromarray(cv2.resize(cv2.GaussianBlur(np.array(colours, np.uint8)[large], (5, 5), 0), (W, H), interpolation=cv2.INTER_AREA))


def cut(labels, ground=(0, 0, 0)): return opaque(np.where((labels > 0)[..., None], TWO[labels], np.array(ground, np.uint8)), (labels > 0) * 255)


PREDICTIONS = {  # how labels are written, and as what they are read
    "indices": (lambda x: indexed(x), "ids"), "faint": (lambda x: Image.fromarray(x.astype(np.uint8)), "ids"),
    "faint greys": (lambda x: Image.fromarray(x.astype(np.uint8) * 10), "ids"),
    "0, 128, 255": (lambda x: Image.fromarray(np.array([0, 128, 255], np.uint8)[x]), "ids"),
    "1 and 255": (lambda x: Image.fromarray(np.array([0, 1, 255], np.uint8)[x]), "ids"),
    "palette with 255": (lambda x: indexed(np.array([0, 3, 255])[x]), "ids"),
    "skipping": (lambda x: Image.fromarray(np.array([0, 700, 3], np.uint16)[x]), "ids"),
    "grey and alpha": (lambda x: Image.fromarray(np.dstack([x * 90, (x > 0) * 255]).astype(np.uint8), "LA"), "ids"),
    "colours": (lambda x: Image.fromarray(TWO[x]), "colours"), "white": (lambda x: painted(x, WHITE, RED), "colours"),
    "own palettes": (lambda x: Image.fromarray(TWO[x]).quantize(4), "colours"),
    "colours and palettes": (lambda x: Image.fromarray(TWO[x]) if (x == 1).any() else Image.fromarray(TWO[x]).quantize(4), "colours"),
    "antialiased": (lambda x: smooth(x, TWO), "colours"), "antialiased, of VOC": (lambda x: smooth(x, [[0, 0, 0], [128, 0, 0], [0, 128, 0]]), "colours"),
    "on transparency": (lambda x: cut(x), "colours"), "on transparent white": (lambda x: cut(x, (255, 255, 255)), "colours"),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_an_object_is_the_same_in_all_frames(tmp_path, name):
    draw, kind = PREDICTIONS[name]
    found = Annotations(write(tmp_path / "p", lambda t: draw(LEAVING[t])), void=False)
    assert found.about == f"{kind}, 2 objects"
    labels = np.stack([found.labels(name) for name in found.files])
    for object in (1, 2):
        number = np.bincount(labels[LEAVING == object]).argmax()
        assert number and ((labels == number) == (LEAVING == object)).mean() > (.995 if "antialiased" in name else .99999)


@pytest.mark.parametrize("labels, draw", [
    (tiles(210), lambda x: x.astype(np.uint8)), (tiles(254), lambda x: x.astype(np.uint8)), (tiles(255), lambda x: x.astype(np.uint8)),
    (tiles(210), lambda x: ((x + 1000) * (x > 0)).astype(np.uint16)), (tiles(400), lambda x: x.astype(np.uint16)), (tiles(600), lambda x: RAINBOW[x]),
    (segments(150), lambda x: x.astype(np.uint8)), (segments(600), lambda x: x.astype(np.uint16))])
@pytest.mark.parametrize("void", [True, False])
def test_hundreds_of_objects_keep_apart(tmp_path, labels, draw, void):
    found = Annotations(write(tmp_path / "p", lambda t: Image.fromarray(draw(np.roll(labels, t, 1)))), void=void)
    n = len(set(labels.ravel().tolist()) - {0})
    read = found.labels("00001")
    pairs = set(zip(np.roll(labels, 1, 1).ravel().tolist(), read.ravel().tolist()))
    assert found.about.split(",")[1] == f" {n} objects" and len(pairs) == len({b for _, b in pairs}) and (0, 0) in pairs or 0 not in labels
    assert 255 not in read and np.array_equal(found.mask("00001")[0].numpy(), np.roll(labels, 1, 1) > 0)


def test_a_kind_can_be_said(tmp_path):
    folder = write(tmp_path / "p", lambda t: smooth(BOTH[t], [0, 128, 255]))
    assert Annotations(folder).about == "shades, 1 object" and Annotations(folder, "colours", void=False).about == "colours, 2 objects"
    differ = write(tmp_path / "differ", lambda t: opaque(np.array(painted(TRUTH[t] * 1, WHITE)), SECOND[t] * 255))
    assert smallest_J(Annotations(differ, "alpha"), SECOND) == 1
    faint = write(tmp_path / "faint", lambda t: Image.fromarray(soft(TRUTH[t]) // 3))
    assert not Annotations(faint, "shades").labels("00000").any()
    lossy = write(tmp_path / "lossy", PNG["red"], "jpg")
    for folder, kind in ((lossy, "ids"), (lossy, "colours"), (lossy, "alpha"), (lossy, "masks")):
        with pytest.raises(ValueError): Annotations(folder, kind).labels("00000")


def test_a_format_is_known_by_its_content(tmp_path):
    for t in range(N):
        PNG["0 and 255"](t).save(tmp_path / "a.jpg", quality=60)
        (tmp_path / "a.jpg").rename(tmp_path / f"{t:05d}.png")
    assert Annotations(tmp_path).kind == "shades" and smallest_J(Annotations(tmp_path)) > .93


NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("frames, masks", [(NFC, NFD), (NFD, NFC)])
def test_names_are_compared_whatever_their_unicode_form(tmp_path, frames, masks, capsys):
    clip, folder = tmp_path / f"set/JPEGImages/{frames}", tmp_path / f"set/Annotations/{masks}"
    for place in (clip, folder): place.mkdir(parents=True)
    for t in range(N):
        Image.fromarray(PHOTO).save(clip / f"{frames}{t}.png")
        PNG["ids"](t).save(folder / f"{masks}{t}.png")
    annotations = Annotations(folder)
    names = [f"{frames}{t}" for t in range(N)]
    assert list(find_masks(annotations, names, every_frame=True)) == names and lonely_masks(annotations, names) == ""
    assert np.array_equal(annotations.labels(names[2]) > 0, TRUTH[2])
    assert len(VideoFrames(clip, FlowSettings(size=(H, W)), folder).masks) == N
    gwm_evaluate(None, data=tmp_path / "set", predictions=tmp_path / "set/Annotations", protocol="label-free", save=tmp_path / "out")
    assert read_results(tmp_path / "out")[0]["J"] == 1 and "label-free" in capsys.readouterr().out


def test_a_film_of_masks(tmp_path):
    with VideoWriter(tmp_path / "masks.mp4") as film:
        for mask in TRUTH: film.add(torch.from_numpy(mask).float().expand(3, -1, -1))
    annotations = Annotations(tmp_path / "masks.mp4")
    assert smallest_J(annotations) > .97
    assert list(find_masks(annotations, ["a", "b", "c", "d", "e"])) == ["a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match="5 masks.* 4 frames"): find_masks(annotations, ["a", "b", "c", "d"])


def test_other_numbers_and_sizes(tmp_path):
    names = [f"{t:05d}" for t in range(N)]
    shifted = Annotations(write(tmp_path / "shifted", PNG["ids"], first=1))
    with pytest.raises(ValueError, match="annotation 00005 has no frame: annotations are named 00001 to 00005, frames 00000 to 00004"): lonely_masks(shifted, names)
    assert lonely_masks(Annotations(write(tmp_path / "right", PNG["ids"])), names) == ""
    assert "annotation 00003 has no frame (2 of 5 have none)" in lonely_masks(Annotations(tmp_path / "right"), names[:3])
    with pytest.raises(ValueError, match="00001.png is 90x60, its frame 180x120"): shifted.check_size(["00001"], (120, 180))
    shifted.check_size(["00001"], (60, 90))


def test_left_out_pixels_do_not_count_in_a_data_set(tmp_path):
    "A network that calls the rim object is right where the rim is left out, and wrong where it is background."
    clip = tmp_path / "clip"
    clip.mkdir()
    for t in range(N): cv2.imwrite(str(clip / f"{t:05d}.png"), np.where((TRUTH | RIM)[t], 255, 20)[..., None].repeat(3, 2).astype(np.uint8))

    class Bright(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(1))

        def forward(self, image): return torch.stack([(.5 - image[:, 0]) * 50, (image[:, 0] - .5) * 50], 1) * self.one

    settings = FlowSettings(size=(H, W))
    J = {kind: evaluate(Bright(), VideoFrames(clip, settings, write(tmp_path / kind, PNG[kind])))["J"] for kind in ("ids", "ids, 255 void")}
    assert J["ids, 255 void"] == 1 and J["ids"] < .8


def test_a_single_picture(tmp_path):
    PNG["16 bit ids"](0).save(tmp_path / "one.png")
    assert np.array_equal(read_annotation(tmp_path / "one.png") > 0, TRUTH[0])
    with pytest.raises(FileNotFoundError, match="no such annotation"): read_annotation(tmp_path / "none.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="torn.png: not a readable image"): read_annotation(tmp_path / "torn.png")
