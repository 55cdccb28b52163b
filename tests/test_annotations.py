"Annotations and predictions as people have them: one kind for a sequence, or refused."
import unicodedata

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gwm_nb.annotations import Annotations, read_annotation
from gwm_nb.reports import read_results
from gwm_nb.commands import gwm_evaluate
from gwm_nb.evaluate import evaluate
from gwm_nb.show import VideoWriter
from gwm_nb.store import FlowSettings
from gwm_nb.datasets import find_masks, unmatched_annotations
from gwm_nb.videos import VideoFrames
from inputs import Bright, write_image

N, H, W = 5, 60, 90
yy, xx = np.mgrid[:H, :W]
TRUTH = np.stack([(xx - 30 - 3 * t)**2 + (yy - 30)**2 < 14**2 for t in range(N)])
SECOND = np.stack([(xx - 60)**2 + (yy - 15 - t)**2 < 8**2 for t in range(N)]) & ~TRUTH
BOTH = TRUTH * 1 + SECOND * 2
RIM = np.stack([cv2.dilate(m.astype(np.uint8), np.ones((7, 7))) > 0 for m in TRUTH]) & ~TRUTH
PHOTO = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * (252 * 3) + [224, 224, 192]
RED, GREEN, WHITE = ([255, 0, 0], [0, 255, 0], [255, 255, 255])
BLACK = np.zeros((H, W, 3), np.uint8)


def grey(values, kind=np.uint8): return Image.fromarray(np.asarray(values).astype(kind))


def indexed(labels, colours=VOC):
    image = grey(labels)
    image.putpalette(colours + [0] * (768 - len(colours)))
    return image


def painted(labels, *colours, background=(0, 0, 0)):
    "Labels 0, 1, ... as an RGB image."
    return Image.fromarray(np.array([background, *colours], np.uint8)[np.asarray(labels, int)])


def soft(mask, width=7): return cv2.GaussianBlur(mask.astype(np.uint8) * 255, (width, width), 0)


def opaque(rgb, alpha): return Image.fromarray(np.dstack([rgb, np.asarray(alpha, np.uint8)]))


def layered(values, alpha):
    return Image.fromarray(np.dstack([values, alpha]).astype(np.uint8), "LA")


