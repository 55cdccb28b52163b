"""Readers of clips and images, given anything: frames, or one line of a ValueError or OSError.
Never another exception, a wait of more than five seconds, or a crash of the interpreter.

Reading happens in a process of its own, which a crash may take with it. See test_fuzz."""
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from gwm_nb.clips import open_clip
from gwm_nb.files import image_size, read_image
from gwm_nb.show import VideoWriter
from inputs import pattern, write_image, write_video
from test_fuzz import EDITS, how_many, spoiled, try_all


def clip(path): return len(list(open_clip(path)))


def video(path):
    with VideoWriter(Path(path).with_name("video.mp4"), like=path) as out:
        for _ in range(2):
            out.add(torch.zeros(3, 32, 32))
    return out.n


def image(path):
    assert read_image(path).shape[1:] == image_size(path)
    return 1


def answer(reader, path):
    try:
        return "read", reader(path)
    except (ValueError, OSError) as e:
        return "refused" if "\n" not in str(e) else "several lines", str(e)


@pytest.fixture(scope="module")
def read():
    "The answer of the other process; a crash is one that never comes."
    with get_context("spawn").Pool(1) as pool:
        pool.apply(answer, (clip, "/nowhere"))             # it has imported all by then
        yield lambda reader, path: pool.apply_async(answer, (reader, path)).get(5)


VIDEOS = {
    "h.mp4": dict(audio=("aac", .5), mux=dict(movflags="faststart")), "e.mp4": {},
    "v.webm": dict(codec="libvpx-vp9", audio=("libopus", .5)), "t.ts": dict(audio=("aac", .5)),
    "m.avi": dict(codec="mjpeg", pix="yuvj420p", audio=("pcm_s16le", .5)),
    "g.gif": dict(codec="gif", pix="rgb8"), "p.mov": dict(codec="prores_ks", pix="yuv422p10le"),
    "n.mpg": dict(codec="mpeg2video"), "w.wmv": dict(codec="wmv2"), "f.flv": {},
    "a.mp4": dict(codec="libsvtav1", size=(96, 128), preset="12"),
    "f.mkv": dict(codec="ffv1", pix="yuv444p12le")}
PICTURES = ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.ppm", "p.png", "c.jpg", "s.tif"]
SOUNDS = [name for name, options in VIDEOS.items() if "audio" in options]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "Unspoiled files, by their names."
    folder, image = tmp_path_factory.mktemp("whole"), Image.fromarray(pattern(3))
    for name, options in VIDEOS.items():
        write_video(folder / name, 6, **options)
    for name in PICTURES:
        kind = image.quantize(16) if name[0] == "p" else image
        (kind.convert("CMYK") if name[0] == "c" else kind).save(folder / name)
    write_image(folder / "s.tif", pattern(3).astype(np.uint16) * 257)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@how_many
@pytest.mark.parametrize("reader, names", [(clip, list(VIDEOS)), (video, SOUNDS),
                                           (image, PICTURES)])
def test_damaged_files(read, whole, tmp_path, n, reader, names):
    answers = {"read": 0, "refused": 0}

    def body(name, edits):
        (tmp_path / name).write_bytes(spoiled(whole[name], edits))
        kind, what = read(reader, tmp_path / name)
        assert kind in answers, what
        answers[kind] += 1
    try_all(n, body, st.sampled_from(names), EDITS)
    assert min(answers.values()) > n // 25, answers               # else they test one way only
