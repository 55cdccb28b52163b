"Annotations and predictions as people have them: one kind for a sequence, or refused."
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

from gwm_nb.annotations import Annotations
from gwm_nb.reports import read_results
from gwm_nb.commands import gwm_evaluate
from gwm_nb.store import FlowSettings
from gwm_nb.videos import VideoFrames
from inputs import refused, write_image

N, H, W = 5, 60, 90
yy, xx = np.mgrid[:H, :W]
TRUTH = np.stack([(xx - 30 - 3 * t)**2 + (yy - 30)**2 < 14**2 for t in range(N)])
SECOND = np.stack([(xx - 60)**2 + (yy - 15 - t)**2 < 8**2 for t in range(N)]) & ~TRUTH
BOTH = TRUTH * 1 + SECOND * 2
RIM = np.stack([cv2.dilate(m.astype(np.uint8), np.ones((7, 7))) > 0 for m in TRUTH]) & ~TRUTH
PHOTO = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * (252 * 3) + [224, 224, 192]
RED, GREEN, WHITE = ([255, 0, 0], [0, 255, 0], [255, 255, 255])


def grey(values, kind=np.uint8): return Image.fromarray(np.asarray(values).astype(kind))


def indexed(labels, colours=VOC):
    image = grey(labels)
    image.putpalette(colours + [0] * (768 - len(colours)))
    return image


def painted(labels, *colours, background=(0, 0, 0)):
    return Image.fromarray(np.array([background, *colours], np.uint8)[np.asarray(labels, int)])


def soft(mask, width=7): return cv2.GaussianBlur(mask.astype(np.uint8) * 255, (width, width), 0)


def opaque(rgb, alpha): return Image.fromarray(np.dstack([rgb, np.asarray(alpha, np.uint8)]))


def layered(values, alpha):
    return Image.fromarray(np.dstack([values, alpha]).astype(np.uint8), "LA")


