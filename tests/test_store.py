"The flow store where a lesson would be the wrong place: other processes, full disks, damage, folders that are not ours."
import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import zarr
from torch.utils.data import DataLoader

from gwm_nb import store as room
from gwm_nb.files import find_clips, read_image
from gwm_nb.flow import DIS, estimate_flow, flow_estimators, resize_flow
from gwm_nb.flow_files import write_flo
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import (DamagedStore, FlowSettings, FlowStore, fill_store, kept_store, make_store,
                          plan_store, shrink, working_size)
from gwm_nb.weights import RAFT
from gwm_nb.videos import GapSamples

SETTINGS = FlowSettings(size=(32, 48), gaps=(1, 2, -1, -2))
FLOWS, ROWS = 44, 58                                        # of clips with 8 and 6 frames


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "Two clips, with scenes instead of films."
    root = tmp_path_factory.mktemp("clips")
    for i, (clip, n) in enumerate([("cows", 6), ("dog", 8)]):
        scene = MovingScenes(1, seed=14 + i, size=(64, 96)).scene(0)
        (root / clip).mkdir()
        for t in range(n):
            pixels = (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy()
            cv2.imwrite(str(root / clip / f"{t:05d}.png"), pixels[..., ::-1])
    return root


@pytest.fixture(scope="module")
def store(clips, tmp_path_factory): return make_store(tmp_path_factory.mktemp("stores") / "whole", clips, SETTINGS)


@pytest.fixture
def copy(store, tmp_path):
    "A store to be maltreated."
    shutil.copytree(store.folder, tmp_path / "s")
    return tmp_path / "s"


def contents(folder): return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def flip(file, place=None, bit=16):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 if place is None else place] ^= bit
    file.write_bytes(raw)


DIES = """if 1:
    import itertools, os, signal, sys
    import zarr.storage._local as local
    from gwm_nb.store import FlowSettings, make_store

    written, put = itertools.count(1), local._put

    def put_and_die(path, value, *args, **kwargs):
        if path.name.startswith("c.") and next(written) == int(sys.argv[3]):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(f".{'0' * 32}.partial").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return put(path, value, *args, **kwargs)

    local._put = put_and_die
    make_store(sys.argv[1], sys.argv[2], FlowSettings((32, 48), (1, 2, -1, -2)))
"""


def chunks(folder): return len(list(folder.glob("*/c.*.0.0.0")))


