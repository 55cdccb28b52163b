"""Each reader, given anything: data, or one line of a ValueError or OSError.

Never another exception, a hang or a crash; and for whole files of a stranger, no other file opened,
nothing fetched, little memory. A plain run tries 50 examples a reader, `pytest -m slow` 2,000."""
import copy
import io
import json
import os
import shutil
import struct
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

import gwm_nb
from gwm_nb.annotations import Annotations
from gwm_nb.reports import compare_results, read_results
from gwm_nb.checkpoints import load, load_published, load_training, save
from gwm_nb.commands import command
from gwm_nb.files import readable_name, visible
from gwm_nb.flow_files import read_flo, read_kitti, write_flo, write_kitti
from gwm_nb.network import create_network
from gwm_nb.configuration import Config, make_config
from gwm_nb.jobs import Result
from gwm_nb.store import FlowSettings, FlowStore, StoredClip, make_store
from gwm_nb.weights import read_weights
from inputs import write_frames, write_scene

STATE = dict(step=3, list=[torch.ones(2), (1, "a")], numbers=np.arange(3.), one=np.float64(2),
             half=torch.ones(2).bfloat16())


def images():
    "Annotations of many kinds, as bytes."
    labels = (np.arange(12 * 16).reshape(12, 16) % 3).astype(np.uint8)
    palette, rgba = Image.fromarray(labels), Image.fromarray(np.dstack([labels * 80] * 4))
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    arrays = map(Image.fromarray, (labels * 127, labels > 0, labels.astype(np.uint16) * 300))
    for kind, kinds in dict(png=[palette, rgba, *arrays], tiff=[Image.fromarray(labels / 2)],
                            jpeg=[palette.convert("L")], webp=[rgba]).items():
        for image in kinds:
            image.save(out := io.BytesIO(), kind)
            yield out.getvalue()


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    "{file of a reader: [whole files as bytes]}"
    root = tmp_path_factory.mktemp("whole")
    save(create_network("small", 2), root / "a.safetensors", training=STATE)
    torch.save(dict(model={"a": torch.ones(3), "b": np.arange(3.)}), root / "a.pth")
    write_flo(root / "a.flo", torch.randn(2, 9, 11))
    write_kitti(root / "a.png", torch.randn(2, 9, 11))
    (root / "a.toml").write_text(Config().to_toml())
    return {p.name: [p.read_bytes()] for p in root.iterdir()} | {"00000.png": list(images())}


READERS = {
    "a.flo": read_flo, "a.png": read_kitti, "a.pth": read_weights,
    "a.toml": lambda path: make_config(file=path),
    "a.safetensors": lambda path: (load(path), load_training(path)),
    "00000.png": lambda path: Annotations([path]).labels(path.stem)}

# pieces of a file are overwritten, taken out, put in, moved; heads of files more often
WHERE = st.floats(0, 1, exclude_max=True) | st.floats(0, .1)
NUMBERS = [0, 1, 2, 0x7f, 0xff, 0x100, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff]
PIECE = st.one_of(st.binary(min_size=1, max_size=12), st.integers(1, 36).map(bytes),
                  st.builds(struct.pack, st.sampled_from(["<I", ">I"]), st.sampled_from(NUMBERS)))
KIND = st.sampled_from(["write"] * 4 + ["flip", "cut", "insert", "double", "end"])
EDITS = st.lists(st.tuples(WHERE, KIND, PIECE), min_size=1, max_size=6)
how_many = pytest.mark.parametrize("n", [50, pytest.param(2000, marks=pytest.mark.slow)])


def spoiled(data, edits):
    data = bytearray(data)
    for place, how, piece in edits:
        i, size = int(place * len(data)), len(piece)
        if how == "write": data[i:i + size] = piece
        elif how == "cut": del data[i:i + size * 3]
        elif how == "insert": data[i:i] = piece
        elif how == "double": data[i:i] = data[i:i + size * 3]
        elif how == "end": del data[i:]
        elif i < len(data): data[i] ^= 1 << piece[0] % 8
    return bytes(data)


