"Clips and data sets where a lesson is the wrong place: wrong input, commands, reference data."
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gwm_nb.commands import gwm_flow
from gwm_nb.datasets import GapSamples, training_samples
from gwm_nb.flow import DIS
from gwm_nb.scenes import MovingScenes
from gwm_nb.sources import evaluation_samples
from gwm_nb.store import FlowSettings, FlowStore, make_store, shrink
from gwm_nb.videos import VideoFrames
from inputs import contents, frame_pixels, refused, write_davis, write_frames, write_scene


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "DAVIS2016 and FBMS in the published layout, with scenes instead of videos."
    root = write_davis(tmp_path_factory.mktemp("data"), ("cows",))
    davis = [root / f"DAVIS2016/{kind}/480p/dog" for kind in ("JPEGImages", "Annotations")]
    write_scene(*davis, n=8, seed=15, suffix=".jpg")
    scene = MovingScenes(1, seed=16, size=(64, 96)).scene(0)
    frames = [frame_pixels(scene, t) for t in range(9)]
    write_frames(root / "FBMS/JPEGImages/tennis", frames, first=1)
    for t in (0, 4, 8):
        mask = scene.labels(t).numpy().astype(np.uint8) * 255
        write_frames(root / "FBMS/Annotations/tennis", [mask], first=t + 1)
    return root


SIZE = FlowSettings(size=(32, 48))
SETTINGS = FlowSettings(size=(32, 48), gaps=(1, 2, -1, -2))


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "davis", data / "DAVIS2016", SETTINGS)


@pytest.fixture(scope="module")
def drift(data): return data / "DAVIS2016/JPEGImages/480p/dog"


def test_command_makes_each_data_set_with_its_gaps(data, tmp_path, call):
    argv = "--data", data, "--size", "32x48"
    out, end = call(gwm_flow, "DAVIS+FBMS", *argv, "--workers", 2, cwd=tmp_path)
    assert end is None and out.count("every row verified") == 2
    assert "2 clips, 14 frames, 44 flows of gaps 1 2 -1 -2 by dis at 32x48" in out
    assert "1 clip, 9 frames, 18 flows of gaps 3 6 -3 -6" in out
    assert sorted(f.name for f in tmp_path.iterdir()) == ["DAVIS2016-flow", "FBMS-flow"]
    stores = [FlowStore(tmp_path / f"{n}-flow", verify=True) for n in ("DAVIS2016", "FBMS")]
    assert [len(GapSamples(store)) for store in stores] == [14, 9]
    refused(GapSamples, stores[0], gaps=(1, 5), says="gap 5")
    before = contents(stores[0].folder)
    call(gwm_flow, "DAVIS", *argv)
    assert contents(stores[0].folder) == before


@pytest.mark.parametrize("argv, says", [
    ("nowhere", "nowhere: no such"), ("DAVIS+KITTI", "'KITTI'"), ("CLIP --method magic", "'magic'"),
    ("CLIP --gaps 1 1", "gaps"), ("CLIP --size 8x8", "8x8"), ("CLIP --longest 0", "longest"),
    ("CLIP --resample lanczos", "lanczos"), ("CLIP --method raft --preset fast", "'preset'"),
    ("CLIP --method raft --weights none.pth", "none.pth"), ("CLIP --method files", "gap 1"),
    ("CLIP --size 32", "HEIGHTxWIDTH"), ("CLIP --workers 0", "workers"),
    ("CLIP --out DATA", "flow store"), ("", "source is missing"), ("CLIP --verify", "--verify")])
def test_wrong_input_gives_one_line_and_leaves_nothing(data, drift, tmp_path, call, argv, says):
    argv = [{"DATA": data, "CLIP": drift}.get(a, a) for a in argv.split()]
    _, end = call(gwm_flow, *argv, cwd=tmp_path)
    assert says in end, end
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []


def test_training_never_sees_a_label_nor_what_is_held_out(data):
    samples = training_samples("DAVIS+FBMS", data, SIZE, both=True)
    keys = {"image", "flow", "flow2", "name"}
    assert len(samples) == 23 and all(set(s) == keys for s in samples)
    samples = training_samples("DAVIS", data, SIZE, held_out=["dog"])
    assert {samples[i % 14]["name"].split("/")[0] for i in range(30)} == {"cows"}
    samples = evaluation_samples("FBMS", data, SIZE, clips=["tennis"])
    assert [s["name"] for s in samples] == [f"tennis/0000{t}" for t in (1, 5, 9)]
    samples = evaluation_samples("FBMS", data, SIZE, clips=["tennis"], labels=False)
    assert len(samples) == 9 and not any("mask" in sample for sample in samples)
    assert samples.gaps == (3,)


def test_evaluation_item_is_the_published_one(golden, tmp_path):
    z = np.load(golden / "dataset_eval_item.npz")
    size, published = (int(z["height"]), int(z["width"])), z["rgb"].clip(0, 255)
    for kind, pixels in (("JPEGImages", z["jpg"]), ("Annotations", z["ann"])):
        write_frames(tmp_path / f"DAVIS2016/{kind}/480p/clip", [pixels] * 2)
    settings = FlowSettings(size=size, resample="published")
    item = evaluation_samples("DAVIS", tmp_path, settings, clips=["clip"])[0]
    off = np.abs(item["image"].numpy() * 255 - published).max()
    assert off <= .5 + 1e-4                                                # a store keeps 8 bits
    np.testing.assert_array_equal(item["mask"].numpy(), z["sem_seg_ori"])
    image = shrink(torch.from_numpy(z["jpg"]).permute(2, 0, 1), size, "published")
    np.testing.assert_allclose(image.numpy() * 255, published, atol=2e-4)


def test_video_frames_over_a_whole_data_set(data, store):
    frames = VideoFrames(data / "DAVIS2016", SIZE, masks=True)
    assert len(frames) == 14 and all(s["mask"].shape == (64, 96) for s in frames)
    torch.testing.assert_close(frames[7]["flow"], store.flow(7, 1).float())
    torch.testing.assert_close(frames[13]["flow"], store.flow(13, -1).float())      # the last
    assert VideoFrames(store.folder)[7]["name"] == "dog/00001"
    assert VideoFrames(store.folder, FlowSettings((32, 48), (2,))).gaps == (2,)


def test_annotations_of_some_frames(drift, data, tmp_path):
    shutil.copy(data / "DAVIS2016/Annotations/480p/dog/00000.png", tmp_path / "a.png")
    refused(VideoFrames, drift, SIZE, masks=tmp_path, says="none of its 1 annotations")
    (tmp_path / "a.png").rename(tmp_path / "00004.png")
    labelled = ["mask" in s for s in VideoFrames(drift, SIZE, masks=tmp_path)]
    assert labelled == [False] * 4 + [True] + [False] * 3


def frames_of(*gaps): return dict(settings=FlowSettings(size=(32, 48), gaps=gaps))


@pytest.mark.parametrize("where, options, says", [
    ("drift", frames_of(1, 2, -1), r"at most two flows.*\(1, 2, -1\)"),
    ("drift", frames_of(9), "needs at least 10"), ("drift", frames_of(5), "dog/00003 .*5,"),
    ("drift", dict(masks=True), "dog"), ("drift", dict(masks="none"), "none"),
    ("store", dict(settings=FlowSettings(size=(48, 64))), "32x48, not 48x64"),
    ("store", frames_of(3), "gap 3; it has 1, 2, -1, -2"), ("store", dict(clips=["dog"]), "cannot"),
    ("store", dict(settings=FlowSettings(method=DIS("fast"))), "cannot be changed"),
    ("store", dict(masks=True), "no annotations")])
def test_what_a_clip_or_a_store_does_not_have(drift, store, where, options, says):
    place = dict(drift=drift, store=store.folder)[where]
    refused(VideoFrames, place, **options, says=says, error=(ValueError, FileNotFoundError))


def test_pairs_are_drawn_where_both_flows_exist(store):
    torch.manual_seed(0)
    names = [tuple(b["name"]) for b in DataLoader(GapSamples(store), 7, num_workers=2)]
    assert names[0] != names[1]
    pairs = GapSamples(store, both=True).pairs[1, -2]
    ends = [(store.names[rows[0]], store.names[rows[-1]]) for rows in pairs]
    assert ends == [("cows/00002", "cows/00004"), ("dog/00002", "dog/00006")]