def make_disk_full(monkeypatch, after):
    "Writing a chunk fails like on a full disk, half of it written, after so many."
    import zarr.storage._local as local
    left, put = iter(range(after)), local._atomic_write

    class Full:
        def __init__(self, file): self.file = file

        def write(self, data):
            self.file.write(bytes(data)[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    def until_full(path, *args, **kwargs):
        import contextlib

        @contextlib.contextmanager
        def writing():
            full = path.name.startswith("c.") and next(left, None) is None
            with put(path, *args, **kwargs) as f:
                yield Full(f) if full else f
        return writing()

    monkeypatch.setattr(local, "_atomic_write", until_full)


# what it holds

def test_store_holds_what_an_estimator_says(clips, store):
    "Row by row, gap by gap: nothing is shifted, swapped or left over."
    frames = [read_image(f).float() / 255 for f in sorted((clips / "dog").iterdir())]
    rows = store.clips["dog"]
    assert list(store.clips) == ["cows", "dog"] and len(rows) == 8
    for gap in store.gaps:
        for t in range(8):
            assert store.has(rows[t], gap) == (0 <= t + gap < 8)
            if store.has(rows[t], gap):
                wanted = resize_flow(estimate_flow(frames[t], frames[t + gap]), (32, 48))
                torch.testing.assert_close(store.flow(rows[t], gap).float(), wanted, atol=.01, rtol=1e-3)
    torch.testing.assert_close(store.image(rows[3]).float() / 255, shrink(frames[3], (32, 48)), atol=.5 / 255 + 1e-6, rtol=0)
    with pytest.raises(ValueError, match="dog/00007 has no flow of gap 1: it would lead out of the clip"):
        store.flow(rows[7], 1)
    with pytest.raises(ValueError, match="no gap 3; it has 1, 2, -1, -2"):
        store.flow(rows[0], 3)


def test_rows_that_cannot_exist_have_no_chunk(store):
    assert chunks(store.folder) == store.exists.sum() == ROWS
    for column, name in enumerate(["images", "flow_1", "flow_2", "flow_-1", "flow_-2"]):
        there = [(store.folder / name / f"c.{row}.0.0.0").exists() for row in range(14)]
        assert there == store.exists[:, column].tolist()


def test_it_is_plain_zarr(store):
    "Whoever has zarr can read it: arrays, settings and clips."
    group = zarr.open_group(store.folder, mode="r")
    assert sorted(name for name, _ in group.arrays()) == ["flow_-1", "flow_-2", "flow_1", "flow_2", "images"]
    assert group.attrs["settings"]["gaps"] == [1, 2, -1, -2] and group.attrs["settings"]["options"] == {"preset": "medium"}
    assert [c["name"] for c in group.attrs["clips"]] == ["cows", "dog"]
    assert [c.to_dict()["name"] for c in group["flow_1"].metadata.codecs] == ["bytes", "crc32c"]
    np.testing.assert_array_equal(group["flow_2"][5 + 3], store.flow(8, 2))


def test_a_row_of_zeros_is_written_too(clips, tmp_path):
    black = tmp_path / "black"
    black.mkdir()
    for t in range(3):
        cv2.imwrite(str(black / f"{t}.png"), np.zeros((64, 96, 3), np.uint8))
    store = make_store(tmp_path / "s", black, FlowSettings(size=(32, 48)))
    assert chunks(tmp_path / "s") == 3 + 2 + 2 and not store.image(1).any()


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same_bytes(clips, store, tmp_path, workers):
    make_store(tmp_path / "again", clips, SETTINGS, workers)
    assert contents(tmp_path / "again") == contents(store.folder)


# interruption

def test_killed_again_and_again(clips, store, tmp_path):
    "SIGKILL in the midst of a chunk, twice, then a run to the end: the same bytes, no file left over."
    for more in (6, 30):
        before = chunks(tmp_path / "k")
        done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "k"), str(clips), str(more)], stderr=subprocess.PIPE, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert before < chunks(tmp_path / "k") < ROWS and list(tmp_path.glob("k/*/*.partial"))
    make_store(tmp_path / "k", clips, SETTINGS)
    assert contents(tmp_path / "k") == contents(store.folder)


def test_killed_in_the_middle_of_a_file(copy, store, clips):
    "What zarr was writing is swept away, wherever it was, and nothing else."
    id = "0123456789abcdef" * 2
    left = [copy / f"zarr.{id}.partial", copy / f"flow_1/zarr.{id}.partial", copy / f"flow_-2/c.3.0.0.{id}.partial"]
    for f in left: f.write_bytes(b"half")
    (copy / "flow_-2/c.9.0.0.0").unlink()
    (copy / "film.partial").write_bytes(b"mine")
    make_store(copy, clips, SETTINGS)
    assert contents(copy) == contents(store.folder) | {"film.partial": b"mine"}


@pytest.mark.parametrize("kept", [[], ["zarr.json"], ["zarr.json", "images/zarr.json", "flow_1/zarr.json"]])
def test_killed_while_it_was_begun(copy, store, clips, kept):
    for f in list(copy.rglob("*")):
        if f.is_file() and str(f.relative_to(copy)) not in kept: f.unlink()
    for f in list(copy.iterdir()):
        if f.is_dir() and not any(f.iterdir()): f.rmdir()
    (copy / ("zarr." + "0" * 32 + ".partial")).write_bytes(b"{")
    if kept:
        with pytest.raises(ValueError, match="missing; rebuild the store"): FlowStore(copy)
    else:
        with pytest.raises(ValueError, match="not a flow store, it has no zarr.json"): FlowStore(copy)
    make_store(copy, clips, SETTINGS)
    assert contents(copy) == contents(store.folder)


