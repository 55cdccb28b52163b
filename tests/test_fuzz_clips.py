"""Readers of clips and pictures under fire: bytes changed, dropped, doubled at random, files cut anywhere, names of any letters. Each input gives
frames or one line of `ValueError` or `OSError`; never another exception, a wait of more than five seconds, or a crash of the interpreter.

Reading happens in a process of its own, which a crash may take with it. `pytest -m slow` tries 2,000 inputs a reader, a plain run 50."""
import json
import os
import select
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from test_clips import pattern, write

WORKER = """
import json, os, sys, time, torch
from pathlib import Path
from gwm_nb.clips import open_clip
from gwm_nb.files import folder_bits, list_images, read_image, image_size
from gwm_nb.show import VideoWriter

def clip(path): return len(list(open_clip(path)))

def film(path):
    with VideoWriter(Path(path).with_name("film.mp4"), like=path) as out:
        out.add(torch.zeros(3, 32, 32)), out.add(torch.zeros(3, 32, 32))
    return 2

def picture(path):
    assert read_image(path).shape[1:] == image_size(path)
    return 1

def crash(path): os.abort()

def sleep(path): time.sleep(9)

for line in sys.stdin:
    reader, path = json.loads(line)
    try: answer = ["read", globals()[reader](path)]
    except (ValueError, OSError) as e: answer = ["refused" if "\\n" not in str(e) else "several lines", str(e)]
    except BaseException as e: answer = ["wrong", repr(e)]
    print("\\0" + json.dumps(answer), flush=True)
"""


class Reader:
    "The other process; it is started again when it has died."
    def __init__(self): self.process = None

    def __call__(self, reader, path, limit=5):
        if self.process is None:
            self.process = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self("clip", "/nowhere", 60)                                   # it has imported all by then
        self.process.stdin.write(json.dumps([reader, str(path)]).encode() + b"\n")
        self.process.stdin.flush()
        line = b""
        while b"\0" not in line:
            if not select.select([self.process.stdout], [], [], limit)[0]: return self.stop("no answer in five seconds")
            line = self.process.stdout.readline()
            if not line: return self.stop("crashed")
        return json.loads(line.split(b"\0")[1])

    def stop(self, why):
        if self.process: self.process.kill(), self.process.wait()
        self.process = None
        return ["wrong", why]


@pytest.fixture(scope="module")
def read():
    reader = Reader()
    yield reader
    reader.stop("")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "Unspoiled files, by their kind."
    folder = tmp_path_factory.mktemp("whole")
    for name, options in {"h.mp4": dict(audio=("aac", 0.5), mux=dict(movflags="faststart")), "e.mp4": {}, "v.webm": dict(codec="libvpx-vp9", audio=("libopus", 0.5)), "m.avi": dict(codec="mjpeg", pix="yuvj420p", audio=("pcm_s16le", 0.5)),
                          "t.ts": dict(audio=("aac", 0.5)), "g.gif": dict(codec="gif", pix="rgb8"), "f.flv": {}, "p.mov": dict(codec="prores_ks", pix="yuv422p10le"), "n.mpg": dict(codec="mpeg2video"), "h.mkv": dict(codec="libx265", **{"x265-params": "log-level=none"}),
                          "a.mp4": dict(codec="libsvtav1", size=(96, 128), preset="12"), "w.wmv": dict(codec="wmv2"), "f.mkv": dict(codec="ffv1", pix="yuv444p12le")}.items():
        write(folder / name, n=6, **options)
    image = Image.fromarray(pattern(3))
    for name, options in {"a.png": {}, "a.jpg": {}, "a.webp": {}, "a.bmp": {}, "a.tif": dict(compression="tiff_lzw"), "a.ppm": {}}.items(): image.save(folder / name, **options)
    image.quantize(16).save(folder / "p.png"), image.convert("CMYK").save(folder / "c.jpg"), cv2.imwrite(str(folder / "s.png"), pattern(3).astype(np.uint16) * 257), cv2.imwrite(str(folder / "s.tif"), pattern(3).astype(np.uint16) * 257)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


