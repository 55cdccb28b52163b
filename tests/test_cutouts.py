"Results for other programs: what is written is read back, by others' decoders where there are any."
import json
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from gwm_nb.clips import open_clip
from gwm_nb.cutouts import (CutFrame, Outputs, ProResWriter, check_outputs, inner_points,
                            output_files, outputs)
from inputs import refused, write_image, write_video

N, H, W = 6, 61, 83      # odd sizes
NAMES = [f"{t:05d}" for t in range(N)]
FILMS = {"mov": "cutout.mov", "webm": "cutout.webm", "green": "green.mp4", "overlay": "overlay.mp4"}


def disk(t=0, h=H, w=W):
    y, x = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    return (15.5 - ((y - 30) ** 2 + (x - 25 - 4 * t) ** 2).sqrt()).clamp(0, 1)


def picture(t=0):
    "An orange disk in front of blue."
    alpha = disk(t)
    front, back = (torch.tensor(c)[:, None, None] for c in ((.9, .5, .1), (.1, .2, .8)))
    return alpha * front + (1 - alpha) * back


def written(folder, wanted, mask=disk, confidence=None):
    with Outputs(wanted, folder, NAMES) as out:
        for t, name in enumerate(NAMES):
            out.add(name, picture(t), mask(t), confidence)
    return out


def test_outputs_by_name():
    for given in (" masks, mov,masks ", ["masks", "mov"]):
        assert check_outputs(given) == ["masks", "mov"]
    for wrong in ("masks,gif", " , ", []):
        refused(check_outputs, wrong, says="masks, .*sheet$")
    assert output_files("masks", iter(["a", "b"])) == ["a.png", "b.png"]
    refused(output_files, "masks,sheet", ["1", "sheet"], says="masks and sheet .*sheet.png")


@pytest.mark.parametrize("name", FILMS)
def test_a_missing_encoder_is_named_before_the_work(name, monkeypatch):
    monkeypatch.setattr(outputs[name], "encoder", "no_such_encoder")
    refused(check_outputs, ["masks", name], says=f"'{name}'.*no_such_encoder.*PyAV")


@pytest.mark.parametrize("mask, says", [
    (torch.zeros(H, W + 1), r"\(61, 84\).*\(61, 83\)$"),
    (torch.full((H, W), 255), "0 to 1$"), (torch.full((H, W), float("nan")), "0 to 1$")])
def test_a_mask_that_is_none_is_refused(mask, says):
    refused(lambda: CutFrame("00007", picture(), mask), says=f"^frame 00007: .*{says}")


@pytest.mark.parametrize("size", [(2, 2), (3, 40)])
@pytest.mark.parametrize("value", [0., 1.])
def test_all_and_nothing(tmp_path, size, value):
    with Outputs(outputs, tmp_path, ["a"]) as out:
        out.add("a", torch.rand(3, *size), torch.full(size, value))
    assert not out.failed
    assert {p.name for p in tmp_path.iterdir()} == set(output_files(outputs, ["a"]))
    alpha = np.array(Image.open(tmp_path / "cutout_a.png"))[..., 3]
    found = json.loads((tmp_path / "coco.json").read_text())
    assert (alpha == 255 * value).all()
    assert (len(found["annotations"]), len(found["images"])) == (value, 1)


@pytest.mark.parametrize("name, codec, heard", [
    ("mov", "prores", "aac"), ("webm", "vp9", "opus"), ("green", "h264", "aac"),
    ("overlay", "h264", "aac")])