def data_or_one_line(read, path):
    "The error, if there was one."
    try:
        read(path)
    except (ValueError, OSError) as e:
        assert str(e) and len(str(e).splitlines()) == 1 and len(str(e)) < 2000, repr(e)
        return e


def try_all(n, body, *strategies):
    "Run a test on `n` inputs, the same ones each time if they are few."
    settings(max_examples=n, deadline=None, database=None, derandomize=n < 1000,
             suppress_health_check=list(HealthCheck))(given(*strategies)(body))()


@how_many
@pytest.mark.parametrize("file", READERS)
def test_files(file, n, originals, tmp_path):
    def one(whole, change):
        changed = change if isinstance(change, bytes) else spoiled(whole, change)
        (tmp_path / file).write_bytes(changed)
        data_or_one_line(READERS[file], tmp_path / file)
    n *= 3 if file == "00000.png" else 1                    # which are of many kinds
    try_all(n, one, st.sampled_from(originals[file]), st.one_of(EDITS, st.binary(max_size=200)))


class Watch:
    "Notes files that Python opens outside of some folders, connections, and programs."
    def __init__(self): self.allowed, self.seen, self.installed = None, [], False

    def hook(self, event, args):
        if self.allowed is None or event == "os.remove" and args[1] != -1:      # -1: of a folder
            return
        if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "urllib.")):
            self.seen.append((event, args[:2]))
        opened = event in ("open", "os.remove", "os.rename", "shutil.copyfile")
        if opened and isinstance(args[0], (str, bytes, os.PathLike)):
            path = os.fsdecode(args[0])
            if "\0" not in path and not os.path.realpath(path).startswith(self.allowed):
                self.seen.append((event, path))

    @contextmanager
    def __call__(self, *folders):
        if not self.installed:
            self.installed = not sys.addaudithook(self.hook)
        python = sys.prefix, sys.base_prefix, "/dev/null", "/proc", Path(gwm_nb.__file__).parent
        self.allowed, self.seen = tuple(map(str, (*folders, *python))), []
        try:
            yield
        finally:
            self.allowed = None
        assert not self.seen


watch = Watch()


def small_store(root):
    clip = write_scene(root / "clip", n=3, size=(32, 48))
    return make_store(root / "inside/store", clip, FlowSettings((16, 16))).folder


def read_store(path):
    FlowStore(path, verify=True)
    store = FlowStore(path)
    return [(store.names[row], store.image(row).numpy().tobytes(),
             [(gap, store.flow(row, gap).numpy().tobytes()) for gap in store.gaps
              if store.has(row, gap)]) for row in range(len(store))]


@how_many
def test_stores(n, tmp_path):
    "What can be read of a store, one of whose files is spoiled, is what was written."
    store = small_store(tmp_path)
    whole, held = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}, read_store(store)

    def same(path): assert read_store(path) == held

    def one(file, edits):
        file.write_bytes(spoiled(whole[file], edits))
        try:
            data_or_one_line(same, store)
        finally:
            file.write_bytes(whole[file])
    try_all(n, one, st.sampled_from(sorted(whole)), EDITS)


# ---- files that are whole, but written by a stranger: names that lead elsewhere, sizes, depth

HUGE = [2**31, 2**40, 2**62, 2**63, 10**30, 10**400, -2**63]
NAMES = ["../secret/evil.txt", "../secret/weights.pth", "SECRET/evil.txt", "SECRET/weights.pth",
         "../../secret/evil.txt", "a/../../secret/evil.txt", "..\\secret\\evil.txt", "C:evil.txt",
         "..", ".", "", "/", "link", "link.png", "folder", "a\0b", "\ud800", "\udce9.png", "=1+1",
         "x" * 300, "\x1b[2J\x1b]0;hi\x07", ".unfinished-x", "http://127.0.0.1:9/evil",
         "~/.profile", "hf-hub:evil/model", "local-dir:../secret", "file:///SECRET"]
