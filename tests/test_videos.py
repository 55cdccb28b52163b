"Flow stores and data sets where a lesson would be the wrong place: other processes, full disks, commands, reference data."
import errno
import os
import pickle
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gwm_nb import videos
from gwm_nb.files import find_clips, read_image, read_mask
from gwm_nb.flow import estimate_flow, flow_estimators, read_flow, register_estimator, write_flo
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowStore, make_store, shrink
from gwm_nb.videos import GapSamples, VideoFrames, evaluation_samples, gwm_flow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "DAVIS2016 and FBMS in the published layout, with scenes instead of films."
    root = tmp_path_factory.mktemp("data")
    for i, (clip, first, suffix, n) in enumerate([("DAVIS2016/{}/480p/dog", 0, ".jpg", 8), ("DAVIS2016/{}/480p/cows", 0, ".jpg", 6), ("FBMS/{}/tennis", 1, ".png", 9)]):
        scene = MovingScenes(1, seed=14 + i, size=(64, 96)).scene(0)
        frames, masks = root / clip.format("JPEGImages"), root / clip.format("Annotations")
        frames.mkdir(parents=True), masks.mkdir(parents=True)
        for t in range(n):
            cv2.imwrite(str(frames / f"{t + first:05d}{suffix}"), (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
            if "DAVIS" in clip or t % 4 == 0:
                cv2.imwrite(str(masks / f"{t + first:05d}.png"), scene.labels(t).numpy().astype(np.uint8) * 255)
    return root


SETTINGS = dict(size=(32, 48), gaps=(1, 2, -1, -2))


@pytest.fixture(scope="module")
def store(data, tmp_path_factory): return make_store(tmp_path_factory.mktemp("stores") / "davis", data / "DAVIS2016", **SETTINGS)


def contents(folder): return {f.name: f.read_bytes() for f in folder.iterdir()}


def run_flow(capsys, monkeypatch, *argv, cwd):
    "gwm_flow in this process: (what it printed, its last line or None)."
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["gwm_flow", *map(str, argv)])
    try:
        end = gwm_flow()
    except SystemExit as e:
        end = str(e)
        assert "\n" not in end and end.startswith("gwm_flow: "), end
    return capsys.readouterr().out, end


def test_store_holds_what_an_estimator_says(data, store):
    "Row by row, gap by gap: nothing is shifted, swapped or left over."
    frames = [read_image(f).float() / 255 for f in sorted((data / "DAVIS2016/JPEGImages/480p/dog").iterdir())]
    rows = store.clips["dog"]
    assert list(store.clips) == ["cows", "dog"] and len(rows) == 8
    for gap in store.gaps:
        for t in range(8):
            assert store.has(rows[t], gap) == (0 <= t + gap < 8)
            if store.has(rows[t], gap):
                wanted = videos.resize_flow(estimate_flow(frames[t], frames[t + gap]), (32, 48))
                torch.testing.assert_close(store.flow(rows[t], gap).float(), wanted, atol=.01, rtol=1e-3)
    torch.testing.assert_close(store.image(rows[3]).float() / 255, shrink(frames[3], (32, 48)), atol=.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same_bytes(data, store, tmp_path, workers):
    make_store(tmp_path / "again", data / "DAVIS2016", workers=workers, **SETTINGS)
    assert contents(tmp_path / "again") == contents(store.folder)


def written(folder):
    "How many rows of a store have a checksum."
    try:
        return int((np.load(folder / "checksums.npy") > 0).sum())
    except (OSError, ValueError):
        return 0


def test_several_programs_at_once(data, store, tmp_path):
    "One fills the store, the others wait and find it done."
    code = f"from gwm_nb.videos import make_store; make_store({str(tmp_path / 's')!r}, {str(data / 'DAVIS2016')!r}, **{SETTINGS!r})"
    programs = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(p.wait(), "Error" in p.stderr.read()) for p in programs] == [(0, False)] * 3
    assert contents(tmp_path / "s") == contents(store.folder) and [f.name for f in tmp_path.iterdir()] == ["s"]


def test_killed_again_and_again(data, store, tmp_path):
    "SIGKILL at growing ages, then a run to the end: the same bytes, no file left over."
    code = f"from gwm_nb.videos import make_store; make_store({str(tmp_path / 'k')!r}, {str(data / 'DAVIS2016')!r}, **{SETTINGS!r})"
    unfinished = 0
    for share in (.1, .6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        while process.poll() is None and written(tmp_path / "k") < share * 58:
            time.sleep(.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        unfinished += share * 58 <= written(tmp_path / "k") < 58
    assert unfinished
    make_store(tmp_path / "k", data / "DAVIS2016", **SETTINGS)
    assert contents(tmp_path / "k") == contents(store.folder)


def test_finishing_computes_only_what_is_missing(data, store, tmp_path, monkeypatch):
    make_store(tmp_path / "s", data / "DAVIS2016", **SETTINGS)
    sums = np.load(tmp_path / "s/checksums.npy", mmap_mode="r+")
    sums[3, 1] = sums[9, 4] = 0
    sums.flush()
    calls, dis = [], flow_estimators["dis"]
    monkeypatch.setitem(flow_estimators, "dis", lambda a, b, preset="medium": calls.append(len(a)) or dis(a, b, preset))
    make_store(tmp_path / "s", data / "DAVIS2016", **SETTINGS)
    assert sum(calls) == 2 and contents(tmp_path / "s") == contents(store.folder)


@pytest.mark.parametrize("file", ["images.npy", "flow_1.npy", "flow_-2.npy", "checksums.npy", "store.json"])
def test_any_flipped_bit_is_found_and_mended(data, store, tmp_path, file):
    make_store(tmp_path / "s", data / "DAVIS2016", **SETTINGS)
    raw = bytearray((tmp_path / "s" / file).read_bytes())
    raw[len(raw) // 2 + 5] ^= 16
    (tmp_path / "s" / file).write_bytes(raw)
    with pytest.raises(ValueError, match=r"damaged (flow store: the .* of (dog|cows)/0000\d is not what was written \(1 of|description)"):
        FlowStore(tmp_path / "s", verify=True)
    if file == "store.json":
        return
    make_store(tmp_path / "s", data / "DAVIS2016", **SETTINGS)
    assert contents(tmp_path / "s") == contents(store.folder)


@pytest.mark.parametrize("damage", [lambda f: (f / "flow_1.npy").unlink(), lambda f: (f / "flow_1.npy").write_bytes(b""), lambda f: (f / "store.json").write_text("{"),
                                    lambda f: (f / "store.json").write_text('{"version": 1}'), lambda f: np.save(f / "images.npy", np.zeros((3, 3)))])
def test_broken_files_are_named(data, tmp_path, damage):
    make_store(tmp_path / "s", data / "DAVIS2016", **SETTINGS)
    damage(tmp_path / "s")
    with pytest.raises(ValueError, match="damaged"):
        FlowStore(tmp_path / "s")


def test_a_changed_frame_gets_new_flow(data, tmp_path, capsys):
    import shutil
    shutil.copytree(data / "DAVIS2016", tmp_path / "copy")
    make_store(tmp_path / "s", tmp_path / "copy", **SETTINGS)
    frames = sorted((tmp_path / "copy/JPEGImages/480p/dog").iterdir())
    shutil.copy(frames[0], frames[4])
    changed = make_store(tmp_path / "s", tmp_path / "copy", **SETTINGS)
    assert "frames of dog have changed" in capsys.readouterr().out
    torch.testing.assert_close(changed.image(changed.clips["dog"][4]), changed.image(changed.clips["dog"][0]))
    frames[5].unlink()
    with pytest.raises(ValueError, match="other clips or frames"):
        make_store(tmp_path / "s", tmp_path / "copy", **SETTINGS)


def test_nothing_of_the_user_is_ever_removed(data, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir(), (tmp_path / "mine/film.mp4.part").write_bytes(b"half")
    with pytest.raises(ValueError, match="neither empty nor a flow store"):
        make_store(tmp_path / "mine", data / "DAVIS2016", **SETTINGS)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(videos.shutil, "disk_usage", lambda _: type("Usage", (), dict(free=0)))
    with pytest.raises(OSError, match="0.0 MB are free"):
        make_store(tmp_path / "empty", data / "DAVIS2016", **SETTINGS)
    assert (tmp_path / "mine/film.mp4.part").read_bytes() == b"half" and list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("value, message", [(float("nan"), "cows/00000: the flow with gap 1 has values that are no numbers"), (1e6, "beyond 65504")])
def test_flow_that_is_no_number_is_named(data, tmp_path, value, message):
    @register_estimator("strange")
    def strange(image1, image2, **options): return torch.full_like(image1[:, :2], value if image1.any() else 0.)

    try:
        with pytest.raises(ValueError, match=message):
            make_store(tmp_path / "s", data / "DAVIS2016", method="strange", anything=3, workers=1, **SETTINGS)
    finally:
        del flow_estimators["strange"]


def test_a_link_is_the_data_set_it_is_named_after(data, tmp_path):
    (tmp_path / "FBMS").symlink_to(data / "FBMS")
    (data / "FBMS").rename(data / "fbms_version_2"), (tmp_path / "FBMS").unlink(), (tmp_path / "FBMS").symlink_to(data / "fbms_version_2")
    try:
        assert len(evaluation_samples("FBMS", tmp_path, size=(32, 48), clips=["tennis"])) == 3
        assert videos._sources(str(tmp_path / "FBMS"), "data") == {"FBMS": (tmp_path / "FBMS", (3, 6, -3, -6))}
    finally:
        (data / "fbms_version_2").rename(data / "FBMS")


def test_folders_that_are_not_what_they_seem(data, tmp_path):
    import shutil
    frames = data / "DAVIS2016/JPEGImages/480p/dog"
    for name in ("clips/run.1", "clips/run.2", "clips/dog/frames", "clips/dog/masks"):
        shutil.copytree(frames, tmp_path / name)
    shutil.copy(frames / "00000.jpg", tmp_path / "clips/poster.jpg")
    assert [c.name for c in find_clips(tmp_path / "clips")] == ["dog/frames", "run.1", "run.2"]
    assert list(videos._sources(str(tmp_path / "clips/run.2"), "data")) == ["run.2"]


def test_a_picture_that_lies_on_its_side(tmp_path):
    from PIL import Image
    (tmp_path / "c").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for t in range(2):
        Image.fromarray(np.random.default_rng(t).integers(0, 255, (64, 96, 3), np.uint8)).save(tmp_path / f"c/{t}.jpg", exif=exif)
    assert VideoFrames(tmp_path / "c").store.size == videos.working_size((96, 64))


def test_a_video_that_is_cut_off_says_so(tmp_path, capsys):
    import av
    with av.open(str(tmp_path / "whole.avi"), "w") as out:
        stream = out.add_stream("mjpeg", rate=25, width=96, height=64, pix_fmt="yuvj420p")
        for t in range(30):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.random.default_rng(t).integers(0, 255, (64, 96, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode())
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[:len(data) // 2])
    assert len(VideoFrames(tmp_path / "whole.avi")) == 30 and "cut off" not in capsys.readouterr().out
    assert len(VideoFrames(tmp_path / "cut.avi")) < 20 and "of 30 frames can be decoded" in capsys.readouterr().out


def test_stores_of_the_command_are_used_for_training(data, tmp_path, capsys, monkeypatch):
    run_flow(capsys, monkeypatch, "DAVIS+FBMS", "--data", data, cwd=tmp_path)
    stores = [FlowStore(tmp_path / f"{n}-flow") for n in ("DAVIS2016", "FBMS")]
    assert stores[0].size == stores[1].size
    samples = videos.training_samples("DAVIS+FBMS", data, stores=tmp_path)
    assert len(samples) == 23 and samples.datasets[1].store.folder == tmp_path / "FBMS-flow"
    with pytest.raises(ValueError, match="has no gap 5"):
        GapSamples(stores[0], gaps=(1, 5))


def test_published_files_that_change_are_read_again(data, tmp_path):
    import shutil
    shutil.copytree(data / "FBMS", tmp_path / "FBMS")
    (tmp_path / "FBMS/Flows_gap3/tennis").mkdir(parents=True)
    for value in (1., 9.):
        for t in range(1, 7):
            write_flo(tmp_path / f"FBMS/Flows_gap3/tennis/{t:05d}.flo", torch.full((2, 32, 48), value))
        store = make_store(tmp_path / "s", tmp_path / "FBMS", size=(32, 48), gaps=(3,), method="files")
        assert store.flow(0, 3).unique().tolist() == [value]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_share_a_store(store, context):
    loader = DataLoader(GapSamples(store, both=True), 7, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    assert sum(len(b["image"]) for b in batches) == 14 and batches[0]["flow2"].shape == (7, 2, 32, 48)
    assert len(pickle.dumps(store)) < 1000


def test_workers_draw_different_samples(store):
    torch.manual_seed(0)
    names = [tuple(b["name"]) for b in DataLoader(GapSamples(store), 7, num_workers=2)]
    assert names[0] != names[1]


def test_full_disk_before_the_start(data, tmp_path, monkeypatch):
    monkeypatch.setattr(videos.shutil, "disk_usage", lambda _: type("Usage", (), dict(free=1000)))
    with pytest.raises(OSError, match="the flow needs 0.4 MB, only 0.0 MB are free") as e:
        make_store(tmp_path / "s", data / "DAVIS2016", **SETTINGS)
    assert e.value.errno == errno.ENOSPC and not (tmp_path / "s").exists()


def test_full_disk_on_the_way_is_resumed(data, store, tmp_path, monkeypatch):
    put = videos._Writer.put
    left = iter(range(20))

    def put_until_full(self, *row):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, *row)

    monkeypatch.setattr(videos._Writer, "put", put_until_full)
    with pytest.raises(OSError, match="No space left") as e:
        make_store(tmp_path / "s", data / "DAVIS2016", workers=1, **SETTINGS)
    assert e.value.filename == str(tmp_path / "s")
    monkeypatch.undo()
    assert 0 < (np.load(tmp_path / "s/checksums.npy") > 0).sum() <= 20
    make_store(tmp_path / "s", data / "DAVIS2016", **SETTINGS)
    assert contents(tmp_path / "s") == contents(store.folder)


def test_a_batched_estimator_gives_what_it_gives_alone(data, tmp_path):
    @register_estimator("difference")
    def difference(image1, image2): return (image2 - image1)[:, :2] * 50

    try:
        one, many = (make_store(tmp_path / str(n), data / "DAVIS2016", method="difference", batch=n, **SETTINGS) for n in (1, 5))
        assert contents(one.folder) == contents(many.folder)
    finally:
        del flow_estimators["difference"]


def test_published_flow_files(data, tmp_path):
    import shutil
    shutil.copytree(data / "FBMS", tmp_path / "FBMS")
    frames = sorted((tmp_path / "FBMS/JPEGImages/tennis").iterdir())
    for gap in (3, -3):
        (tmp_path / f"FBMS/Flows_gap{gap}/tennis").mkdir(parents=True)
        for t, f in enumerate(frames):
            if 0 <= t + gap < 9:
                write_flo(tmp_path / f"FBMS/Flows_gap{gap}/tennis/{f.stem}.flo", torch.full((2, 20, 30), t + gap / 10))
    store = make_store(tmp_path / "s", tmp_path / "FBMS", size=(40, 60), gaps=(3, -3), method="files")
    assert store.names[2] == "tennis/00003"
    torch.testing.assert_close(store.flow(2, 3), torch.full((2, 40, 60), 2 * 2.3, dtype=torch.float16))
    torch.testing.assert_close(store.flow(5, -3), torch.full((2, 40, 60), 2 * 4.7, dtype=torch.float16))
    (tmp_path / "FBMS/Flows_gap3/tennis/00004.flo").write_bytes(b"PIEH")
    with pytest.raises(ValueError, match="00004.flo: truncated"):
        make_store(tmp_path / "other", tmp_path / "FBMS", size=(40, 60), gaps=(3, -3), method="files")
    shutil.copy(tmp_path / "FBMS/Flows_gap-3/tennis/00009.flo", tmp_path / "FBMS/Flows_gap3/tennis")
    with pytest.raises(ValueError, match="7 flow files for 9 frames, with gap 3 there must be 6; 00009 is too many"):
        make_store(tmp_path / "other", tmp_path / "FBMS", size=(40, 60), gaps=(3, -3), method="files")


def test_command_makes_each_data_set_with_its_gaps(data, tmp_path, capsys, monkeypatch):
    out, end = run_flow(capsys, monkeypatch, "DAVIS+FBMS", "--data", data, "--size", "32x48", "--workers", 2, cwd=tmp_path)
    assert end is None and "2 clips, 14 frames, 44 flows of gaps 1 2 -1 -2 by dis at 32x48" in out and "1 clip, 9 frames, 18 flows of gaps 3 6 -3 -6" in out
    assert sorted(f.name for f in tmp_path.iterdir()) == ["DAVIS2016-flow", "FBMS-flow"] and out.count("every row verified") == 2
    assert FlowStore(tmp_path / "FBMS-flow", verify=True).gaps == (3, 6, -3, -6)
    before = contents(tmp_path / "DAVIS2016-flow")
    run_flow(capsys, monkeypatch, "DAVIS", "--data", data, "--size", "32x48", cwd=tmp_path)
    assert contents(tmp_path / "DAVIS2016-flow") == before


@pytest.mark.parametrize("argv, message", [
    (["nowhere"], "nowhere: no such clip"), (["DAVIS+KITTI"], "unknown data set 'KITTI'"), (["DAVIS+STv2", "--data", "DATA"], "no folder SegTrackv2 or STv2 for STv2"),
    (["CLIP", "--gaps", "0"], "other than 0"), (["CLIP", "--gaps", "9"], "flow with gap 9 needs at least 10"), (["CLIP", "--gaps", "1", "1"], "different numbers"),
    (["CLIP", "--gaps", "one"], "invalid int"), (["CLIP", "--method", "magic"], "unknown flow method 'magic'"), (["CLIP", "--preset", "slow"], "unknown DIS preset 'slow'"),
    (["CLIP", "--method", "raft", "--preset", "fast"], "no option 'preset'"), (["CLIP", "--method", "raft", "--weights", "none.pth"], "none.pth: no such weights file"),
    (["CLIP", "--method", "files"], "no flow files of gap 1"), (["CLIP", "--size", "32"], "HEIGHTxWIDTH"), (["CLIP", "--size", "8x8"], "too small"),
    (["CLIP", "--resample", "lanczos"], "unknown resampling"), (["CLIP", "--workers", "0"], "workers must be at least 1"), (["CLIP", "--batch", "0"], "batch must be"),
    (["CLIP", "--longest", "0"], "longest must be"), (["CLIP", "--out", "DATA"], "neither empty nor a flow store"), (["CLIP", "--out", "/proc/gwm"], "/proc"),
    ([], "required: source"), (["CLIP", "--verify"], "unrecognized arguments")])
def test_wrong_input_gives_one_line_and_leaves_nothing(data, tmp_path, capsys, monkeypatch, argv, message):
    names = {"DATA": data, "CLIP": data / "DAVIS2016/JPEGImages/480p/dog"}
    out, end = run_flow(capsys, monkeypatch, *[names.get(a, a) for a in argv], cwd=tmp_path)
    assert message in str(end)
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []


def test_annotations_that_are_missing_or_unreadable(data, tmp_path):
    import shutil
    shutil.copytree(data, tmp_path / "data")
    masks = tmp_path / "data/DAVIS2016/Annotations/480p"
    settings = dict(data=tmp_path / "data", size=(32, 48), clips=["dog"])
    assert len(evaluation_samples("DAVIS", **settings)) == 8
    assert [s["name"] for s in evaluation_samples("FBMS", **settings | dict(clips=["tennis"]))] == ["tennis/00001", "tennis/00005", "tennis/00009"]
    (masks / "dog/00003.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match="00003.png: not a readable image"):
        list(evaluation_samples("DAVIS", **settings))
    (masks / "dog/00003.png").unlink()
    with pytest.raises(ValueError, match=r"frame 00003 has no annotation \(7 of 8"):
        evaluation_samples("DAVIS", **settings)
    shutil.rmtree(masks / "dog")
    with pytest.raises(ValueError, match="dog: no annotations for this clip"):
        evaluation_samples("DAVIS", **settings)


def test_training_never_sees_a_label(data):
    samples = videos.training_samples("DAVIS+FBMS", data, size=(32, 48), both=True)
    assert len(samples) == 23 and all(set(s) == {"image", "flow", "flow2", "name"} for s in samples)


def test_evaluation_item_is_the_published_one(golden, tmp_path):
    z = np.load(golden / "dataset_eval_item.npz")
    for name, pixels in (("JPEGImages/480p/clip/{}.png", z["jpg"][..., ::-1]), ("Annotations/480p/clip/{}.png", z["ann"])):
        for t in range(2):
            file = tmp_path / "DAVIS2016" / name.format(f"{t:05d}")
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), pixels)
    size = (int(z["height"]), int(z["width"]))
    item = evaluation_samples("DAVIS", tmp_path, size=size, clips=["clip"], resample="published")[0]
    assert np.abs(item["image"].numpy() * 255 - z["rgb"].clip(0, 255)).max() <= .5 + 1e-4         # a store keeps 8 bits
    np.testing.assert_array_equal(item["mask"].numpy(), z["sem_seg_ori"])
    np.testing.assert_allclose(shrink(torch.from_numpy(z["jpg"]).permute(2, 0, 1), size, "published").numpy() * 255, z["rgb"].clip(0, 255), atol=2e-4)


def test_davis_is_found_and_annotated(shared):
    clips = find_clips(shared / "data/DAVIS2016")
    assert len(clips) == 12 and sum(len(list(c.path.iterdir())) for c in clips) == 801
    assert all(read_mask(c.masks / "00000.png").max() == 1 for c in clips)


def test_flow_of_real_frames_agrees_with_raft(shared):
    "DIS on the frames that the published RAFT flow was computed from: half of the pixels within a quarter of a pixel."
    folder = shared / "data/raft_flow/tennis"
    for t in (1, 2, 3):
        first, second = (read_image(folder / f"{n:04d}.png").float() / 255 for n in (t, t + 1))
        difference = (estimate_flow(first, second) - read_flow(folder / f"{t:04d}.flo")).norm(dim=0)
        assert difference.median() < .25


def test_video_frames_over_a_whole_data_set(data, store):
    frames = VideoFrames(data / "DAVIS2016", (32, 48), gaps=(1, -1), masks=True)
    assert len(frames) == 14 and all(s["mask"].shape == (64, 96) for s in frames)
    torch.testing.assert_close(frames[7]["flow"], store.flow(7, 1).float())
    torch.testing.assert_close(frames[13]["flow"], store.flow(13, -1).float())        # the last frame has no next one
    assert VideoFrames(store.folder)[7]["name"] == "dog/00001"


def test_process_ends_with_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-c", "from gwm_nb.videos import gwm_flow; gwm_flow()", "nowhere"], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1 and done.stderr.startswith("gwm_flow: nowhere: no such clip") and len(done.stderr.strip().splitlines()) == 1
