"The flow store: what it holds, interruption, several programs, damage, full disks, wrong folders."
import errno
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import zarr
from inputs import contents, refused, write_scene
from torch.utils.data import DataLoader

from gwm_nb.files import find_clips, locked, read_image
from gwm_nb.flow import estimate_flow, resize_flow
from gwm_nb.flow_files import write_flo
from gwm_nb.store import (DamagedStore, FlowSettings, FlowStore, cached_store, make_store,
                          plan_store, plan_summary, shrink)
from gwm_nb.datasets import GapSamples

SETTINGS = FlowSettings(size=(32, 48), gaps=(1, 2, -1, -2))
FLOWS = dict(cows=18, dog=26)                               # of 6 and 8 frames


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for seed, (clip, n) in enumerate([("cows", 6), ("dog", 8)]):
        write_scene(root / clip, n=n, seed=14 + seed)
    return root


@pytest.fixture(scope="module")
def store(clips, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "whole", clips, SETTINGS)


@pytest.fixture
def copy(store, tmp_path):
    return shutil.copytree(store.folder, tmp_path / "s")


def clip_folder(folder, name): return next(folder.glob(f"{name}-*"))


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 16
    file.write_bytes(raw)


def test_a_store_holds_what_the_estimator_returns(clips, store):
    frames = [read_image(f).float() / 255 for f in sorted((clips / "dog").iterdir())]
    rows = store.clips["dog"]
    assert list(store.clips) == ["cows", "dog"] and rows == range(6, 14) and len(store) == 14
    for gap in store.gaps:
        for t in range(8):
            assert store.has(rows[t], gap) == (0 <= t + gap < 8)
            if not store.has(rows[t], gap): continue
            wanted = resize_flow(estimate_flow(frames[t], frames[t + gap]), (32, 48)).half()
            torch.testing.assert_close(store.flow(rows[t], gap), wanted)
    group = zarr.open_group(store.folder, mode="r")             # it is plain zarr
    assert group.attrs["settings"]["options"] == {"preset": "medium"}
    dog = group[clip_folder(store.folder, "dog").name]
    np.testing.assert_array_equal(dog["flows"][2, 1], store.flow(8, 2))
    wanted = shrink(frames[3], (32, 48))
    torch.testing.assert_close(store.image(rows[3]).float() / 255, wanted, atol=.002, rtol=0)
    refused(store.flow, rows[7], 1, says="dog/00007 has no flow of gap 1")
    refused(store.flow, rows[0], 3, says="no gap 3; it has 1, 2, -1, -2")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_plan_says_what_any_number_of_workers_writes(clips, store, tmp_path, workers):
    found = find_clips(clips)
    plan = plan_store(found, SETTINGS)
    says = "2 clips, 14 frames, 44 flows of gaps 1 2 -1 -2 by dis at 32x48, 0.3 MB"
    assert plan_summary(plan) == says
    made = make_store(tmp_path / "s", found, SETTINGS, workers, plan=plan)
    assert contents(made.folder) == contents(store.folder)
    one = plan_store(found[:1], SETTINGS)
    assert plan_summary(one).startswith("1 clip, 6 frames, 18 flows")


def test_who_waits_for_a_store_finds_it_done(clips, store, tmp_path):
    folder, pool = tmp_path / "s", ThreadPoolExecutor(1)
    with locked(folder):
        waiting = pool.submit(make_store, folder, clips, SETTINGS)
        with pytest.raises(TimeoutError):
            waiting.result(1)
        shutil.copytree(store.folder, folder)
        before = [clip_folder(folder, name).stat().st_ino for name in FLOWS]
    assert len(waiting.result()) == 14
    assert [clip_folder(folder, name).stat().st_ino for name in FLOWS] == before


@pytest.mark.parametrize("context, workers", [("fork", 2), ("spawn", 1)])
def test_workers_share_a_store(store, context, workers):
    store.image(0)                                  # zarr's threads run already in this process
    batches = list(DataLoader(GapSamples(store, both=True), 7, num_workers=workers,
                              multiprocessing_context=context))
    assert [b["flow2"].shape for b in batches] == [(7, 2, 32, 48)] * 2
    assert len(pickle.dumps(store)) < 1000


DAMAGES = dict(empty=lambda f: f.write_bytes(b""), zeros=lambda f: f.write_bytes(b"\0" * 4),
               long=lambda f: f.write_bytes(f.read_bytes() + b"x"), gone=lambda f: f.unlink(),
               middle=flip)


@pytest.mark.parametrize("damage, name", [
    *((damage, name) for damage in DAMAGES for name in ("images/c.2.0.0.0", "flows/c.2.1.0.0.0")),
    *((damage, "flows/zarr.json") for damage in ("empty", "zeros", "long", "gone"))])
def test_what_is_damaged_is_named_and_repaired(copy, store, clips, damage, name):
    file = clip_folder(copy, "dog") / name
    DAMAGES[damage](file)
    opened = FlowStore(copy)                                            # does not read chunks
    read = (lambda: opened.image(8)) if "images" in name else (lambda: opened.flow(8, 2))
    for attempt in (read, lambda: FlowStore(copy, verify=True)):
        line = refused(attempt, says="checksum .*dog/0000[02].*make_store", error=DamagedStore)
        assert str(file.parent) in line
    others = clip_folder(copy, "cows") / "zarr.json"
    before = others.stat().st_mtime_ns
    make_store(copy, clips, SETTINGS)
    assert contents(copy) == contents(store.folder) and others.stat().st_mtime_ns == before


