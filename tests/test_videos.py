"Clips and data sets where a lesson would be the wrong place: wrong input, commands, reference data."
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gwm_nb import videos
from gwm_nb.files import find_clips, read_image, read_mask
from gwm_nb.flow import DIS, estimate_flow, read_flow
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowSettings, FlowStore, make_store, shrink
from gwm_nb.commands import gwm_flow
from gwm_nb.videos import GapSamples, VideoFrames, evaluation_samples


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


SIZE = FlowSettings(size=(32, 48))
SETTINGS = FlowSettings(size=(32, 48), gaps=(1, 2, -1, -2))


@pytest.fixture(scope="module")
def store(data, tmp_path_factory): return make_store(tmp_path_factory.mktemp("stores") / "davis", data / "DAVIS2016", SETTINGS)


def contents(folder): return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


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


def test_a_link_is_the_data_set_it_is_named_after(data, tmp_path):
    (tmp_path / "FBMS").symlink_to(data / "FBMS")
    (data / "FBMS").rename(data / "fbms_version_2"), (tmp_path / "FBMS").unlink(), (tmp_path / "FBMS").symlink_to(data / "fbms_version_2")
    try:
        assert len(evaluation_samples("FBMS", tmp_path, SIZE, clips=["tennis"])) == 3
        assert videos.flow_sources(str(tmp_path / "FBMS"), "data") == {"FBMS": (tmp_path / "FBMS", (3, 6, -3, -6))}
    finally:
        (data / "fbms_version_2").rename(data / "FBMS")


def test_folders_that_are_not_what_they_seem(data, tmp_path):
    frames = data / "DAVIS2016/JPEGImages/480p/dog"
    for name in ("clips/run.1", "clips/run.2", "clips/dog/frames", "clips/dog/masks"):
        shutil.copytree(frames, tmp_path / name)
    shutil.copy(frames / "00000.jpg", tmp_path / "clips/poster.jpg")
    assert [c.name for c in find_clips(tmp_path / "clips")] == ["dog/frames", "run.1", "run.2"]
    assert list(videos.flow_sources(str(tmp_path / "clips/run.2"), "data")) == ["run.2"]


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


def test_workers_draw_different_samples(store):
    torch.manual_seed(0)
    names = [tuple(b["name"]) for b in DataLoader(GapSamples(store), 7, num_workers=2)]
    assert names[0] != names[1]


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
    (["CLIP", "--method", "raft", "--preset", "fast"], "no option 'preset'"), (["CLIP", "--method", "raft", "--weights", "none.pth"], "none.pth: no such"),
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
    shutil.copytree(data, tmp_path / "data")
    masks = tmp_path / "data/DAVIS2016/Annotations/480p"
    settings = dict(data=tmp_path / "data", settings=SIZE, clips=["dog"])
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
    samples = videos.training_samples("DAVIS+FBMS", data, SIZE, both=True)
    assert len(samples) == 23 and all(set(s) == {"image", "flow", "flow2", "name"} for s in samples)


def test_evaluation_item_is_the_published_one(golden, tmp_path):
    z = np.load(golden / "dataset_eval_item.npz")
    for name, pixels in (("JPEGImages/480p/clip/{}.png", z["jpg"][..., ::-1]), ("Annotations/480p/clip/{}.png", z["ann"])):
        for t in range(2):
            file = tmp_path / "DAVIS2016" / name.format(f"{t:05d}")
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), pixels)
    size = (int(z["height"]), int(z["width"]))
    item = evaluation_samples("DAVIS", tmp_path, FlowSettings(size=size, resample="published"), clips=["clip"])[0]
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
    frames = VideoFrames(data / "DAVIS2016", SIZE, masks=True)
    assert len(frames) == 14 and all(s["mask"].shape == (64, 96) for s in frames)
    torch.testing.assert_close(frames[7]["flow"], store.flow(7, 1).float())
    torch.testing.assert_close(frames[13]["flow"], store.flow(13, -1).float())        # the last frame has no next one
    assert VideoFrames(store.folder)[7]["name"] == "dog/00001"


def test_process_ends_with_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-c", "from gwm_nb.commands import gwm_flow; gwm_flow()", "nowhere"], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1 and done.stderr.startswith("gwm_flow: nowhere: no such clip") and len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def drift(data): return data / "DAVIS2016/JPEGImages/480p/dog"


@pytest.mark.parametrize("settings, message", [
    (dict(gaps=(1, 2, -1)), r"a sample has at most two flows; gaps are \(1, 2, -1\)"), (dict(gaps=(9,)), "flow with gap 9 needs at least 10"),
    (dict(gaps=(5,)), "frame dog/00003 has no flow of any of the gaps .5,.; the clip is too short")])
def test_gaps_that_do_not_fit_a_clip(drift, settings, message):
    with pytest.raises(ValueError, match=message): VideoFrames(drift, FlowSettings(size=(32, 48), **settings))


