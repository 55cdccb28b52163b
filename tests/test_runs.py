"Runs: settings that are refused, callbacks, the command, resuming, several processes, presets."
import errno
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from gwm_nb import checkpoints, runs
from gwm_nb.checkpoints import load, load_training
from gwm_nb.files import whole_file
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.network import create_network
from gwm_nb.paper import CachedBackbone, paper_network, paper_recipe
from gwm_nb.benchmarks import heldout_table
from gwm_nb.commands import gwm_train
from gwm_nb.runs import (EMA, KEYS, Best, Config, Drawn, EarlyStop, KeepLast, Log, Measure,
                         Pictures, Trackers, Unfreeze, adapt, averaged, best_file, describe,
                         load_run, make_config, make_learner, make_optimiser,
                         make_schedule, plot_loss, presets, read_log, recompute, resume_run, run,
                         sets_there, take_weights, to_toml, training_data, validation_data,
                         validation_loss)
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowSettings, make_store
from gwm_nb.train import Callback, Checkpoint, Flips, fit
from inputs import write_davis, write_scene

SIZE = (32, 48)
TINY = ["data.scenes=8", "data.size=[32, 48]", "data.validation=4", "data.batch=4", "train.steps=6",
        "log.measure=2", "log.checkpoint=1", "log.progress=false", "train.device=cpu"]
EVERYTHING = [*TINY, "data.photometric=0.3", "train.ema=0.5", "log.keep_every=2", "log.keep=2",
              'network.unfreeze={2 = "backbone.stages.3.*"}']
DAVIS = ["data.method=dis", "data.flow_size=[64, 96]", "data.size=[32, 48]", "network.name=small",
         "network.pretrained=random", "data.batch=2", "train.steps=2", "log.progress=false",
         "log.pictures=0", "train.device=cpu"]
OWN = ["data.size=[48, 64]", "data.batch=2", "train.steps=2", "train.device=cpu",
       "log.progress=false"]


@pytest.fixture(scope="module")
def scenes(): return MovingScenes(8, seed=0, size=SIZE)


@pytest.fixture(scope="module")
def held_out(): return MovingScenes(4, seed=1000, size=SIZE)


@pytest.fixture(scope="module")
def davis(tmp_path_factory): return write_davis(tmp_path_factory.mktemp("davis"))


def teach(scenes, steps, *callbacks, **options):
    return fit(scenes, steps=steps, progress=False, device="cpu", callbacks=callbacks, **options)


def config_of(davis, *changes):
    return make_config("davis", changes=[*DAVIS, f"data.path={davis}", *changes])


def losses(folder): return [line["loss"] for line in read_log(Path(folder) / "log.jsonl")]


def weights(path): return load(path).state_dict()


def same(a, b): return a.keys() == b.keys() and all(v.equal(b[k]) for k, v in a.items())


def all_equal(a, b): return all(p.equal(q) for p, q in zip(a, b, strict=True))


def copies(network): return [p.detach().clone() for p in network.parameters()]


# ---- settings

@pytest.mark.parametrize("change, says", [
    ("optim.lrr=1", ["'optim.lrr'", "'optim.lr'"]), ("lr=1", ["'lr'"]),
    ("optm.lr=1", ["'optm.lr'", "'optim.lr'"]), ("optim.lr.x=1", ["'optim.lr.x'"]),
    ("optim.lr", ["'optim.lr'", "KEY=VALUE"]), ("data.batch=4.5", ["data.batch", "4.5"]),
    ("data.batch=true", ["data.batch", "True"]), ("data.batch=", ["data.batch", "''"]),
    ("optim.lr=fast", ["optim.lr", "'fast'"]), ("optim.name=adam", ["'adam'", "adamw", "paper"]),
    ("data.both=1", ["data.both", "true or false"]), ("data.size=[128]", ["[height, width]"]),
    ("data.size=[1.5, 2]", ["data.size", "whole numbers"]),
    ("data.batch=0", ["data.batch must be at least 1"]), ("train.steps=-3", ["train.steps", "1"]),
    ("log.every=0", ["log.every must be at least 1"]), ("train.ema=2", ["train.ema", "0 and 1"]),
    ("network.features=true data.photometric=0.4", ["photometric=0"]),
    ('network.features=true network.unfreeze={0="*"}', ["unfreeze"]),
    ("log.best=J", ["log.labels=true"]), ("train.patience=3 log.measure=0", ["log.measure"]),
    ('log.trackers=["tensorbord"]', ["tensorbord", "tensorboard, wandb"])])
def test_wrong_settings_are_refused_in_one_line(change, says):
    with pytest.raises(ValueError) as e:
        make_config(changes=change.split(" "))
    assert "\n" not in str(e.value) and all(word in str(e.value) for word in says), str(e.value)


@pytest.mark.parametrize("text, says", [
    ("[optim]\nlrate = 1", "'optim.lrate'.*'optim.lr'"), ("[optim]\nlr = '1'", "optim.lr"),
    ("[optim]\nlr = ", "TOML"), ("optim = 3", "'optim'"),
    ("[nework]\nname = 'small'", "'nework.*'network.name'")])
