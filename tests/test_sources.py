"What a run is trained on and measured on, and what is refused before any flow is made."
import shutil
from pathlib import Path

import pytest
import torch

from gwm_nb import videos
from gwm_nb.commands import gwm_train
from gwm_nb.configuration import make_config
from gwm_nb.flow import resize_flow
from gwm_nb.runs import describe, run
from gwm_nb.sources import make_source, process_rank
from gwm_nb.store import FlowSettings, make_store
from inputs import ON_CLIPS, ON_DAVIS, TINY, davis_config, write_davis, write_scene


def clips_of(samples): return {sample["name"].split("/")[0] for sample in samples}


@pytest.fixture
def clips(tmp_path):
    "Two clips of one's own without annotations."
    for seed, clip in enumerate(("early", "late")):
        write_scene(tmp_path / "clips" / clip, n=5, seed=seed)
    return tmp_path / "clips"


def refused(preset, data, out, *changes):
    "The one line of a run, which must be that of a dry run, too."
    said = set()
    for dry in (True, False):
        with pytest.raises((ValueError, OSError)) as e:
            gwm_train(preset, str(data), str(out), set=[*changes], dry_run=dry)
        said.add(str(e.value))
    assert len(said) == 1 and "\n" not in str(said) and not Path(out).exists(), said
    return said.pop()


@pytest.fixture
def no_flow(monkeypatch):
    def fail(*args): raise AssertionError("flow is made although the options are wrong")
    monkeypatch.setattr(videos, "cached_store", fail)


def test_training_and_validation_of_a_data_set(davis):
    source = make_source(davis_config(davis, "data.held_out=cows", "data.both=true"))
    data, validation = source.training_samples(), source.validation_samples()
    assert clips_of(data[i] for i in range(20)) == {"dog"} and len(source.frames()) == 6
    assert clips_of(validation) == {"cows"} and "flow2" in data[0]
    for sample in (data[0], validation[0]):
        assert sample["image"].shape == (3, 32, 48) and sample["flow"].shape == (2, 64, 96)
    assert "mask" not in data[0] and validation[0]["mask"].shape == (64, 96)
    source = make_source(davis_config(davis, "log.labels=false", "data.validation=3"))
    validation = source.validation_samples()
    assert [s["name"] for s in validation] == ["cows/00000", "cows/00004", "dog/00002"]
    assert all("mask" not in sample for sample in validation)


def test_flow_may_be_smaller_than_frames(davis):
    sizes = "data.size=[64, 96]", "data.flow_size=[32, 48]"
    small = make_source(davis_config(davis, "data.held_out=cows", *sizes)).training_samples()
    whole = make_source(davis_config(davis, "data.held_out=cows", sizes[0],
                                     "data.flow_size=[64, 96]")).training_samples()
    assert small[0]["image"].equal(whole[0]["image"])                   # not enlarged from 32x48
    torch.testing.assert_close(small[0]["flow"], resize_flow(whole[0]["flow"], (32, 48)))


def test_the_data_sets_that_exist(davis, capsys):
    there = lambda preset, path: make_source(make_config(preset, changes=[f"data.path={path}"]))
    for path in (davis, davis / "DAVIS2016"):
        source = there("all", path)
        assert source.folders == {"DAVIS": davis / "DAVIS2016"}
        source.check()
        missing = capsys.readouterr().out.splitlines()
        assert len(missing) == 2 and "FBMS" in missing[0] and "STv2" in missing[1]
    with pytest.raises(FileNotFoundError, match="DAVIS, FBMS, STv2"):
        there("all", davis / "DAVIS2016/JPEGImages")


def test_a_training_takes_a_flow_store(tmp_path):
    for clip in ("one", "two"):
        write_scene(tmp_path / "clips" / clip, n=4, seed=0)
    make_store(tmp_path / "store", tmp_path / "clips", FlowSettings(size=(32, 48), gaps=(1, -1)))
    shutil.rmtree(tmp_path / "clips")                                     # the store is enough
    changes = [*TINY, "data.source=clip", f"data.path={tmp_path / 'store'}", "data.validation=2"]
    config = make_config(changes=changes)
    assert "2 clips and 8 frames" in describe(config)
    assert len(run(config, tmp_path / "run").history) == 6
    assert "held out" in refused("", "", tmp_path / "x", *changes, "data.held_out=one")
    assert "log.labels=false" in refused("", "", tmp_path / "x", *changes, "log.labels=true")


def test_folders_and_sizes_that_cannot_be_trained_on(davis, tmp_path):
    labels, clip = (davis / f"DAVIS2016/{kind}/480p/dog" for kind in ("Annotations", "JPEGImages"))
    shutil.copytree(labels, tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    for preset, data, says in (("clip", labels.parents[1], "(Annotations)"),
                               ("clip", labels, "(Annotations)"),
                               ("clip", tmp_path / "mine", "16 colours"),
                               ("clip", tmp_path / "empty", "no images"),
                               ("clip", clip, "--set data.batch=6")):
        assert says in refused(preset, data, tmp_path / "x")
    line = refused("demo", "", tmp_path / "x", *TINY, "data.batch=9")
    assert "8 samples" in line and "batch of 9" in line


@pytest.mark.parametrize("changes, says", [
    (["log.labels=true"], ["early", "--set data.held_out=CLIP", "--set log.labels=false"]),
    (["log.labels=true", "data.held_out=late"], ["late", "--set log.labels=false"]),
    (["data.held_out=latte", "log.measure=0"], ["'latte'", "early, late"]),
    (["data.held_out=early,late"], ["held out"])])
def test_wrong_names_and_missing_annotations_are_refused(clips, tmp_path, no_flow, changes, says):
    line = refused("clip", clips, tmp_path / "x", *ON_CLIPS, *changes)
    assert all(word in line for word in says), line


def test_a_data_set_is_checked_before_any_flow(tmp_path, no_flow):
    root = write_davis(tmp_path)
    labels = root / "DAVIS2016/Annotations"
    line = lambda *changes: refused("davis", root, tmp_path / "x", *ON_DAVIS, *changes)
    assert "'cow'" in line("data.held_out=cow")
    (labels / "480p/cows/00003.png").unlink()
    assert "frame 00003" in line()
    shutil.rmtree(labels)
    line = line("log.measure=0")
    assert "cows" in line and "--set log.labels=false" in line
    gwm_train("davis", str(root), dry_run=True, set=[*ON_DAVIS, "log.labels=false"])


def test_dry_run_of_a_data_set(davis, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gwm_train("all", str(davis), dry_run=True)
    gwm_train("davis", str(davis), dry_run=True,
              set=["network.name=resnet18", "network.features=true", "data.photometric=0",
                   "data.flips=0.5"])
    printed = capsys.readouterr().out
    for words in ("no folder FBMS", "samples: 12 frames", "15,901,662 of them trained",
                  "2 clips, 12 frames, 36 flows of gaps 1 2 -1 -2 by raft at 480x854",
                  "features: of 24 frames", "which are also trained on: cows, dog; best"):
        assert words in printed, printed
    assert list(tmp_path.iterdir()) == []


def test_rank_alone_means_nothing(monkeypatch):
    "Some schedulers set RANK for their own purposes; only launchers set LOCAL_RANK as well."
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert process_rank() == (0, 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_rank() == (1, 2)