def test_damaged_flow_of_the_cache_is_computed_again(clips, store, tmp_path, monkeypatch, capsys):
    "Also where the cache can't be written; one that can only be read is used."
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    made = cached_store(find_clips(clips), SETTINGS).folder
    for file in (clip_folder(made, "dog") / "flows/c.3.0.0.0.0", made / "zarr.json"):
        flip(file)
        assert cached_store(find_clips(clips), SETTINGS).folder == made
        assert contents(made) == contents(store.folder)
    assert "damaged" in capsys.readouterr().out
    def read_only(path, wait=True): raise OSError(errno.EROFS, "Read-only file system", str(path))
    with monkeypatch.context() as m:
        m.setattr("gwm_nb.store.locked", read_only)
        assert cached_store(find_clips(clips), SETTINGS).folder == made
    assert capsys.readouterr().out == ""
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "file"))
    assert contents(cached_store(find_clips(clips), SETTINGS).folder) == contents(store.folder)
    assert str(tmp_path / "file") in capsys.readouterr().out


def test_a_full_disk_is_noticed_before_the_start(copy, clips, tmp_path, monkeypatch):
    "Only missing clips need space."
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("gwm_nb.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="needs 0.3 MB, only 0.0 MB are free") as e:
        make_store(tmp_path / "new", clips, SETTINGS)
    assert e.value.errno == errno.ENOSPC and e.value.filename == str(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    shutil.rmtree(clip_folder(copy, "cows"))
    usage.free = 32 * 48 * (3 * 6 + 4 * FLOWS["cows"])
    assert len(make_store(copy, clips, SETTINGS)) == 14


@pytest.mark.parametrize("damage", ["empty", "zeros", "long", "gone", "foreign"])
def test_other_folders_and_damaged_plans_are_refused_and_stay(copy, clips, damage):
    if damage == "foreign": zarr.create_group(copy, attributes=dict(size=2), overwrite=True)
    else: DAMAGES[damage](copy / "zarr.json")
    before = contents(copy)
    refused(FlowStore, copy, says=f"{copy}.*; ", error=(DamagedStore, FileNotFoundError))
    refused(make_store, copy, clips, SETTINGS, says=f"{copy}.*choose another folder")
    assert contents(copy) == before


def test_an_edited_clip_is_computed_again(clips, tmp_path, capsys):
    shutil.copytree(clips, tmp_path / "copy")
    before = make_store(tmp_path / "s", tmp_path / "copy", SETTINGS).flow(6 + 3, 1)
    cows = contents(clip_folder(tmp_path / "s", "cows"))
    frames = sorted((tmp_path / "copy/dog").iterdir())
    shutil.copy(frames[0], frames[4])
    changed = make_store(tmp_path / "s", tmp_path / "copy", SETTINGS)
    assert "dog has changed" in capsys.readouterr().out
    assert torch.equal(changed.image(6 + 4), changed.image(6))
    assert not torch.equal(changed.flow(6 + 3, 1), before)
    assert contents(clip_folder(changed.folder, "cows")) == cows
    shutil.rmtree(tmp_path / "copy/cows")
    refused(make_store, tmp_path / "s", tmp_path / "copy", SETTINGS,
            says="other clips; choose another folder")


def test_what_can_not_be_computed_is_told_before_the_start(clips, tmp_path):
    refused(lambda: plan_store(find_clips(clips), FlowSettings(gaps=(1, -9))),
            says=r"cows: only 6 frame.*-9 needs .*10")
    def fails(*images): raise ValueError("no weights here")  # on black frames, before the start
    refused(lambda: make_store(tmp_path / "s", clips, replace(SETTINGS, method=fails)),
            says="no weights here")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("flow, says", [
    (lambda image: torch.full_like(image, np.nan), "cows/00000: NaN or infinite .* gap 1"),
    (Mock(side_effect=RuntimeError("no memory\nand more")), "cows/00000: .* failed: no memory$")])
def test_an_estimator_that_fails_is_named_with_its_frame(clips, tmp_path, flow, says):
    def estimator(image1, image2): return flow(image1[:, :2]) if image1.any() else image1[:, :2]
    settings = replace(SETTINGS, method=estimator)
    refused(make_store, tmp_path / "s", clips, settings, workers=1, says=says)
    assert [f.name for f in (tmp_path / "s").iterdir()] == ["zarr.json"]


def test_flow_files_are_read_or_named(clips, tmp_path):
    data, flows = tmp_path / "FBMS", tmp_path / "FBMS/Flows_gap3/tennis"
    files = FlowSettings(size=(40, 60), gaps=(3, -3), method="files")
    shutil.copytree(clips / "dog", data / "JPEGImages/tennis")
    for gap in (3, -3):
        folder = data / f"Flows_gap{gap}/tennis"
        folder.mkdir(parents=True)
        for t in range(max(0, -gap), 8 - max(0, gap)):
            write_flo(folder / f"{t:05d}.flo", torch.full((2, 20, 30), t + gap / 10))
    store = make_store(tmp_path / "s", data, files)
    assert store.flow(2, 3).unique().tolist() == pytest.approx([2 * 2.3], abs=.01)
    assert store.flow(5, -3).unique().tolist() == pytest.approx([2 * 4.7], abs=.01)
    for f in flows.iterdir():
        write_flo(f, torch.full((2, 40, 60), 9.))
        os.utime(f, (9, 9))
    assert make_store(tmp_path / "s", data, files).flow(0, 3).unique().tolist() == [9]

    make = lambda: make_store(tmp_path / "t", data, files)
    write_flo(flows / "00004.flo", torch.zeros(2, 24, 30))
    refused(make, says="00004.flo: this flow is 30x24, its frames are 96x64; crop")
    (flows / "00001.flo").unlink()
    refused(make, says="4 flow files .*8 frames, with gap 3 there must be 5; 00001 is missing")