def test_finishing_computes_only_what_is_missing(copy, store, clips, monkeypatch):
    (copy / "flow_1/c.3.0.0.0").unlink()
    flip(copy / "flow_-2/c.9.0.0.0")
    with pytest.raises(ValueError, match=r"unfinished flow store: the flow of gap 1 of cows/00003 is not there yet \(1 of 58"):
        FlowStore(copy)
    calls, dis = [], DIS.__call__
    monkeypatch.setattr(DIS, "__call__", lambda self, a, b: calls.append(tuple(a.shape[-2:])) or dis(self, a, b))
    make_store(copy, clips, SETTINGS)
    assert calls.count((64, 96)) == 2 and contents(copy) == contents(store.folder)


# several programs

def test_several_programs_at_once(clips, tmp_path):
    "Two begin at the same moment: one fills the store, the other waits and finds it done; nothing is estimated twice."
    code = """if 1:
        import os, pathlib, sys, time
        from gwm_nb.store import FlowSettings, make_store

        def slow(image1, image2):
            if image1.any():
                time.sleep(.01)
                with open("estimated", "a") as f: f.write("x")
            return image1[:, :2]

        pathlib.Path(f"ready{os.getpid()}").touch()
        while len(list(pathlib.Path().glob("ready*"))) < 2: time.sleep(.001)
        make_store("s", sys.argv[1], FlowSettings((32, 48), (1, 2, -1, -2), slow), workers=1)
    """
    programs = [subprocess.Popen([sys.executable, "-c", code, str(clips)], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(p.communicate()[1], p.returncode) for p in programs]
    assert [("Error" in text, rc) for text, rc in ends] == [(False, 0)] * 2
    assert (tmp_path / "estimated").stat().st_size == FLOWS and len(FlowStore(tmp_path / "s", verify=True)) == 14
    assert {f.name for f in tmp_path.iterdir() if not f.name.startswith("ready")} == {"s", "estimated"}


@pytest.mark.parametrize("context, workers", [("fork", 2), ("spawn", 1)])
def test_workers_share_a_store(store, context, workers):
    store.image(0)                                                        # zarr's threads run already in this process
    loader = DataLoader(GapSamples(store, both=True), 7, num_workers=workers, multiprocessing_context=context)
    batches = list(loader)
    assert sum(len(b["image"]) for b in batches) == 14 and batches[0]["flow2"].shape == (7, 2, 32, 48)
    assert len(pickle.dumps(store)) < 1000


# damage

@pytest.mark.parametrize("place", [0, -1, -5, None])
@pytest.mark.parametrize("array", ["images", "flow_1", "flow_2", "flow_-1", "flow_-2"])
def test_a_flipped_bit_in_any_chunk_is_found_and_mended(copy, store, clips, array, place):
    file = sorted((copy / array).glob("c.*"))[3]
    flip(file, place, 1)
    row = int(file.name.split(".")[1])
    opened = FlowStore(copy)                                              # does not read
    name = opened.names[row]
    with pytest.raises(DamagedStore, match=f"damaged flow store: the .* of {name} is not what was written .1 of 58"):
        FlowStore(copy, verify=True)
    mismatch = rf"{array}/c.{row}.0.0.0: checksum mismatch \({name}\); rebuild the store"
    with pytest.raises(DamagedStore, match=mismatch):
        opened.image(row) if array == "images" else opened.flow(row, int(array[5:]))
    make_store(copy, clips, SETTINGS)
    assert contents(copy) == contents(store.folder)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"\0" * 6148, b"short"])
def test_a_chunk_of_another_length_is_found_and_mended(copy, store, clips, data):
    (copy / "flow_2/c.1.0.0.0").write_bytes(data)
    with pytest.raises(DamagedStore, match=r"flow of gap 2 of cows/00001 is not what was written \(1 of 58"):
        FlowStore(copy, verify=True)
    make_store(copy, clips, SETTINGS)
    assert contents(copy) == contents(store.folder)


