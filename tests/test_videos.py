"Clips and data sets where a lesson is the wrong place: wrong input, commands, reference data."
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gwm_nb import datasets
from gwm_nb.files import find_clips, read_image, read_mask
from gwm_nb.flow import DIS, estimate_flow
from gwm_nb.flow_files import read_flow
from gwm_nb.store import FlowSettings, FlowStore, make_store, shrink
from gwm_nb.commands import gwm_flow
from gwm_nb.datasets import GapSamples
from gwm_nb.sources import evaluation_samples
from gwm_nb.videos import VideoFrames
from inputs import write_davis, write_image, write_scene


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "DAVIS2016 and FBMS in the published layout, with scenes instead of videos."
    root = write_davis(tmp_path_factory.mktemp("data"), ("cows",))
    davis = [root / f"DAVIS2016/{kind}/480p/dog" for kind in ("JPEGImages", "Annotations")]
    write_scene(*davis, n=8, seed=15, suffix=".jpg")
    frames, masks = (root / f"FBMS/{kind}/tennis" for kind in ("JPEGImages", "Annotations"))
    write_scene(frames, masks, n=9, seed=16)
    for folder in (frames, masks):
        for file in sorted(folder.iterdir(), reverse=True):          # numbered from 1
            file.rename(folder / f"{int(file.stem) + 1:05d}.png")
    for t in (2, 3, 4, 6, 7, 8):
        (masks / f"{t:05d}.png").unlink()
    return root


SIZE = FlowSettings(size=(32, 48))
SETTINGS = FlowSettings(size=(32, 48), gaps=(1, 2, -1, -2))


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "davis", data / "DAVIS2016", SETTINGS)


@pytest.fixture(scope="module")
def drift(data): return data / "DAVIS2016/JPEGImages/480p/dog"


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_stores_of_the_command_are_used_for_training(data, tmp_path, call):
    call(gwm_flow, "DAVIS+FBMS", "--data", data, cwd=tmp_path)
    stores = [FlowStore(tmp_path / f"{n}-flow") for n in ("DAVIS2016", "FBMS")]
    assert stores[0].size == stores[1].size
    assert [len(GapSamples(store)) for store in stores] == [14, 9]
    with pytest.raises(ValueError, match="gap 5"):
        GapSamples(stores[0], gaps=(1, 5))


def test_workers_draw_different_samples(store):
    torch.manual_seed(0)
    names = [tuple(b["name"]) for b in DataLoader(GapSamples(store), 7, num_workers=2)]
    assert names[0] != names[1]


def test_command_makes_each_data_set_with_its_gaps(data, tmp_path, call):
    argv = "--data", data, "--size", "32x48"
    out, end = call(gwm_flow, "DAVIS+FBMS", *argv, "--workers", 2, cwd=tmp_path)
    assert end is None and out.count("every row verified") == 2
    assert "2 clips, 14 frames, 44 flows of gaps 1 2 -1 -2 by dis at 32x48" in out
    assert "1 clip, 9 frames, 18 flows of gaps 3 6 -3 -6" in out
    assert sorted(f.name for f in tmp_path.iterdir()) == ["DAVIS2016-flow", "FBMS-flow"]
    assert FlowStore(tmp_path / "FBMS-flow", verify=True).gaps == (3, 6, -3, -6)
    before = contents(tmp_path / "DAVIS2016-flow")
    call(gwm_flow, "DAVIS", *argv)
    assert contents(tmp_path / "DAVIS2016-flow") == before


@pytest.mark.parametrize("argv, says", [
    ("nowhere", "nowhere: no such"), ("DAVIS+KITTI", "'KITTI'"),
    ("DAVIS+STv2 --data DATA", "SegTrackv2 or STv2"), ("CLIP --gaps 0", "other than 0"),
    ("CLIP --gaps one", "invalid int"), ("CLIP --method magic", "'magic'"),
    ("CLIP --gaps 1 1", "gaps"), ("CLIP --size 8x8", "8x8"), ("CLIP --longest 0", "longest"),
    ("CLIP --resample lanczos", "lanczos"),
    ("CLIP --preset slow", "'slow'"), ("CLIP --method raft --preset fast", "'preset'"),
    ("CLIP --method raft --weights none.pth", "none.pth"), ("CLIP --method files", "gap 1"),
    ("CLIP --size 32", "HEIGHTxWIDTH"), ("CLIP --workers 0", "workers"),
    ("CLIP --out DATA", "flow store"), ("CLIP --out /proc/gwm", "/proc"),
    ("", "source is missing"), ("CLIP --verify", "--verify")])