PNG = {  # what is written for the truth and its rim; each has the truth as its object
    "0 and 255": lambda m, rim: grey(m * 255), "0 and 1": lambda m, rim: grey(m),
    "ids": lambda m, rim: grey(m * 3), "16 bit ids": lambda m, rim: grey(m * 3, np.uint16),
    "16 bit ids, 65535 void": lambda m, rim: grey(np.where(rim, 65535, m), np.uint16),
    "palette, 255 void": lambda m, rim: indexed(np.where(rim, 255, m)),
    "ids, 255 void": lambda m, rim: grey(np.where(rim, 255, m)),
    "alpha of a photograph": lambda m, rim: opaque(PHOTO, m * 255),
    "soft alpha": lambda m, rim: opaque(PHOTO, soft(m)),
    "cut out": lambda m, rim: opaque(painted(m, RED), m * 255),
    "opaque": lambda m, rim: opaque(painted(m, WHITE), np.full((H, W), 255)),
    "grey and opaque": lambda m, rim: layered(m * 255, np.full((H, W), 255)),
    "dark red": lambda m, rim: painted(m, [128, 0, 0]),
    "colours, white void": lambda m, rim: painted(np.where(rim, 2, m), RED, WHITE),
    "colours, void of VOC": lambda m, rim: painted(np.where(rim, 2, m), VOC[3:6], VOC[-3:]),
    "grey in RGB": lambda m, rim: painted(m, WHITE),
    "soft": lambda m, rim: grey(soft(m)), "very soft": lambda m, rim: grey(soft(m, 15)),
    "soft in 16 bits": lambda m, rim: grey(soft(m) * 257., np.uint16),
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


@pytest.mark.parametrize("kind, ending, options", [
    *((kind, "png", {}) for kind in PNG if "float" not in kind),
    ("0 and 255", "jpg", dict(quality=20)), ("soft", "jpg", {}), ("dark red", "jpg", {}),
    ("grey in RGB", "jpg", dict(quality=60)), ("0 and 255", "webp", dict(quality=70)),
    ("ids", "bmp", {}), ("ids", "pgm", {}), ("16 bit ids", "tif", {}), ("float", "tif", {}),
    ("soft float", "tif", {})])
def test_each_kind_is_read_for_what_it_says(tmp_path, kind, ending, options):
    "Also under the ending of another: the content decides."
    folder = write(tmp_path / "truth", kind, ending, **options)
    for file in list(folder.iterdir()):
        file.rename(file.with_suffix(".png" if ending != "png" else ".tif"))
    annotations = Annotations(folder)
    exact = ending not in ("jpg", "webp") and not any(word in kind for word in ("soft", "shades"))
    assert smallest_J(annotations) >= (1 if exact else .93), annotations.about
    left_out = sum(int(annotations.mask(name)[1].sum()) for name in annotations.files)
    assert left_out == (RIM.sum() if "void" in kind else 0)


@pytest.mark.parametrize("draw, ending", [
    (lambda t: grey(PHOTO[..., 0]), "png"), (lambda t: grey(soft(TRUTH[t]) // 3), "png"),
    (lambda t: painted(TRUTH[t], RED, background=GREEN), "png"), ("ids", "jpg"),
    (lambda t: grey(TRUTH[t] * 1 - 1, np.int32), "tif")])
def test_what_cannot_be_told_is_refused_in_one_line(tmp_path, draw, ending):
    refused(lambda: Annotations(write(tmp_path / "truth", draw, ending)).labels("00000"),
            says=str(tmp_path / "truth"))


OUT_OF_SIGHT = (np.arange(N) == 2)[:, None, None] & (BOTH == 1)
LEAVING = np.where(OUT_OF_SIGHT, 0, BOTH)
TWO = np.array([[0, 0, 0], [30, 200, 30], [200, 30, 30]], np.uint8)


def smooth(labels, colours):
    large = np.array(colours, np.uint8)[np.kron(labels, np.ones((4, 4), np.uint8))]
    blurred = cv2.GaussianBlur(large, (5, 5), 0)
    return Image.fromarray(cv2.resize(blurred, (W, H), interpolation=cv2.INTER_AREA))


def cut(labels):
    inside = labels > 0
    return opaque(np.where(inside[..., None], TWO[labels], np.uint8(255)), inside * 255)


def picked(*values): return lambda x: np.array(values)[x]


PREDICTIONS = {  # how labels are written, and as what they are read
    "indices": (indexed, "ids"), "faint": (grey, "ids"),
    "1 and 255": (lambda x: grey(picked(0, 1, 255)(x)), "ids"),
    "palette with 255": (lambda x: indexed(picked(0, 3, 255)(x)), "ids"),
    "skipping": (lambda x: grey(picked(0, 700, 3)(x), np.uint16), "ids"),
    "grey and alpha": (lambda x: layered(x * 90, (x > 0) * 255), "ids"),
    "colours": (lambda x: Image.fromarray(TWO[x]), "colours"),
    "white": (lambda x: painted(x, WHITE, RED), "colours"),
    "own palettes": (lambda x: Image.fromarray(TWO[x]).quantize(4), "colours"),
    "antialiased": (lambda x: smooth(x, TWO), "colours"),
    "on transparent white": (cut, "colours")}


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


def test_a_kind_can_be_said(tmp_path):
    folder = write(tmp_path / "p", lambda t: smooth(BOTH[t], [0, 128, 255]))
    assert Annotations(folder).about == "shades, 1 object"
    assert Annotations(folder, "colours", void=False).about == "colours, 2 objects"
    lossy = write(tmp_path / "lossy", "dark red", "jpg")
    for kind in ("ids", "colours", "alpha", "masks"):
        refused(lambda: Annotations(lossy, kind).labels("00000"), says="lossy|unknown kind of labels")


NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("frames, masks", [(NFC, NFD), (NFD, NFC)])
def test_names_are_compared_whatever_their_unicode_form(tmp_path, frames, masks):
    clip, folder = tmp_path / f"set/JPEGImages/{frames}", tmp_path / f"set/Annotations/{masks}"
    for t in range(N):
        write_image(clip / f"{frames}{t}.png", PHOTO)
        write_image(folder / f"{masks}{t}.png", TRUTH[t].astype(np.uint8) * 3)
    assert len(VideoFrames(clip, FlowSettings(size=(H, W)), folder).masks) == N
    gwm_evaluate(None, data=tmp_path / "set", predictions=tmp_path / "set/Annotations",
                 protocol="label-free", save=tmp_path / "out")
    assert read_results(tmp_path / "out")[0]["J"] == 1