def test_a_chunk_that_goes_while_it_is_used_is_no_flow_of_zeros(copy):
    opened = FlowStore(copy)
    (copy / "flow_1/c.2.0.0.0").unlink()
    with pytest.raises(DamagedStore, match=r"flow_1/c.2.0.0.0: checksum mismatch \(cows/00002\)"):
        opened.flow(2, 1)


DAMAGES = {"torn": lambda f: f.write_bytes(f.read_bytes()[:40]), "empty": lambda f: f.write_bytes(b""), "list": lambda f: f.write_text("[]"),
           "binary": lambda f: f.write_bytes(b"\xff\xfe"), "value": lambda f: f.write_text(f.read_text().replace("32", "33")),
           "type": lambda f: f.write_text(f.read_text().replace('"node_type": "', '"node_type": "x'))}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["zarr.json", "images/zarr.json", "flow_-2/zarr.json"])
def test_a_damaged_description_is_named(copy, store, clips, file, damage):
    DAMAGES[damage](copy / file)
    with pytest.raises(DamagedStore, match=f"{copy}/{file}: damaged") as e:
        FlowStore(copy)
    assert "\n" not in str(e.value)
    if file == "zarr.json":                                   # then nobody knows what the rows are
        with pytest.raises(ValueError, match="damaged description; rebuild the store in another"):
            make_store(copy, clips, SETTINGS)
        assert chunks(copy) == ROWS
    else:                                                     # what must be in it is known, and the rows are still good
        before = (copy / "images/c.3.0.0.0").stat().st_mtime_ns
        make_store(copy, clips, SETTINGS)
        assert contents(copy) == contents(store.folder) and (copy / "images/c.3.0.0.0").stat().st_mtime_ns == before


@pytest.mark.parametrize("file", ["zarr.json", "flow_1/zarr.json"])
def test_no_flipped_bit_of_a_description_changes_what_is_read(copy, store, file):
    raw = (copy / file).read_bytes()
    draw, found = np.random.default_rng(0), 0
    for place in draw.choice(len(raw), 60, replace=False):
        flip(copy / file, place, 1 << int(draw.integers(8)))
        try:
            opened = FlowStore(copy)
            assert opened.names == store.names and opened.size == store.size and opened.gaps == store.gaps
            torch.testing.assert_close(opened.flow(3, 1), store.flow(3, 1))
        except ValueError as e:
            assert "zarr.json" in str(e) and "\n" not in str(e)
            found += 1
        (copy / file).write_bytes(raw)
    assert found > 50


@pytest.mark.parametrize("array", ["images", "flow_1"])
def test_an_array_that_is_gone_is_made_again(copy, store, clips, array):
    shutil.rmtree(copy / array)
    with pytest.raises(DamagedStore, match=f"{array}/zarr.json: missing; rebuild the store"):
        FlowStore(copy)
    make_store(copy, clips, SETTINGS)
    assert contents(copy) == contents(store.folder)


def test_kept_flow_that_is_damaged_is_mended_or_made_anew(clips, store, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path))
    kept = kept_store(find_clips(clips), SETTINGS)
    assert contents(kept.folder) == contents(store.folder)
    flip(kept.folder / "flow_1/c.3.0.0.0")
    assert contents(kept_store(find_clips(clips), SETTINGS).folder) == contents(store.folder) and "damaged" not in capsys.readouterr().out
    flip(kept.folder / "zarr.json")
    assert contents(kept_store(find_clips(clips), SETTINGS).folder) == contents(store.folder)
    assert "is damaged; computing it again" in capsys.readouterr().out


# a full disk

def test_full_disk_before_the_start(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), dict(free=1000)))
    with pytest.raises(OSError, match="the flow needs 0.5 MB, only 0.0 MB are free") as e:
        make_store(tmp_path / "s", clips, SETTINGS)
    assert e.value.errno == errno.ENOSPC and e.value.filename == str(tmp_path / "s") and not any(tmp_path.iterdir())