KNOWN = ["small", "paper", "gwm-davis", "resnet18", "vit_giant_patch14_dinov2", "create_network",
         "00000", "00001.png", "tensor", "array", "number", "dict", "tuple"]
ODD = st.sampled_from([
    None, True, False, -1, 0, 1, 3, .5, -0., float("inf"), float("nan"), 1e308, [], {}, [[]],
    {"": 0}, {"tensor": "training/0"}, {"array": "training/0"}, {"dict": [[[], 1]]}, "@deep@",
    "@deep dicts@", *HUGE, *NAMES, *KNOWN])
MORE = st.one_of(ODD, st.text(max_size=5), st.lists(ODD, max_size=3),
                 st.dictionaries(st.sampled_from([*NAMES, "pretrained", "J"]), ODD, max_size=2))
HOW = st.sampled_from(["set", "set", "set", "drop", "add", "twice", "within"])
as_text = lambda text: text.encode("utf-8", "surrogatepass")
CHANGES = st.lists(st.tuples(st.integers(0, 999), HOW, MORE), max_size=4)


def places(value):
    "(container, key) of everything in nested lists and dicts."
    if not isinstance(value, (dict, list)): return
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        yield from places(value[key])


def changed(valid, changes, secret):
    "JSON with other values in some places."
    whole = [json.loads(json.dumps(valid))]
    for i, how, value in changes:
        there, value = list(places(whole)), copy.deepcopy(value)
        container, key = there[i % len(there)]
        if how == "set": container[key] = value
        elif how == "drop" and container is not whole: del container[key]
        elif how == "within": container[key] = [container[key]] if i % 2 else {"x": container[key]}
        elif isinstance(container[key], list):
            container[key].append(value if how == "add" else container[key][:1])
        elif isinstance(container[key], dict):
            container[key] |= value if isinstance(value, dict) else {str(value): value}
    text = json.dumps(whole[0]).replace("SECRET", str(secret))
    deep = {'"@deep@"': "[" * 5000 + "]" * 5000, '"@deep dicts@"': '{"a":' * 700 + "1" + "}" * 700}
    for mark, nested in deep.items(): text = text.replace(mark, nested)
    return text