def test_wrong_files_are_refused_by_name(tmp_path, text, says):
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(ValueError, match=f"my.toml: .*{says}") as e:
        make_config(file=tmp_path / "my.toml")
    assert "\n" not in str(e.value)


def test_unknown_presets_and_files():
    with pytest.raises(ValueError, match="'davsi'.*'davis'"):
        make_config("davsi")
    with pytest.raises(FileNotFoundError, match="nowhere.toml"):
        make_config(file="nowhere.toml")


def test_a_change_beats_the_file_and_the_file_the_preset(tmp_path):
    (tmp_path / "my.toml").write_text("[optim]\nlr = 1\n[data]\nbatch = 3\nheld_out = ['a']\n"
                                      "[network.unfreeze]\n5 = 'backbone.*'\n")
    config = make_config("davis", tmp_path / "my.toml", ["data.batch=5", "data.method=dis"])
    assert (config.optim.lr, config.data.batch, config.optim.clip) == (1., 5, .01)
    assert config.data.held_out == ["a"] and type(config.optim.lr) is float
    assert config.network.unfreeze == {"5": "backbone.*"}
    assert make_config(changes=["data.held_out=dog,cows"]).data.held_out == ["dog", "cows"]
    assert make_config(changes=['network.name="paper"']).network.name == "paper"


@pytest.mark.parametrize("preset", ["", *presets()])
def test_settings_survive_the_file_they_are_written_to(tmp_path, preset):
    config = make_config(preset, changes=['data.path=a "b" \\ ü', "data.held_out=['x']"])
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8")
    assert make_config(file=tmp_path / "c.toml") == config


def test_every_setting_is_read_by_something():
    code = Path(runs.__file__).read_text()
    whole = {f"loss.{f.name}" for f in fields(Config().loss)}          # handed over as they are
    assert [k for k in KEYS if k not in whole and f".{k.partition('.')[2]}" not in code] == []


@pytest.mark.parametrize("preset", list(presets()))
def test_presets_begin_with_their_command(preset):
    text = presets()[preset].read_text()
    assert text.startswith(f"# gwm_train --preset {preset} ") and f"--out runs/{preset}\n" in text
    assert set(tomllib.loads(text)) <= {f.name for f in fields(Config)}


@pytest.mark.parametrize("preset, source", [("davis", "DAVIS"), ("fbms", "FBMS"), ("stv2", "STv2"),
                                            ("all", "DAVIS+FBMS+STv2")])
def test_the_published_presets_are_the_published_recipe(preset, source):
    config, recipe = make_config(preset), paper_recipe()
    data, network, train, log = config.data, config.network, config.train, config.log
    assert (data.source, network.name, network.masks) == (source, "paper", 4)
    assert (train.steps, data.batch) == (recipe["steps"], recipe["batch_size"])
    assert config.optim.clip == recipe["clip"] and log.best == "validation loss"
    assert (data.size, data.flow_size, data.photometric) == ([128, 224], [480, 854], 0)
    assert log.measure == 250
    public = lambda loss: {k: v for k, v in vars(loss).items() if not k.startswith("_")}
    assert public(runs._loss(config)) == public(recipe["loss"])
    network = paper_network(2, name="vit_tiny_patch16_224", stride=None, blocks=(0,))
    pairs = ((make_optimiser(config), make_schedule(config)),
             (recipe["optimiser"], recipe["schedule"]))
    made = [(opt := optimiser(network), schedule(opt, 20_000)) for optimiser, schedule in pairs]
    for _ in range(3):
        ours, theirs = ([(g["lr"], g["weight_decay"]) for g in opt.param_groups] for opt, _ in made)
        assert ours == theirs
        for opt, schedule in made:
            opt.step(), schedule.step()


# ---- data

def test_drawn_samples_belong_to_their_number():
    class Roll(torch.utils.data.Dataset):
        def __len__(self): return 5
        def __getitem__(self, i): return i, torch.rand(()).item()
    drawn, before = Drawn(Roll()), torch.get_rng_state()
    found = [drawn[i] for i in (0, 1, 2**31, 0)]
    assert found[0] == found[3] and len({*found}) == 3 and torch.get_rng_state().equal(before)


def clips_of(samples): return {sample["name"].split("/")[0] for sample in samples}


def test_training_and_validation_of_a_data_set(davis):
    config = config_of(davis, "data.held_out=cows")
    data, validation = training_data(config), validation_data(config)
    assert clips_of(data[i] for i in range(20)) == {"dog"}
    assert clips_of(validation[i] for i in range(6)) == {"cows"}
    for sample in (data[0], validation[0]):
        assert sample["image"].shape == (3, 32, 48) and sample["flow"].shape == (2, 64, 96)
    assert "mask" not in data[0] and validation[0]["mask"].shape == (64, 96)
    validation = validation_data(config_of(davis, "log.labels=false", "data.validation=3"))
    assert len(validation) == 3 and "mask" not in validation[0]
    assert clips_of([validation[0]]) == {"cows"}
    assert "dog" in {name.split("/")[0] for name in validation.dataset.names}