def test_only_what_is_missing_needs_room(copy, store, clips, monkeypatch):
    for row in range(4): (copy / f"flow_1/c.{row}.0.0.0").unlink()
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), dict(free=4 * 8192 - 1)))
    with pytest.raises(OSError, match="the flow needs 0.0 MB"): make_store(copy, clips, SETTINGS)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), dict(free=4 * 8192)))
    make_store(copy, clips, SETTINGS)
    assert contents(copy) == contents(store.folder)


@pytest.mark.parametrize("after", [0, 20])
def test_full_disk_on_the_way_is_resumed(clips, store, tmp_path, monkeypatch, after):
    make_disk_full(monkeypatch, after)
    with pytest.raises(OSError, match="No space left") as e:
        make_store(tmp_path / "s", clips, SETTINGS, workers=1)
    assert e.value.filename == str(tmp_path / "s") and e.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert chunks(tmp_path / "s") == after and not list(tmp_path.rglob("*.partial"))
    make_store(tmp_path / "s", clips, SETTINGS)
    assert contents(tmp_path / "s") == contents(store.folder)


def test_a_full_cache_is_no_reason_to_stop(clips, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("not a folder")
    kept = kept_store(find_clips(clips), SETTINGS)
    assert "flow is not kept" in capsys.readouterr().out and contents(kept.folder) == contents(store.folder)


# folders, clips and settings

def test_nothing_of_the_user_is_ever_removed(clips, tmp_path):
    for name, file in (("mine", "film.mp4.part"), ("likely", "zarr.partial"), ("theirs", "zarr.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"half")
        with pytest.raises(ValueError, match="neither empty nor a flow store|damaged description"):
            make_store(tmp_path / name, clips, SETTINGS)
        assert contents(tmp_path / name) == {file: b"half"}


def test_another_zarr_group_is_refused(clips, tmp_path):
    zarr.create_group(tmp_path / "g", attributes=dict(camera="left")).create_array("images", shape=(4,), dtype="uint8")
    before = contents(tmp_path / "g")
    for attempt in (lambda: FlowStore(tmp_path / "g"), lambda: make_store(tmp_path / "g", clips, SETTINGS)):
        with pytest.raises(ValueError, match="g: not a flow store, but another zarr group"): attempt()
    assert contents(tmp_path / "g") == before


def test_a_store_of_version_1_is_refused(clips, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/store.json").write_text('{"version": 1}')
    np.save(tmp_path / "old/images.npy", np.zeros(3))
    before = contents(tmp_path / "old")
    for attempt in (lambda: FlowStore(tmp_path / "old"), lambda: make_store(tmp_path / "old", clips, SETTINGS)):
        with pytest.raises(ValueError, match="old: a flow store of version 1, .*; make it again in another folder"): attempt()
    assert contents(tmp_path / "old") == before


@pytest.mark.parametrize("other, message", [
    (dict(size=(48, 64)), r"size \[32, 48\], not \[48, 64\]"), (dict(gaps=(1, -1)), r"gaps \[1, 2, -1, -2\], not \[1, -1\]"),
    (dict(method=DIS("fast")), "options {'preset': 'medium'}, not {'preset': 'fast'}"), (dict(longest=320), "longest 640, not 320"),
    (dict(method=RAFT("random")), "method dis, not raft"), (dict(resample="published"), "resample antialias, not published")])
def test_other_settings_are_refused_by_name(copy, store, clips, other, message):
    from dataclasses import replace
    with pytest.raises(ValueError, match=f"this flow store was made with {message}; choose another folder or remove it"):
        make_store(copy, clips, replace(SETTINGS, **other))
    assert contents(copy) == contents(store.folder)


@pytest.mark.parametrize("wrong, message", [
    (dict(gaps=(1, 0)), "other than 0"), (dict(gaps=()), "other than 0"), (dict(gaps=(1, 1)), "different numbers"), (dict(longest=8), "longest must be at least 16, not 8"),
    (dict(method="magic"), "unknown flow method 'magic'; choose one of dis"), (dict(resample="lanczos"), "choose one of antialias, published"), (dict(size=(8, 80)), "8x80 is too small")])
def test_settings_are_checked_where_they_enter(wrong, message):
    with pytest.raises(ValueError, match=message): FlowSettings(**wrong)


def test_a_changed_frame_gets_new_flow(clips, tmp_path, capsys):
    shutil.copytree(clips, tmp_path / "copy")
    make_store(tmp_path / "s", tmp_path / "copy", SETTINGS)
    cows = {k: v for k, v in contents(tmp_path / "s").items() if int(k.split(".")[1] if "/c." in k else 99) < 6}
    assert len(cows) == 6 + 2 * 5 + 2 * 4
    frames = sorted((tmp_path / "copy/dog").iterdir())
    shutil.copy(frames[0], frames[4])
    changed = make_store(tmp_path / "s", tmp_path / "copy", SETTINGS)
    assert "frames of dog have changed" in capsys.readouterr().out
    torch.testing.assert_close(changed.image(changed.clips["dog"][4]), changed.image(changed.clips["dog"][0]))
    fresh = make_store(tmp_path / "fresh", tmp_path / "copy", SETTINGS)
    assert contents(changed.folder) == contents(fresh.folder) and cows.items() <= contents(fresh.folder).items()
    frames[5].unlink()
    with pytest.raises(ValueError, match="other clips or frames"):
        make_store(tmp_path / "s", tmp_path / "copy", SETTINGS)


def test_clips_that_can_not_be_used_are_named(clips, tmp_path):
    (tmp_path / "single").mkdir()
    shutil.copy(clips / "dog/00000.png", tmp_path / "single")
    with pytest.raises(ValueError, match=r"single: only 1 frame\(s\); flow with gap 1 needs at least 2"): plan_store(find_clips(tmp_path / "single"))
    with pytest.raises(ValueError, match=r"cows: only 6 frame\(s\); flow with gap -9 needs at least 10"): plan_store(find_clips(clips), FlowSettings(gaps=(1, -9)))
    shutil.copytree(clips / "dog", tmp_path / "mixed")
    cv2.imwrite(str(tmp_path / "mixed/00003.png"), np.zeros((60, 90, 3), np.uint8))
    with pytest.raises(ValueError, match="mixed: frame 00003 is 90x60, but frame 00000 is 96x64"): make_store(tmp_path / "s", tmp_path / "mixed")
    (tmp_path / "mixed/00003.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match="00003.png: not a readable image"): make_store(tmp_path / "s", tmp_path / "mixed")
    assert not (tmp_path / "s").exists()


def test_a_picture_that_lies_on_its_side(tmp_path):
    from PIL import Image
    (tmp_path / "c").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for t in range(2):
        Image.fromarray(np.random.default_rng(t).integers(0, 255, (64, 96, 3), np.uint8)).save(tmp_path / f"c/{t}.jpg", exif=exif)
    assert make_store(tmp_path / "s", tmp_path / "c").size == working_size((96, 64))


# estimators

@pytest.mark.parametrize("value, message", [(float("nan"), "cows/00000: the flow with gap 1 has values that are no numbers"), (1e6, "beyond 65504")])
def test_flow_that_is_no_number_is_named(clips, tmp_path, value, message):
    def strange(image1, image2): return torch.full_like(image1[:, :2], value if image1.any() else 0.)

    with pytest.raises(ValueError, match=message):
        make_store(tmp_path / "s", clips, FlowSettings(SETTINGS.size, SETTINGS.gaps, strange), workers=1)


def test_an_estimator_that_fails_is_named(clips, tmp_path):
    def failing(image1, image2):
        if image1.any(): raise RuntimeError("out of memory\nand more")
        return image1[:, :2]

    with pytest.raises(ValueError, match="cows/00000: the flow failed: out of memory$"):
        make_store(tmp_path / "s", clips, FlowSettings(method=failing), workers=1)


def test_an_estimator_is_tried_before_anything_is_written(clips, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth"): FlowSettings(method=RAFT("none.pth"))

    def missing(image1, image2): raise ValueError("no weights here")
    with pytest.raises(ValueError, match="no weights here"): make_store(tmp_path / "s", clips, FlowSettings(method=missing))
    assert not any(tmp_path.iterdir())


def test_a_batched_estimator_gives_what_it_gives_alone(clips, tmp_path):
    @flow_estimators.register("difference")
    def difference(image1, image2): return (image2 - image1)[:, :2] * 50

    try:
        settings = FlowSettings(SETTINGS.size, SETTINGS.gaps, "difference")
        one, many = (make_store(tmp_path / str(n), clips, settings, batch=n) for n in (1, 5))
        assert contents(one.folder) == contents(many.folder)
        assert contents(make_store(tmp_path / "object", clips, FlowSettings(SETTINGS.size, SETTINGS.gaps, difference)).folder) == contents(one.folder)
    finally:
        del flow_estimators["difference"]


# published flow files

@pytest.fixture
def published(clips, tmp_path):
    "A data set with flow files of gap 3 and -3."
    shutil.copytree(clips / "dog", tmp_path / "FBMS/JPEGImages/tennis")
    names = [f"{t:05d}" for t in range(8)]
    for gap in (3, -3):
        (tmp_path / f"FBMS/Flows_gap{gap}/tennis").mkdir(parents=True)
        for t, name in enumerate(names):
            if 0 <= t + gap < 8:
                write_flo(tmp_path / f"FBMS/Flows_gap{gap}/tennis/{name}.flo", torch.full((2, 20, 30), t + gap / 10))
    return tmp_path / "FBMS"


FILES = FlowSettings(size=(40, 60), gaps=(3, -3), method="files")


def test_published_flow_files(published, tmp_path):
    store = make_store(tmp_path / "s", published, FILES)
    torch.testing.assert_close(store.flow(2, 3), torch.full((2, 40, 60), 2 * 2.3, dtype=torch.float16))
    torch.testing.assert_close(store.flow(5, -3), torch.full((2, 40, 60), 2 * 4.7, dtype=torch.float16))
    (published / "Flows_gap3/tennis/00004.flo").write_bytes(b"PIEH")
    with pytest.raises(ValueError, match="00004.flo: truncated"):
        make_store(tmp_path / "other", published, FILES)
    shutil.copy(published / "Flows_gap-3/tennis/00007.flo", published / "Flows_gap3/tennis")
    with pytest.raises(ValueError, match="6 flow files for 8 frames, with gap 3 there must be 5; 00007 is too many"):
        make_store(tmp_path / "other", published, FILES)
    for n in ("00007", "00001"): (published / f"Flows_gap3/tennis/{n}.flo").unlink()
    with pytest.raises(ValueError, match="4 flow files for 8 frames, with gap 3 there must be 5; 00001 is missing"):
        make_store(tmp_path / "other", published, FILES)
    with pytest.raises(ValueError, match="no flow files of gap 1"):
        make_store(tmp_path / "other", published, FlowSettings(method="files"))


def test_published_files_that_change_are_read_again(published, tmp_path):
    for value in (1., 9.):
        for f in (published / "Flows_gap3/tennis").iterdir():
            write_flo(f, torch.full((2, 40, 60), value))
            os.utime(f, (value, value))
        store = make_store(tmp_path / "s", published, FILES)
        assert store.flow(0, 3).unique().tolist() == [value]


def test_a_plan_can_be_filled_later(clips, store, tmp_path):
    found = find_clips(clips)
    plan = plan_store(found, SETTINGS)
    assert room.flows_there(tmp_path / "s", plan) is None and room.flows_there(store.folder, plan) == (FLOWS, FLOWS)
    assert room.plan_summary(plan) == "2 clips, 14 frames, 44 flows of gaps 1 2 -1 -2 by dis at 32x48, 0.5 MB"
    assert contents(fill_store(tmp_path / "s", plan, found, SETTINGS).folder) == contents(store.folder)