def test_wrong_input_gives_one_line_and_leaves_nothing(data, drift, tmp_path, call, argv, says):
    argv = [{"DATA": data, "CLIP": drift}.get(a, a) for a in argv.split()]
    _, end = call(gwm_flow, *argv, cwd=tmp_path)
    assert says in end, end
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []


def test_annotations_that_are_missing_or_unreadable(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    masks = tmp_path / "data/DAVIS2016/Annotations/480p/dog"
    samples = lambda name, clip: evaluation_samples(name, tmp_path / "data", SIZE, clips=[clip])
    assert len(samples("DAVIS", "dog")) == 8
    tennis = [f"tennis/0000{t}" for t in (1, 5, 9)]
    assert [s["name"] for s in samples("FBMS", "tennis")] == tennis
    (masks / "00003.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match="00003.png"):
        list(samples("DAVIS", "dog"))
    (masks / "00003.png").unlink()
    with pytest.raises(ValueError, match=r"frame 00003 .*7 of 8"):
        samples("DAVIS", "dog")
    shutil.rmtree(masks)
    with pytest.raises(ValueError, match="dog"):
        samples("DAVIS", "dog")


def test_training_never_sees_a_label(data):
    samples = datasets.training_samples("DAVIS+FBMS", data, SIZE, both=True)
    keys = {"image", "flow", "flow2", "name"}
    assert len(samples) == 23 and all(set(s) == keys for s in samples)


def test_clips_held_out_are_not_drawn(data):
    samples = datasets.training_samples("DAVIS", data, SIZE, held_out=["dog"])
    assert {samples[i % 14]["name"].split("/")[0] for i in range(30)} == {"cows"}


def test_evaluation_without_labels_has_all_frames_with_the_first_gap(data):
    samples = evaluation_samples("FBMS", data, SIZE, clips=["tennis"], labels=False)
    assert len(samples) == 9 and not any("mask" in sample for sample in samples)
    assert samples.gaps == (3,)


def test_evaluation_item_is_the_published_one(golden, tmp_path):
    z = np.load(golden / "dataset_eval_item.npz")
    size, published = (int(z["height"]), int(z["width"])), z["rgb"].clip(0, 255)
    for kind, pixels in (("JPEGImages", z["jpg"]), ("Annotations", z["ann"])):
        for t in range(2):
            write_image(tmp_path / f"DAVIS2016/{kind}/480p/clip/{t:05d}.png", pixels)
    settings = FlowSettings(size=size, resample="published")
    item = evaluation_samples("DAVIS", tmp_path, settings, clips=["clip"])[0]
    off = np.abs(item["image"].numpy() * 255 - published).max()
    assert off <= .5 + 1e-4                                                # a store keeps 8 bits
    np.testing.assert_array_equal(item["mask"].numpy(), z["sem_seg_ori"])
    image = shrink(torch.from_numpy(z["jpg"]).permute(2, 0, 1), size, "published")
    np.testing.assert_allclose(image.numpy() * 255, published, atol=2e-4)


def test_davis_is_found_and_annotated(shared):
    clips = find_clips(shared / "data/DAVIS2016")
    assert len(clips) == 12 and sum(len(list(c.path.iterdir())) for c in clips) == 801
    assert all(read_mask(c.masks / "00000.png").max() == 1 for c in clips)


def test_flow_of_real_frames_agrees_with_raft(shared):
    "DIS on the frames of the published RAFT flow: half of the pixels within a quarter of a pixel."
    folder = shared / "data/raft_flow/tennis"
    for t in (1, 2, 3):
        first, second = (read_image(folder / f"{n:04d}.png").float() / 255 for n in (t, t + 1))
        difference = estimate_flow(first, second) - read_flow(folder / f"{t:04d}.flo")
        assert difference.norm(dim=0).median() < .25


def test_video_frames_over_a_whole_data_set(data, store):
    frames = VideoFrames(data / "DAVIS2016", SIZE, masks=True)
    assert len(frames) == 14 and all(s["mask"].shape == (64, 96) for s in frames)
    torch.testing.assert_close(frames[7]["flow"], store.flow(7, 1).float())
    torch.testing.assert_close(frames[13]["flow"], store.flow(13, -1).float())      # the last
    assert VideoFrames(store.folder)[7]["name"] == "dog/00001"
    assert VideoFrames(store.folder, FlowSettings((32, 48), (2,))).gaps == (2,)


@pytest.mark.parametrize("gaps, says", [
    ((1, 2, -1), r"at most two flows.*\(1, 2, -1\)"), ((9,), "gap 9 needs at least 10"),
    ((5,), "dog/00003 .*5,")])
def test_gaps_that_do_not_fit_a_clip(drift, gaps, says):
    with pytest.raises(ValueError, match=says):
        VideoFrames(drift, FlowSettings(size=(32, 48), gaps=gaps))


def test_frames_at_the_ends_have_the_flow_that_exists(drift):
    frames = VideoFrames(drift, FlowSettings(size=(32, 48), gaps=(2,)))
    assert frames.names == frames.store.names and frames.names[7] == "dog/00007"
    assert frames.gaps == (2,)
    assert set(frames[7]) == {"image", "flow", "name"}
    torch.testing.assert_close(frames[7]["flow"], frames.store.flow(7, -2).float())
    torch.testing.assert_close(frames[-1]["flow"], frames[7]["flow"])
    with pytest.raises(IndexError, match="frame 8 of 8"):
        frames[8]


def test_annotations_that_do_not_belong(drift, data, tmp_path):
    annotation = data / "DAVIS2016/Annotations/480p/dog/00000.png"
    folder, none = tmp_path / "sorting", tmp_path / "none"
    folder.mkdir()
    shutil.copy(annotation, folder / "a.png")
    for masks, says in ((True, "dog"), (none, "none"),
                        (folder, "none of its 1 annotations")):
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            VideoFrames(drift, SIZE, masks=masks)
    shutil.copy(annotation, folder / "00004.png")
    labelled = ["mask" in s for s in VideoFrames(drift, SIZE, masks=folder)]
    assert labelled == [False] * 4 + [True] + [False] * 3


@pytest.mark.parametrize("options, says", [
    (dict(settings=FlowSettings(size=(48, 64))), "32x48, not 48x64"),
    (dict(settings=FlowSettings(gaps=(3,))), "gap 3; it has 1, 2, -1, -2"),
    (dict(settings=FlowSettings(method=DIS("fast"))), "cannot be changed"),
    (dict(clips=["dog"]), "cannot be changed"),
    (dict(masks=True), "no annotations")])
def test_a_store_is_taken_as_it_is(store, options, says):
    with pytest.raises(ValueError, match=says):
        VideoFrames(store.folder, **options)


def test_pairs_need_two_gaps_and_a_long_clip(data, tmp_path):
    frames = data / "DAVIS2016/JPEGImages/480p/cows"
    def samples(*gaps):
        return GapSamples(make_store(tmp_path / str(gaps), frames, FlowSettings((32, 48), gaps)))
    for gaps, says in (((1,), "at least two gaps"), ((3, -3), "no clip is long enough")):
        with pytest.raises(ValueError, match=says):
            samples(*gaps)
    found = samples(-1, 2)
    assert list(found.pairs) == [(2, -1)] and len(found) == 6
    with pytest.raises(IndexError, match="sample 6 of 6"):
        found[6]


def test_pairs_are_drawn_where_both_flows_exist(store):
    pairs = GapSamples(store, both=True).pairs
    ends = [(store.names[r[0]], store.names[r[-1]]) for r in pairs[1, -2]]
    assert ends == [("cows/00002", "cows/00004"), ("dog/00002", "dog/00006")]
    assert all(store.has(row, gap) for pair, clips in pairs.items() for rows in clips
               for row in rows for gap in pair)