def test_whatever_is_there_of_the_data_sets(davis):
    told, there = [], lambda preset, path: sets_there(
        make_config(preset, changes=[f"data.path={path}"]).data, told.append)
    for path in (davis, davis / "DAVIS2016"):
        found = there("all", path)
        assert {name: folder.name for name, folder in found.items()} == {"DAVIS": "DAVIS2016"}
    assert len(told) == 4 and "FBMS" in told[0] and "STv2" in told[1]
    with pytest.raises(FileNotFoundError, match="DAVIS, FBMS, STv2"):
        there("all", davis / "DAVIS2016/JPEGImages")
    with pytest.raises(FileNotFoundError, match="no folder FBMS"):
        there("fbms", davis)


def test_a_run_on_a_data_set_measures_every_protocol(davis, tmp_path):
    learn = run(config_of(davis, "data.validation=4"), tmp_path / "x")
    last = read_log(tmp_path / "x/log.jsonl")[-1]
    assert last["step"] == learn.step == 2
    assert {"validation loss", "J", "J_best_of_two", "J_best_mask"} <= last.keys()
    notes = load(tmp_path / "x/best.safetensors").notes
    assert notes["chosen_by"] == "validation loss" and notes["looks_at_labels"] is False
    assert notes["config"] == asdict(make_config(file=tmp_path / "x/config.toml"))


def test_a_run_on_a_data_set_ends_with_every_protocol(davis, tmp_path, capsys):
    changes = [*DAVIS, 'data.held_out=["dog"]', "log.measure=0"]
    gwm_train("davis", str(davis), str(tmp_path / "run"), set=changes)
    printed = capsys.readouterr().out
    assert "DAVIS, dog:" in printed and re.search(r"\n *mean( +\d\.\d{3}){8,}\n", printed)
    for name in ("published", "per-sequence", "label-free", "k-way"):
        assert re.search(rf"\n{name}: .*looks? at labels", printed)
    config = make_config(file=tmp_path / "run/config.toml", changes=["log.labels=false"])
    assert heldout_table(config, tmp_path / "run") == ""


def test_best_by_labels_says_so(tmp_path, capsys):
    gwm_train("demo", out=str(tmp_path / "x"), set=[*TINY, "log.best=J_best_of_two"])
    assert load(tmp_path / "x/best.safetensors").notes["looks_at_labels"] is True
    assert "J_best_of_two" in capsys.readouterr().out.split("best network")[1].splitlines()[0]
    assert make_config(file=tmp_path / "x/config.toml").log.best == "J_best_of_two"


# ---- what is refused before heavy work