@contextmanager
def little_memory(gigabytes=4):
    "Within: no more than so much is given, so that a file that asks for more is found out."
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return (yield)
    import resource
    now = int(pages.read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (gigabytes << 30), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


# each makes a valid file: (file, what it says, how that becomes bytes, how it is read)
def a_result(root):
    file, names = root / "inside/result.json", ["00000", "00001", "00002"]
    masks = np.pad(np.full((3, 8, 8), 255, np.uint8), ((0, 0), (4, 12), (4, 20)))
    for place in ("inside/folder", "inside", "inside/clip"):
        write_frames(root / place, masks)
    (root / "inside/link.png").symlink_to("../secret/evil.txt")
    (root / "inside/link").symlink_to("../secret")
    valid = dict(names=names, files=["00000.png", "result.json"], notes=[],
                 confidence=dict(mean=.5, frames=dict.fromkeys(names, .5)),
                 settings=dict(clip="SECRET/evil.txt", start=0, every=1, fps=24.))

    def read(out):
        result = Result(file.parent, file.parent / "clip")
        assert len(result.confidence) == len(list(result.masks)) == len(list(result.overlay()))
        result.save(out / "copy")
    return file, valid, as_text, read


def a_network(root):
    network, file = create_network("small", 2), root / "inside/a.safetensors"
    tensors, valid = dict(network.state_dict()), network.config | dict(notes={}, pretrained=True)
    encode = lambda text: safetensors.torch.save(tensors, {"gwm_nb": text})
    return file, valid, encode, lambda out: load(file)


def a_training(root):
    file = save(torch.nn.Conv2d(3, 2, 1), root / "inside/a.safetensors", training=STATE)
    tensors = safetensors.torch.load(file.read_bytes())
    with safetensors.safe_open(file, "pt") as f:
        valid = json.loads(f.metadata()["training"])
    encode = lambda text: safetensors.torch.save(tensors, {"training": text, "gwm_nb": "{}"})
    return file, valid, encode, lambda out: load_training(file)


def a_report(root):
    frames = {"00000": dict(J=.5, F=.4, objects=1), "00001": dict(J=.7, F=.5, objects=1)}
    valid = dict(title="a", missing=[], results=[dict(
        protocol="label-free", about="b", looks_at_labels=False, merged_by="motion", polished_by="",
        average_over="sequences", left_out="none", J=.6, F=.45, frames=2, ARI=.4,
        sequences=dict(dog=frames, cat=frames), taken_as_one=dict(dog=2), without_annotation={},
        missing_frames=dict(dog=["00002"]))])
    read = lambda out: compare_results(*[read_results(root / "inside")] * 2)
    return root / "inside/results.json", valid, as_text, read


def a_store(root):
    "Its folders are named as its plan says."
    store = small_store(root)

    def encode(text):
        with suppress(Exception):                       # the plan may be no plan any more
            plan = json.loads(text)["attributes"]
            clip = StoredClip(store, plan["settings"], plan["clips"][0])
            next(store.glob("*/flows")).parent.rename(clip.folder)
        return as_text(text)
    valid = json.loads((store / "zarr.json").read_text())
    return store / "zarr.json", valid, encode, lambda out: read_store(store)


STRANGERS = [a_result, a_network, a_training, a_report, a_store]


@how_many
@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers(stranger, n, tmp_path):
    secret, out = tmp_path / "secret", tmp_path / "out"
    for folder in (secret, out, tmp_path / "inside"):
        folder.mkdir()
    (secret / "evil.txt").write_text("precious")
    torch.save({"a": torch.ones(2)}, secret / "weights.pth")
    tempfile.gettempdir()                                   # which tries whether it can be written
    file, valid, encode, read = stranger(tmp_path)
    file.write_bytes(encode(json.dumps(valid)))
    read(out)                                               # it is valid as it is
    held = lambda: {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in secret.rglob("*")}
    before, accepted = held(), []

    def one(changes):
        shutil.rmtree(out)
        out.mkdir()
        file.write_bytes(encode(changed(valid, changes, secret)))
        with little_memory(), watch(tmp_path / "inside", out):
            error = data_or_one_line(read, out)
        assert not error or "inside" in f"{error}{getattr(error, 'filename', '')}", repr(error)
        accepted.append(not error)
        assert held() == before
    try_all(n, one, CHANGES)
    assert 0 < sum(accepted) < n                            # some do no harm


def test_weights_that_claim_more_than_they_hold(tmp_path):
    "One number that stands for many, numbers that are nowhere, another size: nothing is built."
    name, file = "sem_seg_head.predictor.query_embed.weight", tmp_path / "a.pth"
    claims = dict(
        strided=torch.ones(1).expand(10**9, 256), meta=torch.empty(10**9, 256, device="meta"),
        sparse=torch.sparse_coo_tensor(size=(10**9, 256), check_invariants=True),
        narrow=torch.ones(10**5, 1), hollow=torch.ones(10**9, 0), whole=torch.ones(10**4, 256))
    for kind, claim in claims.items():
        torch.save({"model": {name: claim}}, file)
        with little_memory(), pytest.raises(ValueError, match="a.pth") as e:
            load_published(file, pretrained=False)
        assert len(str(e.value).splitlines()) == 1, kind


def test_no_name_commands_a_terminal(call):
    @command
    def show(name: str):
        "Print a name, or fail with it."
        print(f"a\n{name}", flush=True)
        raise ValueError(f"{name}: no")
    harmless = "\\x1b[2J\\x9b\\u202eb"
    assert call(show, "\x1b[2J\x9b\u202eb") == (f"a\n{harmless}\n", f"show: {harmless}: no")
    assert readable_name("a\x07b") == "a\\x07b" and visible("\u00e9 \u4e2d") == "\u00e9 \u4e2d"
