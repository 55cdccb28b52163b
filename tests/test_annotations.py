"Annotations as people have them: each kind is read for what it says, per folder, or refused in one line."
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gwm_nb.annotations import Annotations, read_annotation
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


@pytest.mark.parametrize("draw, ending, message", [
    (lambda t: opaque(np.array(painted(TRUTH[t] * 1, WHITE)), TRUTH[t][::-1, ::-1] * 255), "png", "they differ"), (lambda t: Image.fromarray(PHOTO), "png", "photographs"),
    (lambda t: Image.fromarray(cv2.resize(PHOTO, (W, H), interpolation=cv2.INTER_CUBIC)), "jpg", "photographs"), (PNG["ids"], "jpg", "nowhere brighter than"),
    (lambda t: painted(TRUTH[t] * 1, RED, background=GREEN), "png", "without any black")])
def test_what_cannot_be_told_is_refused_in_one_line(tmp_path, draw, ending, message):
    with pytest.raises(ValueError, match=message) as error: Annotations(write(tmp_path / "truth", draw, ending)).labels("00000")
    assert str(tmp_path / "truth") in str(error.value) and "\n" not in str(error.value)


def test_a_film_of_masks(tmp_path):
    with VideoWriter(tmp_path / "masks.mp4") as film:
        for mask in TRUTH: film.add(torch.from_numpy(mask).float().expand(3, -1, -1))
    annotations = Annotations(tmp_path / "masks.mp4")
    assert smallest_J(annotations) > .97
    assert list(find_masks(annotations, ["a", "b", "c", "d", "e"])) == ["a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match="this film has 5 masks, the clip has 4 frames"): find_masks(annotations, ["a", "b", "c", "d"])


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