def test_a_clip_of_one_frame(drift, tmp_path):
    (tmp_path / "single").mkdir()
    shutil.copy(drift / "00000.jpg", tmp_path / "single")
    with pytest.raises(ValueError, match=r"single: only 1 frame\(s\); flow with gap 1 needs at least 2"): VideoFrames(tmp_path / "single")


def test_frames_at_the_ends_have_the_flow_that_exists(drift):
    frames = VideoFrames(drift, FlowSettings(size=(32, 48), gaps=(2,)))
    assert frames.names == frames.store.names and frames.names[7] == "dog/00007" and frames.gaps == (2,)
    assert set(frames[7]) == {"image", "flow", "name"}
    torch.testing.assert_close(frames[7]["flow"], frames.store.flow(7, -2).float())
    torch.testing.assert_close(frames[-1]["flow"], frames[7]["flow"])
    with pytest.raises(IndexError, match="frame 8 of 8"): frames[8]


def test_annotations_that_do_not_belong(drift, data, tmp_path):
    with pytest.raises(ValueError, match="no annotations for this clip"): VideoFrames(drift, SIZE, masks=True)
    with pytest.raises(FileNotFoundError, match="no such folder"): VideoFrames(drift, SIZE, masks=tmp_path / "none")
    (tmp_path / "sorting").mkdir()
    shutil.copy(data / "DAVIS2016/Annotations/480p/dog/00000.png", tmp_path / "sorting/a.png")
    with pytest.raises(ValueError, match="none of its 1 annotations is named after a frame"): VideoFrames(drift, SIZE, masks=tmp_path / "sorting")
    shutil.copy(data / "DAVIS2016/Annotations/480p/dog/00000.png", tmp_path / "sorting/00004.png")
    labelled = VideoFrames(drift, SIZE, masks=tmp_path / "sorting")
    assert ["mask" in s for s in labelled] == [False] * 4 + [True] + [False] * 3


@pytest.mark.parametrize("options, message", [
    (dict(settings=FlowSettings(size=(48, 64))), "has frames of 32x48, not 48x64"), (dict(settings=FlowSettings(gaps=(3,))), "has no gap 3; it has 1, 2, -1, -2"),
    (dict(settings=FlowSettings(method=DIS("fast"))), "is taken as it is"), (dict(clips=["dog"]), "is taken as it is"), (dict(masks=True), "has no annotations")])
def test_a_store_is_taken_as_it_is(store, options, message):
    with pytest.raises(ValueError, match=message): VideoFrames(store.folder, **options)


def test_a_store_brings_its_settings(store):
    assert VideoFrames(store.folder).gaps == (1, -1) and VideoFrames(store.folder, FlowSettings((32, 48), (2,))).gaps == (2,)
    torch.testing.assert_close(VideoFrames(store.folder)[5]["flow2"], store.flow(5, -1).float())


def test_pairs_need_two_gaps_and_a_long_clip(data, tmp_path):
    frames = data / "DAVIS2016/JPEGImages/480p/cows"
    with pytest.raises(ValueError, match="at least two gaps"): GapSamples(make_store(tmp_path / "one", frames, FlowSettings((32, 48), (1,))))
    with pytest.raises(ValueError, match="no clip is long enough for two of the gaps"):
        GapSamples(make_store(tmp_path / "long", frames, FlowSettings((32, 48), (3, -3))))
    samples = GapSamples(make_store(tmp_path / "two", frames, FlowSettings((32, 48), (-1, 2))))
    assert list(samples.pairs) == [(2, -1)] and len(samples) == 6
    with pytest.raises(IndexError, match="sample 6 of 6"): samples[6]


def test_pairs_are_drawn_where_both_flows_exist(store):
    samples = GapSamples(store, both=True)
    assert [(store.names[r[0]], store.names[r[-1]]) for r in samples.pairs[1, -2]] == [("cows/00002", "cows/00004"), ("dog/00002", "dog/00006")]
    assert all(store.has(row, g) for pair, clips in samples.pairs.items() for rows in clips for row in rows for g in pair)


def test_data_sets_that_are_not_there(data):
    with pytest.raises(ValueError, match="no clip 'blackswan'; it has cows, dog"): evaluation_samples("DAVIS", data, SIZE)
    with pytest.raises(ValueError, match="unknown data set 'KITTI'; choose from DAVIS, FBMS, STv2, MoCA, joined by"): videos.find_data_sets("DAVIS+KITTI", data)
    with pytest.raises(FileNotFoundError, match="no folder SegTrackv2 or STv2 for STv2"): videos.find_data_sets("DAVIS+STv2", data)


def test_a_store_of_version_1_is_refused_everywhere(tmp_path, capsys, monkeypatch, drift):
    (tmp_path / "dog-flow").mkdir()
    (tmp_path / "dog-flow/store.json").write_text("{}")
    with pytest.raises(ValueError, match="a flow store of version 1, not read any more; make it again in another folder"): VideoFrames(tmp_path / "dog-flow")
    assert "version 1" in run_flow(capsys, monkeypatch, drift, cwd=tmp_path)[1]
    assert [f.name for f in tmp_path.rglob("*")] == ["dog-flow", "store.json"]