PNG = {  # what is written for the truth and its rim; each has the truth as its object
    "0 and 255": lambda m, rim: grey(m * 255), "0 and 1": lambda m, rim: grey(m),
    "ids": lambda m, rim: grey(m * 3), "one dim id": lambda m, rim: grey(m * 38),
    "16 bit ids": lambda m, rim: grey(m * 3, np.uint16),
    "16 bit large ids": lambda m, rim: grey(m * 1001, np.uint16),
    "16 bit 65535": lambda m, rim: grey(m * 65535, np.uint16),
    "16 bit ids, 65535 void": lambda m, rim: grey(np.where(rim, 65535, m), np.uint16),
    "1 bit": lambda m, rim: grey(m, bool), "palette": lambda m, rim: indexed(m),
    "palette, white background": lambda m, rim: indexed(m, [255, 255, 255, 128, 0, 0]),
    "palette, 255 void": lambda m, rim: indexed(np.where(rim, 255, m)),
    "palette, 0 and 255": lambda m, rim: indexed(m * 255),
    "ids, 255 void": lambda m, rim: grey(np.where(rim, 255, m)),
    "alpha alone": lambda m, rim: opaque(BLACK, m * 255),
    "alpha on white": lambda m, rim: opaque(BLACK + 255, m * 255),
    "alpha of a photograph": lambda m, rim: opaque(PHOTO, m * 255),
    "soft alpha": lambda m, rim: opaque(PHOTO, soft(m)),
    "cut out": lambda m, rim: opaque(painted(m, RED), m * 255),
    "opaque": lambda m, rim: opaque(painted(m, WHITE), np.full((H, W), 255)),
    "grey and alpha": lambda m, rim: layered(m * 0, m * 255),
    "grey and opaque": lambda m, rim: layered(m * 255, np.full((H, W), 255)),
    "dark red": lambda m, rim: painted(m, [128, 0, 0]),
    "colours, white void": lambda m, rim: painted(np.where(rim, 2, m), RED, WHITE),
    "colours, void of VOC": lambda m, rim: painted(np.where(rim, 2, m), VOC[3:6], VOC[-3:]),
    "grey in RGB": lambda m, rim: painted(m, WHITE),
    "ids in RGB": lambda m, rim: painted(m, [3] * 3),
    "soft": lambda m, rim: grey(soft(m)), "very soft": lambda m, rim: grey(soft(m, 15)),
    "few shades": lambda m, rim: grey(cv2.blur(m.astype(np.uint8) * 255, (3, 3)) // 28 * 28),
    "soft in 16 bits": lambda m, rim: grey(soft(m) * 257., np.uint16),
    "soft red": lambda m, rim: opaque(soft(m), BLACK[..., :2]),
    "float": lambda m, rim: grey(m, np.float32),
    "soft float": lambda m, rim: grey(soft(m) / 255, np.float32)}


def write(folder, draw, ending="png", first=0, **options):
    "Write what `draw` makes of frame t, or a kind of PNG."
    folder.mkdir(exist_ok=True)
    for t in range(N):
        image = draw(t) if callable(draw) else PNG[draw](TRUTH[t] * 1, RIM[t])
        image.save(folder / f"{t + first:05d}.{ending}", **options)
    return folder


def smallest_J(annotations, truth=TRUTH):
    scores = []
    for name, wanted in zip(annotations.files, truth):
        object, void = (x.numpy() for x in annotations.mask(name))
        scores.append((object & wanted & ~void).sum() / ((object | wanted) & ~void).sum())
    return min(scores)


@pytest.mark.parametrize("kind", [k for k in PNG if "float" not in k])
def test_each_kind_is_read_for_what_it_says(tmp_path, kind):
    annotations = Annotations(write(tmp_path / "truth", kind))
    exact = not any(word in kind for word in ("soft", "shades"))
    assert smallest_J(annotations) >= (1 if exact else .93), annotations.about
    left_out = sum(int(annotations.mask(name)[1].sum()) for name in annotations.files)
    assert left_out == (RIM.sum() if "void" in kind else 0)


@pytest.mark.parametrize("kind, ending, options", [
    ("0 and 255", "jpg", dict(quality=20)), ("soft", "jpg", {}), ("dark red", "jpg", {}),
    ("grey in RGB", "jpg", dict(quality=60)), ("0 and 255", "webp", dict(quality=70)),
    ("ids", "bmp", {}), ("ids", "pgm", {}), ("16 bit ids", "tif", {}), ("float", "tif", {}),
    ("soft float", "tif", {})])
def test_other_formats(tmp_path, kind, ending, options):
    "Also under the ending of another: the content decides."
    folder = write(tmp_path / "truth", kind, ending, **options)
    assert smallest_J(Annotations(folder)) > .93
    for file in list(folder.iterdir()):
        file.rename(file.with_suffix(".png"))
    assert smallest_J(Annotations(folder)) > .93


def test_ids_keep_their_numbers(tmp_path):
    for i, draw in enumerate((lambda t: grey(BOTH[t]), lambda t: painted(BOTH[t], GREEN, RED),
                              lambda t: grey(np.array([0, 1001, 26002])[BOTH[t]], np.uint16))):
        folder = write(tmp_path / str(i), draw)
        assert np.array_equal(Annotations(folder).labels("00002"), BOTH[2])


def test_a_frame_is_understood_by_its_folder(tmp_path):
    "All 255 is the object beside 0 and 255, and nothing beside ids; black says nothing."
    for kind, value in (("0 and 255", 1), ("ids, 255 void", 255), ("palette, 255 void", 255)):
        folder, full = write(tmp_path / kind, kind), np.full((H, W), 255)
        (indexed if "palette" in kind else grey)(full).save(folder / "00009.png")
        assert np.unique(Annotations(folder).labels("00009")).tolist() == [value]
    write(tmp_path / "black", lambda t: Image.fromarray(BLACK))
    assert not Annotations(tmp_path / "black").labels("00000").any()


@pytest.mark.parametrize("draw, ending", [
    (lambda t: opaque(painted(TRUTH[t], WHITE), TRUTH[t][::-1, ::-1] * 255), "png"),
    (lambda t: Image.fromarray(PHOTO), "png"), (lambda t: grey(PHOTO[..., 0]), "png"),
    ("ids", "jpg"), (lambda t: grey(soft(TRUTH[t]) // 3), "png"),
    (lambda t: painted(TRUTH[t], RED, background=GREEN), "png"),
    (lambda t: grey(TRUTH[t] * 1 - 1, np.int32), "tif")])
def test_what_cannot_be_told_is_refused_in_one_line(tmp_path, draw, ending):
    with pytest.raises(ValueError) as error:
        Annotations(write(tmp_path / "truth", draw, ending)).labels("00000")
    assert str(tmp_path / "truth") in str(error.value) and "\n" not in str(error.value)


# ---- one meaning for a sequence

OUT_OF_SIGHT = (np.arange(N) == 2)[:, None, None] & (BOTH == 1)
LEAVING = np.where(OUT_OF_SIGHT, 0, BOTH)
TWO = np.array([[0, 0, 0], [30, 200, 30], [200, 30, 30]], np.uint8)
codes = np.random.default_rng(1).permutation(2**24)[:700]
RAINBOW = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1).astype(np.uint8)
RAINBOW[0] = 0


def tiles(n):
    "Labels 1 to n in tiles of 6x6 pixels with gaps."
    labels, columns = np.zeros((8 * -(-n // 20), 160), np.int32), 20
    for k in range(n):
        labels[k // columns * 8:, k % columns * 8:][:6, :6] = k + 1
    return labels


def segments(n):
    "Labels 1 to n that touch, without background."
    points = np.random.default_rng(2).random((n, 2)) * [H, W]
    return ((yy[..., None] - points[:, 0])**2 + (xx[..., None] - points[:, 1])**2).argmin(-1) + 1


def smooth(labels, colours):
    "Labels as colours with antialiased outlines."
    large = np.array(colours, np.uint8)[np.kron(labels, np.ones((4, 4), np.uint8))]
    blurred = cv2.GaussianBlur(large, (5, 5), 0)
    return Image.fromarray(cv2.resize(blurred, (W, H), interpolation=cv2.INTER_AREA))


def cut(labels, ground):
    inside = labels > 0
    colours = np.where(inside[..., None], TWO[labels], np.array(ground, np.uint8))
    return opaque(colours, inside * 255)


def picked(*values): return lambda x: np.array(values)[x]


PREDICTIONS = {  # how labels are written, and as what they are read
    "indices": (indexed, "ids"), "faint": (grey, "ids"),
    "0, 128, 255": (lambda x: grey(picked(0, 128, 255)(x)), "ids"),
    "1 and 255": (lambda x: grey(picked(0, 1, 255)(x)), "ids"),
    "palette with 255": (lambda x: indexed(picked(0, 3, 255)(x)), "ids"),
    "skipping": (lambda x: grey(picked(0, 700, 3)(x), np.uint16), "ids"),
    "grey and alpha": (lambda x: layered(x * 90, (x > 0) * 255), "ids"),
    "colours": (lambda x: Image.fromarray(TWO[x]), "colours"),
    "white": (lambda x: painted(x, WHITE, RED), "colours"),
    "own palettes": (lambda x: Image.fromarray(TWO[x]).quantize(4), "colours"),
    "antialiased": (lambda x: smooth(x, TWO), "colours"),
    "on transparency": (lambda x: cut(x, (0, 0, 0)), "colours"),
    "on transparent white": (lambda x: cut(x, (255, 255, 255)), "colours")}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_an_object_is_the_same_in_all_frames(tmp_path, name):
    draw, kind = PREDICTIONS[name]
    found = Annotations(write(tmp_path / "p", lambda t: draw(LEAVING[t])), void=False)
    labels = np.stack([found.labels(name) for name in found.files])
    assert found.about == f"{kind}, 2 objects"
    for object in (1, 2):
        mine = LEAVING == object
        number = np.bincount(labels[mine]).argmax()
        right = ((labels == number) == mine).mean()
        assert number and right > (.995 if "antialiased" in name else .99999)


def shifted(x): return ((x + 1000) * (x > 0)).astype(np.uint16)


@pytest.mark.parametrize("labels, draw", [
    (tiles(254), np.uint8), (tiles(255), np.uint8), (tiles(210), shifted), (tiles(400), np.uint16),
    (tiles(600), RAINBOW.__getitem__), (segments(150), np.uint8), (segments(600), np.uint16)])
@pytest.mark.parametrize("void", [True, False])
def test_hundreds_of_objects_keep_apart(tmp_path, labels, draw, void):
    folder = write(tmp_path / "p", lambda t: Image.fromarray(draw(np.roll(labels, t, 1))))
    found, moved = Annotations(folder, void=void), np.roll(labels, 1, 1)
    read = found.labels("00001")
    pairs = set(zip(moved.ravel().tolist(), read.ravel().tolist()))
    assert found.about.endswith(f", {len(set(labels.ravel()) - {0})} objects")
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert 255 not in read and np.array_equal(found.mask("00001")[0].numpy(), moved > 0)


def test_a_kind_can_be_said(tmp_path):
    folder = write(tmp_path / "p", lambda t: smooth(BOTH[t], [0, 128, 255]))
    assert Annotations(folder).about == "shades, 1 object"
    assert Annotations(folder, "colours", void=False).about == "colours, 2 objects"
    white = lambda t: opaque(painted(TRUTH[t], WHITE), SECOND[t] * 255)
    assert smallest_J(Annotations(write(tmp_path / "differ", white), "alpha"), SECOND) == 1
    faint = write(tmp_path / "faint", lambda t: grey(soft(TRUTH[t]) // 3))
    assert not Annotations(faint, "shades").labels("00000").any()
    lossy = write(tmp_path / "lossy", "dark red", "jpg")
    for kind in ("ids", "colours", "alpha", "masks"):
        with pytest.raises(ValueError):
            Annotations(lossy, kind).labels("00000")


NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("frames, masks", [(NFC, NFD), (NFD, NFC)])
def test_names_are_compared_whatever_their_unicode_form(tmp_path, frames, masks):
    clip, folder = tmp_path / f"set/JPEGImages/{frames}", tmp_path / f"set/Annotations/{masks}"
    for t in range(N):
        write_image(clip / f"{frames}{t}.png", PHOTO)
        write_image(folder / f"{masks}{t}.png", TRUTH[t].astype(np.uint8) * 3)
    annotations, names = Annotations(folder), [f"{frames}{t}" for t in range(N)]
    assert list(find_masks(annotations, names, every_frame=True)) == names
    assert unmatched_annotations(annotations, names) == ""
    assert np.array_equal(annotations.labels(names[2]) > 0, TRUTH[2])
    assert len(VideoFrames(clip, FlowSettings(size=(H, W)), folder).masks) == N
    gwm_evaluate(None, data=tmp_path / "set", predictions=tmp_path / "set/Annotations",
                 protocol="label-free", save=tmp_path / "out")
    assert read_results(tmp_path / "out")[0]["J"] == 1


def test_a_film_of_masks(tmp_path):
    with VideoWriter(tmp_path / "masks.mp4") as film:
        for mask in TRUTH:
            film.add(torch.from_numpy(mask).float().expand(3, -1, -1))
    annotations = Annotations(tmp_path / "masks.mp4")
    assert smallest_J(annotations) > .97
    assert list(find_masks(annotations, list("abcde"))) == list("abcde")
    with pytest.raises(ValueError, match="5 masks.* 4 frames"):
        find_masks(annotations, list("abcd"))


def test_other_numbers_and_sizes(tmp_path):
    names = [f"{t:05d}" for t in range(N)]
    shifted = Annotations(write(tmp_path / "shifted", "ids", first=1))
    with pytest.raises(ValueError, match="00005 .*00001 to 00005.* 00000 to 00004"):
        unmatched_annotations(shifted, names)
    right = Annotations(write(tmp_path / "right", "ids"))
    assert unmatched_annotations(right, names) == "" and "00003" in unmatched_annotations(right, names[:3])
    with pytest.raises(ValueError, match="00001.png is 90x60.* 180x120"):
        shifted.check_size(["00001"], (120, 180))
    shifted.check_size(["00001"], (60, 90))


def test_left_out_pixels_do_not_count_in_a_data_set(tmp_path):
    "A network that calls the rim object is right where the rim is left out, and only there."
    for t in range(N):
        pixels = np.where((TRUTH | RIM)[t], 255, 20).astype(np.uint8)
        write_image(tmp_path / f"clip/{t:05d}.png", pixels)
    masks = [write(tmp_path / kind, kind) for kind in ("ids", "ids, 255 void")]
    settings = FlowSettings(size=(H, W))
    wrong, right = (evaluate(Bright(), VideoFrames(tmp_path / "clip", settings, m))["J"]
                    for m in masks)
    assert right == 1 and wrong < .8


def test_a_single_image(tmp_path):
    grey(TRUTH[0] * 3, np.uint16).save(tmp_path / "one.png")
    assert np.array_equal(read_annotation(tmp_path / "one.png") > 0, TRUTH[0])
    (tmp_path / "torn.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    for name in ("none.png", "torn.png"):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            read_annotation(tmp_path / name)