VIDEOS = ["h.mp4", "e.mp4", "v.webm", "m.avi", "t.ts", "g.gif", "f.flv", "p.mov", "n.mpg", "h.mkv", "a.mp4", "w.wmv", "f.mkv"]
SOUNDS = ["h.mp4", "v.webm", "m.avi", "t.ts"]
PICTURES = ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.ppm", "p.png", "c.jpg", "s.png", "s.tif"]

share = st.floats(0, 1, exclude_max=True) | st.floats(0, 0.1)                  # of the length; heads of files more often
change = st.tuples(st.sampled_from(["set", "set", "flip", "zeros", "drop", "double", "random"]), share, st.integers(0, 255), st.sampled_from([1, 2, 4, 16, 200]))
damage = st.tuples(st.lists(change, max_size=2) | st.lists(change, max_size=12), st.none() | st.none() | st.none() | share)


def spoil(data, changes, cut):
    "A copy of bytes, changed at some places and perhaps cut off."
    data = bytearray(data)
    for kind, where, value, length in changes:
        at = int(where * len(data))
        part = data[at : at + length]
        if kind == "set": data[at : at + 1] = bytes([value])
        if kind == "flip" and part: data[at] ^= 1 << value % 8
        if kind == "zeros": data[at : at + length] = bytes(len(part))
        if kind == "drop": del data[at : at + length]
        if kind == "double": data[at:at] = part
        if kind == "random": data[at : at + length] = np.random.default_rng(value).bytes(len(part))
    return bytes(data if cut is None else data[: int(cut * len(data))])


def try_all(n, body, **strategies):
    "Run a test on `n` inputs, the same ones each time."
    options = dict(max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])
    settings(**options)(given(**strategies)(body))()


HOW_MANY = [pytest.param(50, id="some"), pytest.param(2000, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("n", HOW_MANY)
@pytest.mark.parametrize("reader, names", [("clip", VIDEOS), ("film", SOUNDS), ("picture", PICTURES)], ids=["videos", "films", "pictures"])
def test_damaged_files(read, whole, tmp_path, n, reader, names):
    answers = {"read": 0, "refused": 0}

    def body(name, damage):
        path = tmp_path / name
        path.write_bytes(spoil(whole[name], *damage))
        kind, what = read(reader, path)
        assert kind in answers, what
        answers[kind] += 1

    try_all(n, body, name=st.sampled_from(names), damage=damage)
    assert min(answers.values()) > n // 25, answers                            # else the inputs test one way only


@pytest.mark.parametrize("n", HOW_MANY)
@pytest.mark.parametrize("ending", [".mp4", ".png"])
def test_names_of_any_letters(read, whole, tmp_path, n, ending):
    source = tmp_path / "source"
    source.write_bytes(whole["e.mp4" if ending == ".mp4" else "a.png"])

    def body(name):
        path = os.fsencode(tmp_path) + b"/" + name + ending.encode()
        shutil.copy(source, path)
        try: assert read("clip" if ending == ".mp4" else "picture", os.fsdecode(path)) == ["read", 6 if ending == ".mp4" else 1]
        finally: os.unlink(path)

    letters = st.binary(min_size=1, max_size=200).map(lambda b: b.replace(b"/", b":").replace(b"\0", b"%"))
    words = st.text(st.sampled_from("a1 %d:*?[]{}'\"\\|&;-@#~$()é日\n"), min_size=1, max_size=50).map(str.encode)
    try_all(n, body, name=letters | words)


@pytest.mark.parametrize("reader, why", [("crash", "crashed"), ("sleep", "no answer in five seconds"), ("other", "KeyError")])
def test_what_goes_wrong_is_seen(tmp_path, reader, why):
    process = Reader()
    process("clip", "/nowhere", 60)
    kind, what = process(reader, 0, 1)
    assert kind == "wrong" and why in what and process("clip", tmp_path / "nowhere", 60)[0] == "refused"
    process.stop("")