def refused(preset, data, out, **options):
    with pytest.raises((ValueError, OSError)) as e:
        gwm_train(preset, str(data), str(out), **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_folders_that_are_taken(tmp_path):
    for name in ("foreign/thesis.tex", "run/config.toml", "file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for name, says in (("foreign", "thesis.tex"), ("run", "--resume"), ("file", "is a file")):
        assert says in refused("demo", "", tmp_path / name)


def test_folders_of_labels(davis, tmp_path):
    labels, out = davis / "DAVIS2016/Annotations", tmp_path / "x"
    for folder in (labels, labels / "480p/dog"):
        assert "labels (Annotations)" in refused("clip", folder, out)
    shutil.copytree(labels / "480p/dog", tmp_path / "mine")
    assert "16 colours" in refused("clip", tmp_path / "mine", out)
    assert not out.exists()                       # nothing is left behind


def test_too_few_samples(tmp_path, davis):
    line = refused("demo", "", tmp_path / "x", set=[*TINY, "data.batch=9"])
    assert "8 samples" in line and "batch of 9" in line
    line = refused("clip", davis / "DAVIS2016/JPEGImages/480p/dog", tmp_path / "x")
    assert "6 samples" in line and "--set data.batch=6" in line
    (tmp_path / "empty").mkdir()
    assert "no images" in refused("clip", tmp_path / "empty", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_resume_takes_a_run_as_it_is(tmp_path):
    assert "--init-from" in refused("demo", "", "", resume=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing.*config.toml"):
        gwm_train(resume=str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        best_file(tmp_path)


def test_out_of_memory_is_one_line(tmp_path, monkeypatch):
    def full(self, learn): raise torch.OutOfMemoryError("CUDA out of memory. Tried ...")
    monkeypatch.setattr(Flips, "before_step", full)
    line = refused("demo", "", tmp_path / "x", set=TINY)
    assert "batch of 4" in line and "train.accumulate" in line


def test_the_command_in_a_process_of_its_own(tmp_path):
    argv = [sys.executable, "-m", "gwm_nb.train", "--preset", "demo", "--dry-run", "--set", *TINY]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "440,178 parameters" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv, says", [
    (["--set", "optim.lrr=1"], ["--set", "'optim.lrr'", "'optim.lr'"]),
    (["--set", "data.batch=2", "--set", "optim.lr=1"], ["--set", "twice"])])
def test_wrong_options_are_one_line(tmp_path, argv, says, call):
    _, end = call(gwm_train, *argv, cwd=tmp_path)
    assert all(word in end for word in says)


def test_dry_run_of_a_data_set(davis, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gwm_train("all", str(davis), dry_run=True)
    gwm_train("davis", str(davis), dry_run=True,
              set=["network.name=resnet18", "network.features=true", "data.photometric=0",
                   "data.flips=0.5"])
    printed = capsys.readouterr().out
    for words in ("no folder FBMS", "samples: 12 frames", "15,901,662 of them trained",
                  "2 clips, 12 frames, 36 flows of gaps 1 2 -1 -2 by raft at 480x854",
                  "features: of 24 frames"):
        assert words in printed
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_flow(monkeypatch):
    "Flow must not be made."
    def fail(*args): raise AssertionError("flow is made although the settings are wrong")
    for name in ("runs", "videos"):
        monkeypatch.setattr(f"gwm_nb.{name}.cached_store", fail)


def write_clips(root):
    "Two clips of one's own without annotations."
    for seed, clip in enumerate(("early", "late")):
        write_scene(root / clip, n=5, seed=seed)
    return root


def refused_twice(preset, data, out, changes):
    "In a run as in a dry run."
    said = {refused(preset, data, out, set=changes, dry_run=dry) for dry in (True, False)}
    assert len(said) == 1 and not Path(out).exists()
    return said.pop()


@pytest.mark.parametrize("changes, says", [
    (["log.labels=true"], ["early", "--set data.held_out=CLIP", "--set log.labels=false"]),
    (["log.labels=true", "data.held_out=late"], ["late", "--set log.labels=false"]),
    (["data.held_out=latte"], ["'latte'", "early, late"]),
    (["data.held_out=early,late"], ["held out"]),
    (["data.held_out=latte", "log.measure=0"], ["'latte'"])])
def test_wrong_names_and_missing_annotations_are_refused(tmp_path, no_flow, changes, says):
    clips = write_clips(tmp_path / "clips")
    line = refused_twice("clip", clips, tmp_path / "x", [*OWN, *changes])
    assert all(word in line for word in says)
    with pytest.raises(ValueError, match=re.escape(says[0])):
        describe(make_config("clip", changes=[*OWN, *changes, f"data.path={clips}"]))


def test_a_data_set_is_looked_through_before_any_flow(tmp_path, no_flow):
    root = write_davis(tmp_path)
    labels = root / "DAVIS2016/Annotations"
    line = lambda *changes: refused_twice("davis", root, tmp_path / "x", [*DAVIS, *changes])
    assert "'cow'" in line("data.held_out=cow")
    assert "held out" in line("data.held_out=cows,dog")
    (labels / "480p/cows/00003.png").unlink()
    assert "frame 00003" in line()
    shutil.rmtree(labels)
    assert "cows: no annotations" in line("log.measure=0")
    gwm_train("davis", str(root), dry_run=True, set=[*DAVIS, "log.labels=false"])


def test_a_clip_held_out_needs_annotations_the_others_do_not(davis, capsys, tmp_path):
    shutil.copytree(davis / "DAVIS2016", tmp_path / "clips")
    shutil.rmtree(tmp_path / "clips/Annotations/480p/dog")
    gwm_train("clip", str(tmp_path / "clips"), dry_run=True,
              set=[*OWN, "log.labels=true", "data.held_out=cows"])
    printed = capsys.readouterr().out
    assert "J (looks at labels) once" in printed and "clips held out: cows; best by" in printed


@pytest.mark.parametrize("preset, changes, says", [
    ("clip", [], "every 50 steps, on at most 32 frames of the training clips"),
    ("clip", ["data.held_out=late", "data.validation=0", "train.steps=120"],
     "every 50 steps and at the last, on all frames of the clips held out: late; best"),
    ("clip", ["train.steps=20"], "once, after the last step"),
    ("clip", ["train.steps=50"], "once, after the last step"),
    ("clip", ["log.measure=0"], "measured: nothing"),
    ("demo", [], "J (looks at labels) every 50 steps, on 32 other scenes;"),
    ("davis", [*DAVIS, "log.labels=false"],
     "on all frames of the validation clips of DAVIS, which are trained on, too: cows, dog; best")])
def test_a_dry_run_says_when_and_on_what_is_measured(tmp_path, davis, preset, changes, says):
    if preset != "davis":
        changes = [*OWN, "train.steps=300", *changes]
    if preset != "demo":
        path = davis if preset == "davis" else write_clips(tmp_path)
        changes = [*changes, f"data.path={path}"]
    assert says in describe(make_config(preset, changes=changes)).splitlines()[-1]


# ---- callbacks

def test_the_log_holds_every_nth_step_the_last_and_what_was_measured(scenes, tmp_path):
    file = tmp_path / "log.jsonl"
    learn = teach(scenes, 7, Measure(5, "x", lambda network: 3.), Log(file, every=3))
    lines = read_log(file)
    assert [line["step"] for line in lines] == [3, 5, 6, 7]
    assert [line.get("x") for line in lines] == [None, 3., None, 3.]
    for line in lines:
        step = learn.history[line["step"] - 1]
        assert (line["loss"], line["lr"]) == (step["loss"], step["lr"])
    assert len(plot_loss(file).axes) == len(plot_loss(learn).axes) == 2
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_loss(tmp_path / "no.jsonl")


def test_validation_loss_is_the_loss_of_the_logits(held_out):
    torch.manual_seed(0)
    network, loss = create_network("small").train(), ReconstructionLoss(normalise=True)
    image, flow = (torch.stack([held_out[i][k] for i in range(4)]) for k in ("image", "flow"))
    with torch.no_grad():
        wanted = loss(network.eval()(image), flow).item()
    network.train()
    found = validation_loss(network, held_out, loss, batch_size=3)
    assert found == pytest.approx(wanted, rel=1e-4) and network.training


def test_ema_is_the_average_of_the_weights(scenes):
    class Keep(Callback):
        def before_fit(self, learn): self.weights = []
        def after_step(self, learn): self.weights.append(copies(learn.network))
    keep, ema = Keep(), EMA(.7)
    learn = teach(scenes, 4, keep, ema)
    wanted = keep.weights[0]
    for now in keep.weights[1:]:
        wanted = [.7 * w + .3 * n for w, n in zip(wanted, now)]
    with averaged(learn) as network:
        torch.testing.assert_close(copies(network), wanted)
    assert all_equal(learn.network.parameters(), keep.weights[-1])          # and back to the bit


def test_what_is_measured_and_kept_is_the_average(scenes, tmp_path):
    seen, ema = [], EMA(.5)
    look = Measure(2, "x loss", lambda network: seen.append(copies(network)) or 1. / len(seen))
    learn = teach(scenes, 2, ema, look, Best(tmp_path / "best.safetensors", by="x loss"))
    assert all_equal(seen[0], ema.kept) and not all_equal(seen[0], learn.network.parameters())
    assert all_equal(seen[0], load(tmp_path / "best.safetensors").parameters())


@pytest.mark.parametrize("by, values, best", [("v loss", [3., 1., 2., 1.], 2),
                                              ("J", [.1, .5, .7, .2], 3), ("J", [.5, .5], 1)])
def test_best_is_the_first_of_the_best(scenes, tmp_path, by, values, best):
    answers, file = iter(values), tmp_path / "best.safetensors"
    measure = Measure(1, by, lambda network: next(answers))
    teach(scenes, len(values), measure, Best(file, by, colour="red"), batch_size=2)
    notes = load(file).notes
    assert (notes["step"], notes["value"]) == (best, values[best - 1])
    assert (notes["chosen_by"], notes["looks_at_labels"]) == (by, by == "J")
    assert notes["colour"] == "red"


def test_best_by_what_nobody_measures(scenes, tmp_path):
    with pytest.raises(ValueError, match="'J'.* x loss"):
        teach(scenes, 1, Measure(1, "x loss", lambda n: 0.), Best(tmp_path / "b.safetensors", "J"))


def test_the_last_checkpoints_stay(scenes, tmp_path):
    teach(scenes, 9, KeepLast(tmp_path, every=2, n=3), batch_size=2)
    names = [f"step-{i:06d}.safetensors" for i in (4, 6, 8)]
    assert sorted(f.name for f in tmp_path.iterdir()) == names
    middle = tmp_path / names[1]
    assert load(middle).notes["step"] == load_training(middle)["step"] == 6


def test_stop_when_nothing_gets_better(scenes):
    answers = iter([5., 4., 4.5, 4.2, 3., 3.5, 3.5, 3.5, 0.])
    measure = Measure(1, "validation loss", lambda network: next(answers))
    learn = teach(scenes, 9, measure, EarlyStop(3), batch_size=2)
    assert learn.step == 8 and learn.outcome == "finished"


def test_unfreezing_moves_only_what_it_says(scenes):
    network = create_network("efficientnet_lite0", pretrained=False, freeze=False)
    before, moved = {k: v.clone() for k, v in network.state_dict().items()}, []

    class Look(Callback):
        def after_step(self, learn):
            state = learn.network.state_dict().items()
            moved.append({k for k, v in state if not v.equal(before[k])})
    stages = Unfreeze({2: "backbone.model.blocks.4.*", 4: "backbone.*"})
    teach(scenes, 5, stages, Look(), network=network, batch_size=2)
    for step, names in enumerate(moved, 1):
        backbone = {k for k in names if k.startswith("backbone")}
        late = {k for k in backbone if "blocks.4." in k}
        assert (bool(late), bool(backbone - late)) == (step > 2, step > 4) and names - backbone
    with pytest.raises(ValueError, match="'bakbone"):
        teach(scenes, 1, Unfreeze({1: "bakbone.*"}))
    with pytest.raises(ValueError, match="always frozen"):
        make_learner(make_config("davis", changes=['network.unfreeze={0="*"}']), ".")


def test_pictures(scenes, tmp_path):
    teach(scenes, 5, Pictures(tmp_path / "p", every=2, data=scenes, n=2), batch_size=2)
    files = sorted((tmp_path / "p").iterdir())
    assert [f.name for f in files] == [f"step-{i:06d}.png" for i in (2, 4, 5)]
    assert cv2.imread(str(files[0])).std() > 10


class Told:
    "Stands for a tracker of accelerate."
    def __init__(self, run_name, **options):
        self.lines = []
        Told.last = self
    def log(self, values, step): self.lines.append((step, values))
    def finish(self): self.lines.append("finished")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_trackers_are_told_what_the_log_says(scenes, tmp_path, monkeypatch, name):
    "And one that is not installed is named."
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"pip install {name}"):
        make_config(changes=[f'log.trackers=["{name}"]'])
    monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(runs.accelerate.tracking.LOGGER_TYPE_TO_CLASS, name, Told)
    log = Log(tmp_path / "log.jsonl")
    teach(scenes, 3, Measure(2, "x loss", lambda n: 1.), log, Trackers(name, tmp_path / name))
    *told, last = Told.last.lines
    plain = lambda line: {k: v for k, v in line.items() if k != "seconds"}
    lines = [plain(values | dict(step=step)) for step, values in told]
    assert lines == list(map(plain, read_log(tmp_path / "log.jsonl"))) and last == "finished"


# ---- after a crash

def begin_or_go_on(folder):
    torch.set_num_threads(1)
    if (folder / "config.toml").exists():
        resume_run(folder)
    else:
        run(make_config(changes=[*EVERYTHING, "train.steps=16"]), folder)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    begin_or_go_on(folder)
    return folder


def agree(folder, straight):
    "Everything but the clock."
    runs = folder, straight
    lines = [[{k: v for k, v in line.items() if k != "seconds"}
              for line in read_log(f / "log.jsonl")] for f in runs]
    assert lines[0] == lines[1]
    for file in ("final", "best", "last", "step-000014", "step-000016"):
        assert same(*(weights(f / f"{file}.safetensors") for f in runs)), file
    one, two = (load_training(f / "last.safetensors") for f in runs)
    assert one["step"] == two["step"] == 16
    assert all_equal(*(dict(training["callbacks"])["EMA"] for training in (one, two)))
    names = [sorted(f.name for f in place.iterdir()) for place in runs]
    assert names[0] == names[1]


def begin_or_go_on_and_wait(folder):
    "To be killed: also where the run was over before."
    begin_or_go_on(folder)
    folder.with_suffix(".over").touch()
    signal.pause()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("moments, seed", [(1, 0), pytest.param(5, 1, marks=pytest.mark.slow),
                                           pytest.param(5, 2, marks=pytest.mark.slow)])
def test_killed_at_random_moments(straight, tmp_path, moments, seed):
    "Each time a random while after the log has grown by some lines; then it may finish."
    dice, context = random.Random(seed), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gwm_nb.runs"])
    folder, log = tmp_path / "run", tmp_path / "run/log.jsonl"
    for _ in range(moments):
        program = context.Process(target=begin_or_go_on_and_wait, args=(folder,))
        program.start()
        wanted = len(read_log(log)) + dice.randint(0, 3)
        over = lambda: folder.with_suffix(".over").exists() or len(read_log(log)) >= wanted
        while program.is_alive() and not over():
            time.sleep(.001)
        time.sleep(dice.uniform(0, .15))
        os.kill(program.pid, signal.SIGKILL)
        program.join()
        assert program.exitcode == -signal.SIGKILL
    begin_or_go_on(folder)
    agree(folder, straight)


class Crash(Exception): pass


def crash_before(monkeypatch, kind, step):
    "Callbacks of this kind fail once, after `step`."
    real, done = kind.after_step, []

    def after_step(self, learn):
        if learn.step == step and not done:
            done.append(step)
            raise Crash
        return real(self, learn)
    monkeypatch.setattr(kind, "after_step", after_step)


def test_resumed_where_the_log_knows_more(straight, tmp_path, monkeypatch):
    "The last checkpoint is one step older."
    crash_before(monkeypatch, Checkpoint, 14)
    with pytest.raises(Crash):
        begin_or_go_on(tmp_path / "run")
    assert load_training(tmp_path / "run/last.safetensors")["step"] == 13
    assert len(losses(tmp_path / "run")) == 14
    resume_run(tmp_path / "run")
    agree(tmp_path / "run", straight)


def test_going_on_from_an_earlier_checkpoint_and_from_the_end(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    for place in ("run/step-000014.safetensors", "run"):
        resume_run(tmp_path / place)
        agree(tmp_path / "run", straight)


def test_random_samples_of_a_data_set_go_on_where_they_were(davis, tmp_path, monkeypatch):
    config = config_of(davis, "train.steps=6", "log.checkpoint=2", "log.measure=0", "log.every=1",
                       "data.photometric=0.4")
    run(config, tmp_path / "straight")
    with monkeypatch.context() as patched:
        crash_before(patched, Log, 5)
        with pytest.raises(Crash):
            run(config, tmp_path / "run")
    resume_run(tmp_path / "run")
    one, two = (tmp_path / name for name in ("run", "straight"))
    assert losses(one) == losses(two) and len(losses(one)) == 6
    assert same(weights(one / "final.safetensors"), weights(two / "final.safetensors"))


def test_the_previous_checkpoint_survives_a_full_disk(straight, tmp_path, monkeypatch):
    "The disk is full in the middle of the fifth checkpoint."
    real, count = checkpoints.write_whole, []
    def fill(path, data):
        if Path(path).name != "last.safetensors" or count.append(1) or len(count) != 5:
            return real(path, data)
        with whole_file(path) as part:
            part.write_bytes(data[:len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(part))
    monkeypatch.setattr(checkpoints, "write_whole", fill)
    with pytest.raises(OSError, match="No space left on device: .*last.safetensors"):
        begin_or_go_on(tmp_path / "run")
    assert load_training(tmp_path / "run/last.safetensors")["step"] == 4
    resume_run(tmp_path / "run")
    agree(tmp_path / "run", straight)


def test_a_loss_that_is_no_number_leaves_a_checkpoint_from_before(tmp_path, monkeypatch):
    real = MovingScenes._sample
    def sample(self, i):
        found = real(self, i)
        spoil = float("nan") if i == 5 and self.seed == 0 else 1
        return found | dict(flow=found["flow"] * spoil)
    monkeypatch.setattr(MovingScenes, "_sample", sample)
    with pytest.raises(ValueError, match=r"nan at step \d+ \(frames .*scene0/00005"):
        run(make_config(changes=[*TINY, "train.steps=50", "log.measure=0"]), tmp_path / "x")
    assert all(v.isfinite().all() for v in weights(tmp_path / "x/last.safetensors").values())


# ---- parts, processes, memory

def processes(n, *argv, cwd):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", n, "-m",
             "gwm_nb.train", *argv]
    more = dict(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True,
                          text=True, env=os.environ | more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_and_two_parts_are_one(davis, tmp_path):
    "Published sampling, averaged weights, unfreezing, measured and kept: the same total batch."
    changes = ["data.batch=4", "train.steps=4", "data.photometric=0", "data.flips=0.5",
               "train.ema=0.5", "log.measure=2", "log.labels=false", "data.validation=4",
               'network.unfreeze={2 = "backbone.stages.3.*"}', "log.keep_every=2"]
    run(config_of(davis, *changes), tmp_path / "one")
    printed = processes(2, "--preset", "davis", "--data", davis, "--out", "two", "--set", *DAVIS,
                        *changes, "train.accumulate=2", cwd=tmp_path)
    assert printed.count("best network") == 1
    one, two = (read_log(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [2, 4]
    for k in ("loss", "validation loss"):
        np.testing.assert_allclose([line[k] for line in two], [line[k] for line in one], atol=1e-4)
    a, b = (weights(tmp_path / name / "final.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_go_on_together(tmp_path):
    settings = [*EVERYTHING, "train.steps=8", "log.checkpoint=4"]
    one, two = tmp_path / "straight", tmp_path / "run"
    for out in (one, two):
        processes(2, "--out", out, "--set", *settings, cwd=tmp_path)
    (two / "last.safetensors").unlink(), (two / "final.safetensors").unlink()
    processes(2, "--resume", two / "step-000006.safetensors", cwd=tmp_path)
    assert losses(one) == losses(two)
    assert same(weights(one / "final.safetensors"), weights(two / "final.safetensors"))


def test_recomputing_changes_no_gradient():
    def gradients(change):
        torch.manual_seed(0)
        network = create_network("efficientnet_lite0", freeze=False, pretrained=False).eval()
        change(network)(torch.rand(2, 3, 64, 96)).square().mean().backward()
        return [p.grad for p in network.parameters()]
    plain, again = gradients(lambda network: network), gradients(recompute)
    torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-4)


def test_recomputing_the_published_head():
    torch.manual_seed(0)
    network = paper_network(2, name="vit_tiny_patch16_224", stride=8, blocks=(0, 1)).eval()
    maps = network.features(torch.rand(1, 3, 64, 96))
    def kept():
        tensors = {}
        def count(t):
            tensors[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t
        network.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            out = network.decode(maps, (64, 96))
        out.square().mean().backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        return sum(tensors.values()), gradients
    (plain, gradients), (fewer, again) = kept(), recompute(network) and kept()
    assert fewer < plain
    torch.testing.assert_close(gradients, again, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path):
    for compiled in ("false", "true"):
        run(make_config(changes=[*TINY, f"network.compile={compiled}"]), tmp_path / compiled)
    np.testing.assert_allclose(losses(tmp_path / "true"), losses(tmp_path / "false"), atol=1e-3)


def test_kept_features(davis, tmp_path):
    "All are there before the first step, mirrored ones too; the next run computes none."
    torch.manual_seed(0)
    state = create_network("resnet18", pretrained=False).backbone.model.state_dict()
    torch.save(state, tmp_path / "w.pt")
    changes = ["network.name=resnet18", f"network.pretrained={tmp_path / 'w.pt'}",
               "data.photometric=0", "data.flips=0.5", "log.labels=false", "data.held_out=cows",
               "data.validation=2"]
    kept = config_of(davis, *changes, "network.features=true")
    first, again = (run(kept, tmp_path / name).network.backbone for name in "ab")
    run(config_of(davis, *changes), tmp_path / "c")
    assert isinstance(first, CachedBackbone)
    assert first.computed == 12 + 2 and again.computed == 0          # and two of validation
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    np.testing.assert_allclose(losses(tmp_path / "c"), losses(tmp_path / "a"), rtol=2e-2)


# ---- weights that come from elsewhere, or go there

def test_weights_alone(straight, tmp_path):
    for source in (straight, straight / "last.safetensors"):
        network = take_weights(create_network("small"), source)
        assert same(network.state_dict(), weights(best_file(source)))
    still = [f"network.init_from={straight}", "train.steps=1", "optim.lr=0", "optim.weight_decay=0"]
    learn = run(make_config(changes=[*TINY, *still]), tmp_path / "b")
    assert same(learn.network.state_dict(), load_run(straight).state_dict())
    with pytest.raises(ValueError):
        take_weights(create_network("small", 5), straight)


def test_weights_of_a_published_checkpoint(tmp_path):
    torch.manual_seed(0)
    one, two = (paper_network(2, name="vit_tiny_patch16_224", stride=None, blocks=(0,))
                for _ in range(2))
    torch.save(dict(model=one.state_dict()), tmp_path / "checkpoint_best.pth")
    take_weights(two, tmp_path / "checkpoint_best.pth")
    assert same(one.state_dict(), two.state_dict())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_adaptation_leaves_the_network_as_it_was(scenes, held_out, precision):
    "Mixed precision wraps the network's forward; the copy has to be its own."
    network = teach(scenes, 2, precision=precision).network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    adapted = adapt(network, held_out, steps=2, lr=1e-2, progress=False, device="cpu")
    assert not same(adapted.state_dict(), before) and not adapted.training
    assert same(network.state_dict(), before)


# ---- a flow store

def test_a_training_takes_a_flow_store(tmp_path, capsys):
    for clip in ("one", "two"):
        write_scene(tmp_path / "clips" / clip, n=4, seed=0)
    make_store(tmp_path / "store", tmp_path / "clips", FlowSettings(size=SIZE, gaps=(1, -1)))
    shutil.rmtree(tmp_path / "clips")                                     # the store is enough
    changes = [*TINY, "data.source=clip", f"data.path={tmp_path / 'store'}"]
    assert len(training_data(make_config(changes=changes))) == 8
    gwm_train(config="", set=changes, out=str(tmp_path / "run"), dry_run=True)
    assert "a flow store of 2 clips and 8 frames" in capsys.readouterr().out
    learn = run(make_config(changes=[*changes, "data.validation=2"]), tmp_path / "run")
    assert len(learn.history) == 6 and (tmp_path / "run/best.safetensors").exists()
    with pytest.raises(ValueError, match="flow store.*clips held out"):
        training_data(make_config(changes=[*changes, 'data.held_out=["one"]']))


# ---- what surrounds a run

def test_names_that_are_no_text_are_trained_on_and_resumed(davis, tmp_path):
    "File names are bytes; these are not UTF-8."
    clip = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(next((davis / "DAVIS2016/JPEGImages/480p").iterdir()), clip)
    changes = [*OWN, "data.source=clip", f"data.path={clip}", "log.measure=0", "log.checkpoint=1"]
    run(make_config("clip", changes=changes), tmp_path / "run")
    assert make_config(file=tmp_path / "run/config.toml").data.path == str(clip)
    assert resume_run(tmp_path / "run").step == 2


def test_without_a_compiler_a_run_says_so_and_leaves_nothing(scenes, tmp_path, monkeypatch):
    def broken(*args, **options): raise RuntimeError("No working C++ compiler found")
    monkeypatch.setattr(torch, "compile", broken)
    config = make_config("demo", changes=[*OWN, "data.scenes=4", "network.compile=true"])
    with pytest.raises(ValueError, match="network.compile=false"): run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rank_alone_means_nothing(tmp_path, monkeypatch):
    "Some schedulers set RANK for their own purposes; only launchers set LOCAL_RANK as well."
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    run(make_config("demo", changes=[*OWN, "data.scenes=4", "log.measure=0"]), tmp_path / "run")
    assert len(read_log(tmp_path / "run/log.jsonl")) == 2
