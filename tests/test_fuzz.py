"""Each reader, given anything: data, or one line of a ValueError or OSError. Never another exception, a hang, or a crash.

50 examples a reader in a plain run; `pytest -m slow tests/test_fuzz.py` tries 2,000.
"""
import io
import json
import shutil
import struct

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from gwm_nb.annotations import Annotations
from gwm_nb.flow import read_flo, read_kitti, write_flo, write_kitti
from gwm_nb.network import create_network
from gwm_nb.runs import KEYS, Config, make_config, to_toml
from gwm_nb.checkpoints import load, load_training, save
from gwm_nb.store import FlowSettings, FlowStore, make_store
from gwm_nb.weights import read_weights


def image_bytes(kind, pixels, **options):
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    "{reader: [whole files as bytes]}"
    root = tmp_path_factory.mktemp("whole")
    labels = (np.arange(12 * 16).reshape(12, 16) % 3).astype(np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    flow = torch.randn(2, 9, 11)
    network = create_network("small", 2)
    save(network, root / "network.safetensors", training=dict(step=3, list=[torch.ones(2), (1, "a")], numbers=np.arange(3.)))
    torch.save(dict(model={"a": torch.ones(3), "b": np.arange(3.)}), root / "weights.pth")
    rgba = np.dstack([labels * 80] * 4)
    return {
        "flo": [write_flo(root / "a.flo", flow).read_bytes()], "kitti": [write_kitti(root / "a.png", flow).read_bytes()],
        "mask.png": [image_bytes("PNG", x) for x in (labels * 127, palette, labels > 0, labels.astype(np.uint16) * 300, rgba)], "mask.jpg": [image_bytes("JPEG", labels * 127)],
        "mask.tif": [image_bytes("TIFF", labels.astype(np.float32) / 2), image_bytes("TIFF", labels)], "mask.bmp": [image_bytes("BMP", labels)], "mask.pgm": [image_bytes("PPM", labels)],
        "mask.webp": [image_bytes("WEBP", rgba)], "config": [to_toml(Config()).encode()],
        "checkpoint": [(root / "network.safetensors").read_bytes()], "weights": [(root / "weights.pth").read_bytes()]}


READERS = {
    "flo": ("a.flo", read_flo), "kitti": ("a.png", read_kitti), "config": ("a.toml", lambda path: make_config(file=path)), "weights": ("a.pth", read_weights),
    "checkpoint": ("a.safetensors", lambda path: (load(path), load_training(path)))}
for ending in ("png", "jpg", "tif", "bmp", "pgm", "webp"): READERS[f"mask.{ending}"] = (f"00000.{ending}", lambda path: Annotations([path]).labels(path.stem))

# what happens to the bytes of a file: pieces are overwritten, taken out, put in, moved; or it was another file from the start
EDITS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["write", "cut", "insert", "flip", "end", "number"]), st.binary(min_size=1, max_size=12)), min_size=1, max_size=6)
NUMBERS = [0, 1, 2, 0x7f, 0xff, 0x100, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff]


def spoiled(data, edits):
    data = bytearray(data)
    for place, how, piece in edits:
        i = int(place * len(data))
        if how == "write": data[i:i + len(piece)] = piece
        elif how == "cut": del data[i:i + len(piece) * 3]
        elif how == "insert": data[i:i] = piece
        elif how == "flip" and i < len(data): data[i] ^= 1 << piece[0] % 8
        elif how == "end": del data[i:]
        else: data[i:i + 4] = struct.pack("<I" if piece[0] % 2 else ">I", NUMBERS[piece[0] % len(NUMBERS)])
    return bytes(data)


def data_or_one_line(read, path):
    try: read(path)
    except (ValueError, OSError) as e:
        assert str(e) and len(str(e).splitlines()) == 1 and len(str(e)) < 2000, repr(e)


def examples(n): return settings(max_examples=n, deadline=5000, database=None, derandomize=n < 1000, suppress_health_check=list(HealthCheck))


def try_files(name, originals, folder, n):
    file, read = READERS[name]

    @examples(n)
    @given(st.sampled_from(originals[name]), st.one_of(EDITS, st.binary(max_size=200)))
    def one(whole, change):
        (folder / file).write_bytes(change if isinstance(change, bytes) else spoiled(whole, change))
        data_or_one_line(read, folder / file)
    one()


@pytest.mark.parametrize("name", READERS)
def test_files(name, originals, tmp_path): try_files(name, originals, tmp_path, 50)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_files(name, originals, tmp_path): try_files(name, originals, tmp_path, 2000)


# ---- configurations that are TOML, but say anything

VALUES = st.recursive(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.sampled_from(["small", "paper", "scenes", "DAVIS", "timm"])), lambda v: st.lists(v, max_size=3), max_leaves=4)


def toml(value):
    if isinstance(value, bool): return str(value).lower()
    if isinstance(value, float): return repr(value).replace("e+", "e") if np.isfinite(value) else str(value).replace("Infinity", "inf")
    if isinstance(value, list): return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value)


def try_configs(folder, n):
    @examples(n)
    @given(st.dictionaries(st.sampled_from([*KEYS, "data.nonsense", "train.step"]), VALUES, max_size=5))
    def one(entries):
        lines = [f"{key} = {toml(value)}" for key, value in entries.items()]
        (folder / "a.toml").write_text("\n".join(lines), encoding="utf-8", errors="replace")
        data_or_one_line(lambda path: make_config(file=path), folder / "a.toml")
    one()


def test_configs(tmp_path): try_configs(tmp_path, 50)


@pytest.mark.slow
def test_many_configs(tmp_path): try_configs(tmp_path, 2000)


# ---- a flow store, any of whose files is spoiled

@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("stored")
    (root / "clip").mkdir()
    for t in range(3): cv2.imwrite(str(root / f"clip/{t:05d}.png"), np.random.default_rng(t).integers(0, 256, (24, 32, 3), np.uint8))
    make_store(root / "store", root / "clip", FlowSettings((16, 16)))
    return root / "store"


def try_stores(stored, folder, n):
    files = sorted(p.relative_to(stored) for p in stored.rglob("*") if p.is_file())
    shutil.copytree(stored, folder / "store")

    def read(path):
        store = FlowStore(path, verify=True)
        for row in range(len(store)):
            store.image(row)
            for gap in store.gaps: store.has(row, gap) and store.flow(row, gap)

    @examples(n)
    @given(st.sampled_from(files), EDITS)
    def one(file, edits):
        (folder / "store" / file).write_bytes(spoiled((stored / file).read_bytes(), edits))
        try: data_or_one_line(read, folder / "store")
        finally: shutil.copy(stored / file, folder / "store" / file)
    one()


def test_stores(stored, tmp_path): try_stores(stored, tmp_path, 50)


@pytest.mark.slow
def test_many_stores(stored, tmp_path): try_stores(stored, tmp_path, 2000)