def test_films_have_the_times_the_shape_and_the_sound_of_the_clip(tmp_path, name, codec, heard):
    "Sound becomes one that the file can hold."
    ticks = [0, 1, 7, 8, 14, 15]
    clip = open_clip(write_video(tmp_path / "clip.mkv", N, rate=30, size=(62, 84), pts=ticks,
                                 tick=Fraction(1, 30), aspect=Fraction(4, 3), audio=("aac", .5)))
    with Outputs([name], tmp_path, NAMES, clip) as out:
        for frame, (_, image) in zip(NAMES, clip, strict=True):
            out.add(frame, image, disk(0, 62, 84))
    film, wanted = open_clip(tmp_path / FILMS[name]), ((62, 84), Fraction(4, 3))
    assert len(film.names()) == N and out.warnings == []
    assert np.allclose(film.times, np.array(ticks) / 30, atol=.0011)
    assert (film.size, film.aspect) == (((62, 112), 1) if name == "webm" else wanted)
    with av.open(str(film.path)) as f:
        (stream,), (track,) = f.streams.video, f.streams.audio
        context = stream.codec_context
        assert (context.name, context.colorspace, context.color_range) == (codec, 1, 1)
        assert name != "mov" or context.profile == "4444"
        assert name != "webm" or stream.metadata["alpha_mode"] == "1"
        assert track.codec_context.codec.canonical_name == heard
        loud = np.concatenate([w.to_ndarray().astype(np.float32).ravel() for w in f.decode(track)])
    assert abs(len(loud) / track.rate / track.channels - .5) < .1 and np.abs(loud).max() > .1


def test_the_file_of_annotations(tmp_path):
    "Of frame 2, in which there is nothing, there is no annotation."
    written(tmp_path, "rle", lambda t: disk(t) * (t != 2), confidence=.75)
    found = json.loads((tmp_path / "coco.json").read_text())
    assert found["images"][5] == dict(id=6, file_name="00005.png", height=H, width=W)
    assert found["categories"] == [dict(id=1, name="object")]
    assert [(a["id"], a["image_id"]) for a in found["annotations"]] == [
        (1, 1), (2, 2), (3, 4), (4, 5), (5, 6)]
    for a in found["annotations"]:
        mask = disk(a["image_id"] - 1) > .5
        assert (coco_masks.decode(a["segmentation"]) == mask.numpy()).all()
        assert a["area"] == mask.sum() and a["score"] == .75
        (top, left), (bottom, right) = mask.nonzero().amin(0), mask.nonzero().amax(0)
        assert a["bbox"] == [left, top, right - left + 1, bottom - top + 1]


def test_masks_for_a_reconstruction_are_named_by_the_image_files(tmp_path):
    for file in ("clip/00000.jpg", "clip/00001.png"):
        write_image(tmp_path / file, np.zeros((H, W, 3), np.uint8))
    clip, names = open_clip(tmp_path / "clip"), ["00000", "00001"]
    assert output_files("colmap", names, clip) == ["00000.jpg.png", "00001.png.png"]
    with Outputs("colmap,prompts", tmp_path, names, clip) as out:
        for t, (name, image) in enumerate(clip):
            out.add(name, image, disk(t) * t)
    first, second = (cv2.imread(str(tmp_path / f), -1) for f in output_files("colmap", names, clip))
    assert (first == 255).all() and ((second == 0) == (disk(1) > .5).numpy()).all()
    frames = json.loads((tmp_path / "prompts.json").read_text())["frames"]
    assert [f["file_name"] for f in frames] == ["00000.jpg", "00001.png"]
    assert frames[0]["objects"] == [] and len(frames[1]["objects"]) == 1
    points = torch.tensor(inner_points(disk(1) > .5)).float()
    assert points[0].tolist() == [29, 30] and torch.pdist(points).min() > 6       # radius 15
    assert len(inner_points(torch.ones(1, 2) > 0)) == 2


def test_no_thread_writes_into_the_rows_of_another(tmp_path):
    "Widths that are no multiple of 16: with several threads a few frames have wrong pixels."
    wanted = CutFrame("", picture(), disk()).rgba
    with ProResWriter(tmp_path / "a.mov") as out:
        for _ in range(40):
            out.add(wanted)
    with av.open(str(tmp_path / "a.mov")) as file:
        frames = np.stack([f.to_ndarray(format="rgba") for f in file.decode(video=0)])
    got = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    assert len(got) == 40 and (got - wanted).abs().max() < .05
