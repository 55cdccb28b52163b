"Runs: settings that are refused, callbacks, the command, resume after SIGKILL, several processes, the published presets."
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

from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowSettings, make_store
from gwm_nb.network import create_network
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.paper import CachedBackbone, paper_network, paper_recipe
from gwm_nb.checkpoints import load, load_training
from gwm_nb.train import Callback, Checkpoint, Flips, Learner, fit
from gwm_nb.runs import (EMA, KEYS, Best, Config, Drawn, EarlyStop, KeepLast, Log, Measure, Pictures, Trackers, Unfreeze, adapt, averaged, best_file, describe,
                         gwm_train, held_back, load_run, make_config, make_learner, make_optimiser, make_schedule, plot_loss, presets, read_log, recompute,
                         resume_run, run, sets_there, take_weights, to_toml, training_data, validation_data, validation_loss)

SIZE = (32, 48)
TINY = ["data.scenes=8", "data.size=[32, 48]", "data.validation=4", "data.batch=4", "train.steps=6", "log.measure=2", "log.checkpoint=1",
        "log.progress=false", "train.device=cpu"]
EVERYTHING = [*TINY, "data.photometric=0.3", "train.ema=0.5", 'network.unfreeze={2 = "backbone.stages.3.*"}', "log.keep_every=2", "log.keep=2"]


@pytest.fixture(scope="module")
def scenes(): return MovingScenes(8, seed=0, size=SIZE)


@pytest.fixture(scope="module")
def held_out(): return MovingScenes(4, seed=1000, size=SIZE)


def write_davis(root, clips=("dog", "cows"), frames=6, name="DAVIS2016", labels=True):
    "A miniature data set in the published layout."
    for i, clip in enumerate(clips):
        scene = MovingScenes(1, seed=14 + i, size=(64, 96)).scene(0)
        for kind in ("JPEGImages", "Annotations")[:1 + labels]:
            (root / name / kind / "480p" / clip).mkdir(parents=True)
        for t in range(frames):
            pixels = (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy()
            cv2.imwrite(str(root / name / "JPEGImages/480p" / clip / f"{t:05d}.jpg"), pixels[..., ::-1])
            if labels:
                cv2.imwrite(str(root / name / "Annotations/480p" / clip / f"{t:05d}.png"), scene.labels(t).numpy().astype(np.uint8) * 255)
    return root


@pytest.fixture(scope="module")
def davis(tmp_path_factory): return write_davis(tmp_path_factory.mktemp("davis"))


DAVIS = ["data.method=dis", "data.flow_size=[64, 96]", "data.size=[32, 48]", "network.name=small", "network.pretrained=random", "data.batch=2", "train.steps=2", "log.progress=false",
         "log.pictures=0", "train.device=cpu"]


def losses(folder): return [line["loss"] for line in read_log(Path(folder) / "log.jsonl")]


def weights(path): return load(path).state_dict()


def same(a, b): return a.keys() == b.keys() and all(v.equal(b[k]) for k, v in a.items())


# ---- settings

@pytest.mark.parametrize("change, says", [
    ("optim.lrr=1", "there is no setting 'optim.lrr'; did you mean 'optim.lr'?"), ("lr=1", "there is no setting 'lr'"),
    ("optm.lr=1", "did you mean 'optim.lr'"), ("optim.lr.x=1", "there is no setting"), ("optim.lr", "KEY=VALUE"), ("data.batch=4.5", "a whole number, not 4.5"),
    ("data.batch=true", "a whole number, not True"), ("data.batch=", "a whole number, not ''"), ("optim.lr=fast", "a number, not 'fast'"),
    ("optim.name=adam", "'adamw' or 'paper', not 'adam'; did you mean 'adamw'?"), ("data.both=1", "true or false"),
    ("data.size=[128]", r"\[height, width\]"), ("data.size=[1.5, 2]", "whole numbers"), ("data.batch=0", "data.batch must be at least 1"),
    ("train.steps=-3", "train.steps must be at least 1"), ("log.every=0", "log.every must be at least 1"), ("train.ema=2", "between 0 and 1"),
    ("network.features=true data.photometric=0.4", "photometric=0"), ('network.features=true network.unfreeze={0="*"}', "never trained"),
    ("log.best=J", "log.labels=true"), ("train.patience=3 log.measure=0", "log.measure is 0"), ('log.trackers=["tensorbord"]', "choose from tensorboard, wandb")])
def test_wrong_settings_are_refused_in_one_line(change, says):
    with pytest.raises(ValueError, match=says) as e:
        make_config(changes=change.split(" "))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text, says", [
    ("[optim]\nlrate = 1", "there is no setting 'optim.lrate'; did you mean 'optim.lr'"), ("[optim]\nlr = '1'", "optim.lr must be a number"),
    ("[optim]\nlr = ", "not a TOML file"), ("optim = 3", "there is no setting 'optim'"), ("[nework]\nname = 'small'", "did you mean 'network.name'")])
def test_wrong_files_are_refused_by_name(tmp_path, text, says):
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(ValueError, match=says) as e:
        make_config(file=tmp_path / "my.toml")
    assert "my.toml" in str(e.value) and "\n" not in str(e.value)


def test_unknown_presets_and_files():
    with pytest.raises(ValueError, match="did you mean 'davis'"):
        make_config("davsi")
    with pytest.raises(FileNotFoundError, match="nowhere.toml: no such file"):
        make_config(file="nowhere.toml")


def test_a_change_beats_the_file_and_the_file_the_preset(tmp_path):
    (tmp_path / "my.toml").write_text("[optim]\nlr = 1\n[data]\nbatch = 3\nheld_out = ['a']\n[network.unfreeze]\n5 = 'backbone.*'\n")
    config = make_config("davis", tmp_path / "my.toml", ["data.batch=5", "data.method=dis"])
    assert (config.optim.lr, config.data.batch, config.optim.clip, config.data.held_out) == (1., 5, .01, ["a"]) and type(config.optim.lr) is float
    assert config.network.unfreeze == {"5": "backbone.*"}
    assert make_config(changes=["data.held_out=dog,cows"]).data.held_out == ["dog", "cows"]
    assert make_config(changes=['network.name="paper"']).network.name == "paper"


@pytest.mark.parametrize("preset", ["", *presets()])
def test_settings_survive_the_file_they_are_written_to(tmp_path, preset):
    config = make_config(preset, changes=['data.path=a "b" \\ ü', "data.held_out=['x']"])
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8")
    assert make_config(file=tmp_path / "c.toml") == config


def test_every_setting_is_read_by_something():
    code = Path(sys.modules["gwm_nb.runs"].__file__).read_text()
    whole = {f"loss.{f.name}" for f in fields(Config().loss)}          # handed over as they are
    assert [key for key in KEYS if key not in whole and f".{key.partition('.')[2]}" not in code] == []


@pytest.mark.parametrize("preset", list(presets()))
def test_presets_begin_with_their_command(preset):
    text = presets()[preset].read_text()
    assert text.startswith(f"# gwm_train --preset {preset} ") and f"--out runs/{preset}\n" in text
    assert set(tomllib.loads(text)) <= {f.name for f in fields(Config)}


@pytest.mark.parametrize("preset, source", [("davis", "DAVIS"), ("fbms", "FBMS"), ("stv2", "STv2"), ("all", "DAVIS+FBMS+STv2")])
def test_the_published_presets_are_the_published_recipe(preset, source):
    config, recipe = make_config(preset), paper_recipe()
    assert (config.data.source, config.network.name, config.network.masks) == (source, "paper", 4)
    assert (config.train.steps, config.data.batch, config.optim.clip) == (recipe["steps"], recipe["batch_size"], recipe["clip"])
    assert (config.data.size, config.data.flow_size, config.log.measure, config.data.photometric) == ([128, 224], [480, 854], 250, 0)
    assert config.log.best == "validation loss"
    ours, theirs = vars(make_learner_loss(config)), vars(recipe["loss"])
    assert {k: v for k, v in ours.items() if not k.startswith("_")} == {k: v for k, v in theirs.items() if not k.startswith("_")}
    network = paper_network(2, name="vit_tiny_patch16_224", stride=None, blocks=(0,))
    made = [(opt := optimiser(network), schedule(opt, 20_000)) for optimiser, schedule in
            ((make_optimiser(config), make_schedule(config)), (recipe["optimiser"], recipe["schedule"]))]
    for _ in range(3):
        rates = [[g["lr"] for g in opt.param_groups] for opt, _ in made]
        assert rates[0] == rates[1] and [g["weight_decay"] for g in made[0][0].param_groups] == [g["weight_decay"] for g in made[1][0].param_groups]
        for opt, schedule in made:
            opt.step(), schedule.step()


def make_learner_loss(config): return sys.modules["gwm_nb.runs"]._loss(config)


def test_two_recorded_steps_of_the_published_training(golden):
    "Through the Learner that a published preset makes its parts of; recorded without dropout and without warm-up."
    from test_paper import check_gradients, fill_network, picture, relative
    z, seen = dict(np.load(golden / "train_96x160.npz")), []
    config = make_config("davis", changes=["optim.warmup=0", "train.steps=2", "data.batch=1"])
    network = fill_network(paper_network())
    parameters = dict(network.named_parameters())
    sample = dict(image=picture(z)[0], flow=torch.tensor(z["flow"])[0], name="recorded/0")

    class Recorded(Callback):
        def before_step(self, learn): learn.model.eval()
        def after_backward(self, learn):
            if learn.step == 0:
                check_gradients(parameters, z)
        def after_step(self, learn):
            seen.append(learn.loss.item())
            for k in z:
                if k.startswith(f"param{learn.step}/"):
                    assert relative(parameters[k[7:]].detach(), z[k]) < 1e-3, k
    learn = Learner(network, [sample], make_learner_loss(config), config.train.steps, config.data.batch, make_optimiser(config), make_schedule(config),
                    clip=config.optim.clip, device="cpu", callbacks=[Recorded()]).fit()
    assert seen == [pytest.approx(z[f"loss{t}"], abs=1e-5) for t in range(2)] and learn.step == 2


# ---- data

def test_drawn_samples_belong_to_their_number():
    class Roll(torch.utils.data.Dataset):
        def __len__(self): return 5
        def __getitem__(self, i): return i, torch.rand(()).item()
    drawn, before = Drawn(Roll()), torch.get_rng_state()
    found = [drawn[i] for i in (0, 1, 2**31, 0)]
    assert found[0] == found[3] and len({*found}) == 3 and torch.get_rng_state().equal(before)


def test_training_and_validation_of_a_data_set(davis):
    config = make_config("davis", changes=[*DAVIS, f"data.path={davis}", "data.held_out=cows"])
    data, validation = training_data(config), validation_data(config)
    assert {data[i]["name"].split("/")[0] for i in range(20)} == {"dog"} and {validation[i]["name"].split("/")[0] for i in range(6)} == {"cows"}
    for samples in (data, validation):
        assert samples[0]["image"].shape == (3, 32, 48) and samples[0]["flow"].shape == (2, 64, 96)
    assert "mask" not in data[0] and validation[0]["mask"].shape == (64, 96)
    config = make_config("davis", changes=[*DAVIS, f"data.path={davis}", "log.labels=false", "data.validation=3"])
    validation = validation_data(config)
    assert len(validation) == 3 and "mask" not in validation[0]
    assert validation[0]["name"].split("/")[0] == "cows" and "dog" in {n.split("/")[0] for n in validation.dataset.names}


def test_whatever_is_there_of_the_data_sets(davis):
    said = []
    for path in (davis, davis / "DAVIS2016"):
        found = sets_there(make_config("all", changes=[f"data.path={path}"]).data, said.append)
        assert {name: folder.name for name, folder in found.items()} == {"DAVIS": "DAVIS2016"}
    assert len(said) == 4 and "FBMS" in said[0] and "STv2" in said[1] and "left out" in said[0]
    with pytest.raises(FileNotFoundError, match="none of DAVIS, FBMS, STv2"):
        sets_there(make_config("all", changes=[f"data.path={davis / 'DAVIS2016/JPEGImages'}"]).data)
    with pytest.raises(FileNotFoundError, match="no folder FBMS"):
        sets_there(make_config("fbms", changes=[f"data.path={davis}"]).data)


def test_a_run_on_a_data_set_measures_every_protocol(davis, tmp_path):
    learn = run(make_config("davis", changes=[*DAVIS, f"data.path={davis}", "data.validation=4"]), tmp_path / "x")
    last = read_log(tmp_path / "x/log.jsonl")[-1]
    assert last["step"] == 2 and {"validation loss", "J", "J_best_of_two", "J_best_mask"} <= last.keys() and learn.step == 2
    notes = load(tmp_path / "x/best.safetensors").notes
    assert notes["chosen_by"] == "validation loss" and notes["looks_at_labels"] is False
    assert notes["config"] == asdict(make_config(file=tmp_path / "x/config.toml"))


def test_best_by_labels_says_so(tmp_path, capsys):
    gwm_train("demo", out=str(tmp_path / "x"), set=[*TINY, "log.best=J_best_of_two"])
    assert load(tmp_path / "x/best.safetensors").notes["looks_at_labels"] is True
    assert "J_best_of_two" in capsys.readouterr().out.split("best network")[1].splitlines()[0] and 'best = "J_best_of_two"' in (tmp_path / "x/config.toml").read_text()


# ---- what is refused before heavy work

def command(*argv, cwd, **environment):
    "gwm_train in a process of its own."
    return subprocess.run([sys.executable, "-m", "gwm_nb.train", *map(str, argv)], cwd=cwd, capture_output=True, text=True, env=os.environ | environment)


def refused(*argv, **options):
    with pytest.raises((ValueError, OSError)) as e:
        gwm_train(**dict(zip(("preset", "data", "out"), map(str, argv))), **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_folders_that_are_taken(tmp_path):
    (tmp_path / "foreign").mkdir(), (tmp_path / "foreign/thesis.tex").write_text("x"), (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir(), (tmp_path / "run/config.toml").write_text("")
    assert "holds other things (thesis.tex)" in refused("demo", "", tmp_path / "foreign")
    assert "--resume" in refused("demo", "", tmp_path / "run") and "is a file" in refused("demo", "", tmp_path / "file")


def test_folders_of_labels(davis, tmp_path):
    assert "these are labels (Annotations)" in refused("clip", davis / "DAVIS2016/Annotations/480p/dog", tmp_path / "x")
    assert "these are labels (Annotations)" in refused("clip", davis / "DAVIS2016/Annotations", tmp_path / "x")
    os.rename(write_davis(tmp_path, ("dog",)) / "DAVIS2016/Annotations/480p/dog", tmp_path / "mine")
    assert "no more than 16 colours" in refused("clip", tmp_path / "mine", tmp_path / "x")
    assert not (tmp_path / "x").exists()          # nothing is left behind


def test_too_few_samples(tmp_path, davis):
    assert "8 samples are fewer than a batch of 9" in refused("demo", "", tmp_path / "x", set=[*TINY, "data.batch=9"])
    clip = davis / "DAVIS2016/JPEGImages/480p/dog"
    assert "6 samples are fewer than a batch of 8; give more, or --set data.batch=6" in refused("clip", clip, tmp_path / "x")
    (tmp_path / "empty").mkdir()
    assert "no images" in refused("clip", tmp_path / "empty", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_resume_takes_a_run_as_it_is(tmp_path):
    assert "begin a new one with --init-from" in refused("demo", resume=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="has no config.toml"):
        gwm_train(resume=str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="no network in this folder"):
        best_file(tmp_path)


def test_out_of_memory_is_one_line(tmp_path, monkeypatch):
    def full(self, learn): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB ...")
    monkeypatch.setattr(Flips, "before_step", full)
    message = refused("demo", "", tmp_path / "x", set=TINY)
    assert "too little memory for a batch of 4: raise train.accumulate" in message


def test_the_command_in_a_process_of_its_own(tmp_path):
    done = command("--preset", "demo", "--dry-run", "--set", *TINY, cwd=tmp_path)
    assert done.returncode == 0 and "440,178 parameters" in done.stdout and "5." in done.stdout and list(tmp_path.iterdir()) == []
    done = command("--preset", "demo", "--set", "optim.lrr=1", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.strip() == "gwm_train: --set: there is no setting 'optim.lrr'; did you mean 'optim.lr'?"


def test_changes_that_would_be_lost(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gwm_train", "--set", "data.batch=2", "--set", "optim.lr=1"])
    with pytest.raises(SystemExit, match="given twice"):
        gwm_train()


def test_dry_run_of_a_data_set(davis, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gwm_train("all", str(davis), dry_run=True)
    gwm_train("davis", str(davis), dry_run=True, set=["network.name=resnet18", "network.features=true", "data.photometric=0", "data.flips=0.5"])
    said = capsys.readouterr().out
    assert "no folder FBMS" in said and "DAVIS" in said and "samples: 12 frames" in said and "15,901,662 of them trained" in said
    assert "2 clips, 12 frames, 36 flows of gaps 1 2 -1 -2 by raft at 480x854" in said and "features: of 24 frames" in said
    assert list(tmp_path.iterdir()) == []


def write_films(root, clips=("early", "late"), frames=5):
    "Own clips without annotations."
    for i, clip in enumerate(clips):
        scene = MovingScenes(1, seed=i, size=(64, 96)).scene(0)
        (root / clip).mkdir(parents=True)
        for t in range(frames):
            cv2.imwrite(str(root / clip / f"{t:05d}.png"), (scene.frame(t) * 255).byte().permute(1, 2, 0).numpy()[..., ::-1])
    return root


def no_flow(*args): raise AssertionError("flow is made although the settings are wrong")


OWN = ["data.size=[48, 64]", "data.batch=2", "train.steps=2", "train.device=cpu", "log.progress=false"]


@pytest.mark.parametrize("changes, says", [
    (["log.labels=true"], "early: no annotations for this clip; .*--set data.held_out=CLIP.*or --set log.labels=false"),
    (["log.labels=true", "data.held_out=late"], "late: no annotations for this clip; .*or --set log.labels=false"),
    (["data.held_out=latte"], "no clip 'latte'; it has early, late"),
    (["data.held_out=early,late"], "all clips are held out"),
    (["data.held_out=latte", "log.measure=0"], "no clip 'latte'")])
def test_wrong_names_and_missing_annotations_are_refused_before_any_flow(tmp_path, monkeypatch, changes, says):
    write_films(tmp_path / "clips")
    monkeypatch.setattr("gwm_nb.videos.kept_store", no_flow)
    for options in (dict(dry_run=True), dict()):
        assert re.search(says, refused("clip", tmp_path / "clips", tmp_path / "x", set=[*OWN, *changes], **options))
    with pytest.raises(ValueError, match=says): describe(make_config("clip", changes=[*OWN, *changes, f"data.path={tmp_path / 'clips'}"]))
    assert not (tmp_path / "x").exists()


def test_a_data_set_is_looked_through_before_any_flow(tmp_path, monkeypatch):
    monkeypatch.setattr("gwm_nb.runs.kept_store", no_flow)
    monkeypatch.setattr("gwm_nb.videos.kept_store", no_flow)
    root = write_davis(tmp_path)
    for options in (dict(dry_run=True), dict()):
        assert "no clip 'cow'; it has" in refused("davis", root, tmp_path / "x", set=[*DAVIS, "data.held_out=cow"], **options)
        assert "all clips are held out" in refused("davis", root, tmp_path / "x", set=[*DAVIS, "data.held_out=cows,dog"], **options)
    (root / "DAVIS2016/Annotations/480p/cows/00003.png").unlink()
    for options in (dict(dry_run=True), dict()):
        assert "frame 00003 has no annotation" in refused("davis", root, tmp_path / "x", set=DAVIS, **options)
    shutil.rmtree(root / "DAVIS2016/Annotations")
    for options in (dict(dry_run=True), dict()):
        assert "cows: no annotations for this clip" in refused("davis", root, tmp_path / "x", set=[*DAVIS, "log.measure=0"], **options)
    gwm_train("davis", str(root), dry_run=True, set=[*DAVIS, "log.labels=false"])
    assert not (tmp_path / "x").exists()


def test_a_clip_held_out_needs_annotations_the_others_do_not(davis, capsys, tmp_path):
    clips = write_davis(tmp_path) / "DAVIS2016"
    shutil.rmtree(clips / "Annotations/480p/dog")
    gwm_train("clip", str(clips), dry_run=True, set=[*OWN, "log.labels=true", "data.held_out=cows"])
    assert "J (looks at labels) once, after the last step, on at most 32 frames with annotations of the clips held out: cows; best by" in capsys.readouterr().out


@pytest.mark.parametrize("preset, changes, says", [
    ("clip", [], "the validation loss every 50 steps, on at most 32 frames of the training clips (none is held out; data.held_out=CLIP)"),
    ("clip", ["data.held_out=late", "data.validation=0", "train.steps=120"], "every 50 steps and at the last, on all frames of the clips held out: late; best"),
    ("clip", ["train.steps=20"], "the validation loss once, after the last step, on"), ("clip", ["train.steps=50"], "once, after the last step"),
    ("clip", ["log.measure=0"], "measured: nothing"), ("demo", [], "J (looks at labels) every 50 steps, on 32 other scenes;")])
def test_a_dry_run_says_when_and_on_what_is_measured(tmp_path, preset, changes, says):
    changes = [*OWN, "train.steps=300", *changes, *([f"data.path={write_films(tmp_path)}"] if preset == "clip" else [])]
    assert says in describe(make_config(preset, changes=changes)).splitlines()[-1]


def test_a_dry_run_names_the_published_validation_clips(davis, capsys):
    gwm_train("davis", str(davis), dry_run=True, set=[*DAVIS, "log.labels=false"])
    assert "on all frames of the validation clips of DAVIS, which are trained on, too: cows, dog; best" in capsys.readouterr().out


# ---- callbacks

def test_the_log_holds_every_nth_step_the_last_and_what_was_measured(scenes, tmp_path):
    learn = fit(scenes, steps=7, progress=False, callbacks=[Measure(5, "x", lambda network: 3.), Log(tmp_path / "log.jsonl", every=3)])
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == [3, 5, 6, 7] and [line.get("x") for line in lines] == [None, 3., None, 3.]
    assert [line["loss"] for line in lines] == [learn.history[line["step"] - 1]["loss"] for line in lines]
    assert [line["lr"] for line in lines] == [learn.history[line["step"] - 1]["lr"] for line in lines]
    figure = plot_loss(tmp_path / "log.jsonl")
    assert len(figure.axes) == 2 and len(plot_loss(learn).axes) == 2
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_loss(tmp_path / "no.jsonl")


def test_half_a_line_is_no_line(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "lo')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "loss": .1}]


def test_validation_loss_is_the_loss_of_the_logits(held_out):
    torch.manual_seed(0)
    network = create_network("small").train()
    batch = {k: torch.stack([held_out[i][k] for i in range(4)]) for k in ("image", "flow")}
    loss = ReconstructionLoss(normalise=True)
    with torch.no_grad():
        wanted = loss(network.eval()(batch["image"]), batch["flow"]).item()
    network.train()
    assert validation_loss(network, held_out, loss, batch_size=3) == pytest.approx(wanted, rel=1e-4) and network.training


def test_ema_is_the_average_of_the_weights(scenes):
    class Keep(Callback):
        def __init__(self): self.weights = []
        def after_step(self, learn): self.weights.append([p.detach().clone() for p in learn.network.parameters()])
    keep, ema = Keep(), EMA(.7)
    learn = fit(scenes, steps=4, progress=False, callbacks=[keep, ema])
    wanted = keep.weights[0]
    for now in keep.weights[1:]:
        wanted = [.7 * w + .3 * n for w, n in zip(wanted, now)]
    with averaged(learn) as network:
        for p, w in zip(network.parameters(), wanted):
            torch.testing.assert_close(p.detach(), w)
    assert all(p.equal(w) for p, w in zip(learn.network.parameters(), keep.weights[-1]))       # and back to the bit


def test_what_is_measured_and_kept_is_the_average(scenes, tmp_path):
    seen = []
    ema = EMA(.5)
    look = Measure(2, "x loss", lambda network: seen.append([p.detach().clone() for p in network.parameters()]) or 1. / len(seen))
    learn = fit(scenes, steps=2, progress=False, callbacks=[ema, look, Best(tmp_path / "best.safetensors", by="x loss")])
    assert all(a.equal(b) for a, b in zip(seen[0], ema.kept)) and not all(a.equal(b) for a, b in zip(seen[0], learn.network.parameters()))
    assert all(a.equal(b) for a, b in zip(seen[0], load(tmp_path / "best.safetensors").parameters()))


@pytest.mark.parametrize("by, values, best", [("v loss", [3., 1., 2., 1.], 2), ("J", [.1, .5, .7, .2], 3), ("J", [.5, .5], 1)])
def test_best_is_the_first_of_the_best(scenes, tmp_path, by, values, best):
    answers = iter(values)
    fit(scenes, steps=len(values), batch_size=2, progress=False,
        callbacks=[Measure(1, by, lambda n: next(answers)), Best(tmp_path / "best.safetensors", by, colour="red")])
    notes = load(tmp_path / "best.safetensors").notes
    assert (notes["step"], notes["value"], notes["chosen_by"], notes["looks_at_labels"], notes["colour"]) == (best, values[best - 1], by, by == "J", "red")


def test_best_by_what_nobody_measures(scenes, tmp_path):
    with pytest.raises(ValueError, match="'J', which nothing measures; there is x loss"):
        fit(scenes, steps=1, progress=False, callbacks=[Measure(1, "x loss", lambda n: 0.), Best(tmp_path / "b.safetensors", "J")])


def test_the_last_checkpoints_stay(scenes, tmp_path):
    fit(scenes, steps=9, batch_size=2, progress=False, callbacks=[KeepLast(tmp_path, every=2, n=3)])
    assert sorted(f.name for f in tmp_path.iterdir()) == [f"step-{i:06d}.safetensors" for i in (4, 6, 8)]
    assert load(tmp_path / "step-000006.safetensors").notes["step"] == 6 and load_training(tmp_path / "step-000006.safetensors")["step"] == 6


def test_stop_when_nothing_gets_better(scenes):
    answers = iter([5., 4., 4.5, 4.2, 3., 3.5, 3.5, 3.5, 0.])
    learn = fit(scenes, steps=9, batch_size=2, progress=False, callbacks=[Measure(1, "validation loss", lambda n: next(answers)), EarlyStop(3)])
    assert learn.step == 8 and learn.outcome == "finished"


def test_unfreezing_moves_only_what_it_says(scenes):
    network = create_network("efficientnet_lite0", pretrained=False, freeze=False)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    stages = {2: "backbone.model.blocks.4.*", 4: "backbone.*"}
    snapshots = []

    class Look(Callback):
        def after_step(self, learn): snapshots.append({k: not v.equal(before[k]) for k, v in learn.network.state_dict().items()})
    fit(scenes, network, steps=5, batch_size=2, progress=False, callbacks=[Unfreeze(stages), Look()])
    for step, moved in enumerate(snapshots, 1):
        last, rest = ([m for k, m in moved.items() if k.startswith("backbone") and ("blocks.4." in k) == late] for late in (True, False))
        assert any(last) == (step > 2) and any(rest) == (step > 4) and any(m for k, m in moved.items() if k.startswith("decoder"))
    with pytest.raises(ValueError, match="no parameter is named 'bakbone"):
        fit(scenes, steps=1, progress=False, callbacks=[Unfreeze({1: "bakbone.*"})])
    with pytest.raises(ValueError, match="always frozen"):
        make_learner(make_config("davis", changes=['network.unfreeze={0="*"}']), ".")


def test_pictures(scenes, tmp_path):
    fit(scenes, steps=5, batch_size=2, progress=False, callbacks=[Pictures(tmp_path / "p", every=2, data=scenes, n=2)])
    assert sorted(f.name for f in (tmp_path / "p").iterdir()) == [f"step-{i:06d}.png" for i in (2, 4, 5)]
    assert cv2.imread(str(tmp_path / "p/step-000002.png")).std() > 10


def test_a_tracker_that_is_not_installed(monkeypatch):
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=f"{name} is not installed: pip install {name}"):
            make_config(changes=[f'log.trackers=["{name}"]'])


class Told:
    "Stands for a tracker of accelerate."
    def __init__(self, run_name, **options):
        self.run_name, self.options, self.lines = run_name, options, []
        Told.last = self
    def log(self, values, step): self.lines.append((step, values))
    def finish(self): self.lines.append("finished")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_trackers_are_told_what_the_log_says(scenes, tmp_path, monkeypatch, name):
    runs = sys.modules["gwm_nb.runs"]
    monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(runs.accelerate.tracking.LOGGER_TYPE_TO_CLASS, name, Told)
    fit(scenes, steps=3, progress=False, callbacks=[Measure(2, "x loss", lambda n: 1.), Log(tmp_path / "log.jsonl"), Trackers(name, tmp_path / "run" / name)])
    told = Told.last.lines
    assert told[-1] == "finished" and [step for step, _ in told[:-1]] == [1, 2, 3]
    for (step, values), line in zip(told[:-1], read_log(tmp_path / "log.jsonl")):
        assert {k: v for k, v in values.items() if k != "seconds"} == {k: v for k, v in line.items() if k not in ("seconds", "step")}


# ---- once more, and after a crash

def test_the_same_run_twice(tmp_path):
    for name in "ab":
        run(make_config(changes=EVERYTHING), tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    for file in ("final", "best", "last"):
        assert same(weights(tmp_path / f"a/{file}.safetensors"), weights(tmp_path / f"b/{file}.safetensors"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run(make_config(changes=[*EVERYTHING, "train.steps=16"]), folder)
    return folder


def agree(folder, straight):
    "Everything but the clock."
    one, two = ([{k: v for k, v in line.items() if k != "seconds"} for line in read_log(f / "log.jsonl")] for f in (folder, straight))
    assert one == two
    for file in ("final", "best", "last", "step-000014", "step-000016"):
        assert same(weights(folder / f"{file}.safetensors"), weights(straight / f"{file}.safetensors")), file
    one, two = (load_training(f / "last.safetensors") for f in (folder, straight))
    assert one["step"] == two["step"] == 16 and all(a.equal(b) for a, b in zip(ema(one), ema(two)))
    assert sorted(f.name for f in folder.iterdir()) == sorted(f.name for f in straight.iterdir())


def ema(training): return dict(training["callbacks"])["EMA"]


def begin_or_go_on(folder):
    torch.set_num_threads(1)
    if (folder / "config.toml").exists():
        resume_run(folder)
    else:
        run(make_config(changes=[*EVERYTHING, "train.steps=16"]), folder)


def begin_or_go_on_and_wait(folder):
    "To be killed: also where the run was over before."
    begin_or_go_on(folder)
    folder.with_suffix(".over").touch()
    signal.pause()


def killed_at_random(folder, moments, seed):
    "Kill a run so many times, each time a random while after the log has grown by some lines, then let it finish."
    dice, context = random.Random(seed), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gwm_nb.runs"])
    for _ in range(moments):
        program = context.Process(target=begin_or_go_on_and_wait, args=(folder,))
        program.start()
        wanted = len(read_log(folder / "log.jsonl")) + dice.randint(0, 3)
        while program.is_alive() and not folder.with_suffix(".over").exists() and len(read_log(folder / "log.jsonl")) < wanted:
            time.sleep(.001)
        time.sleep(dice.uniform(0, .15))
        os.kill(program.pid, signal.SIGKILL)
        program.join()
        assert program.exitcode == -signal.SIGKILL
    begin_or_go_on(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("moments, seed", [(2, 0), pytest.param(5, 1, marks=pytest.mark.slow), pytest.param(5, 2, marks=pytest.mark.slow)])
def test_killed_at_random_moments(straight, tmp_path, moments, seed):
    killed_at_random(tmp_path / "run", moments, seed)
    agree(tmp_path / "run", straight)


@pytest.mark.parametrize("step", [1, 13])
def test_resumed_from_any_step(straight, tmp_path, step, monkeypatch):
    "The last checkpoint is of `step`; the log knows more."
    class Crash(Exception): pass
    def crash(self, learn):
        if learn.step == step + 1 and not crash.done:
            crash.done = True
            raise Crash
        return save_it(self, learn)
    crash.done, save_it = False, Checkpoint.after_step
    monkeypatch.setattr(Checkpoint, "after_step", crash)
    with pytest.raises(Crash):
        begin_or_go_on(tmp_path / "run")
    assert load_training(tmp_path / "run/last.safetensors")["step"] == step and len(losses(tmp_path / "run")) == step + 1
    resume_run(tmp_path / "run")
    agree(tmp_path / "run", straight)


def test_going_on_from_an_earlier_checkpoint_and_from_the_end(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    resume_run(tmp_path / "run/step-000014.safetensors")
    agree(tmp_path / "run", straight)
    resume_run(tmp_path / "run")
    agree(tmp_path / "run", straight)


def test_random_samples_of_a_data_set_go_on_where_they_were(davis, tmp_path, monkeypatch):
    changes = [*DAVIS, f"data.path={davis}", "train.steps=6", "log.checkpoint=2", "log.measure=0", "log.every=1", "data.photometric=0.4"]
    run(make_config("davis", changes=changes), tmp_path / "straight")
    after = Log.after_step
    def crash(self, learn):
        after(self, learn)
        if learn.step == 5:
            raise KeyboardInterrupt
    monkeypatch.setattr(Log, "after_step", crash)
    with pytest.raises(KeyboardInterrupt):
        run(make_config("davis", changes=changes), tmp_path / "run")
    monkeypatch.undo()
    resume_run(tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "straight") and len(losses(tmp_path / "run")) == 6
    assert same(weights(tmp_path / "run/final.safetensors"), weights(tmp_path / "straight/final.safetensors"))


def test_the_previous_checkpoint_survives_a_full_disk(straight, tmp_path, monkeypatch):
    "The disk is full in the middle of the fifth checkpoint."
    real, count = Path.write_bytes, []
    def fill(self, data):
        if self.name.startswith(".last.") and count.append(1) is None and len(count) == 5:
            real(self, data[:len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, data)
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left on device: .*last.safetensors"):
        begin_or_go_on(tmp_path / "run")
    assert load_training(tmp_path / "run/last.safetensors")["step"] == 4
    resume_run(tmp_path / "run")
    agree(tmp_path / "run", straight)


def test_a_loss_that_is_no_number_leaves_a_checkpoint_from_before(tmp_path, monkeypatch):
    broken = MovingScenes._sample
    def sample(self, i):
        found = broken(self, i)
        return found | dict(flow=found["flow"] * float("nan")) if i == 5 and self.seed == 0 else found
    monkeypatch.setattr(MovingScenes, "_sample", sample)
    with pytest.raises(ValueError, match=r"the loss became nan at step \d+ \(frames .*scene0/00005"):
        run(make_config(changes=[*TINY, "train.steps=50", "log.measure=0"]), tmp_path / "x")
    assert all(v.isfinite().all() for v in weights(tmp_path / "x/last.safetensors").values())


# ---- parts, processes, precision, memory

def test_accumulation_changes_nothing(tmp_path):
    for parts in (1, 2, 4):
        run(make_config(changes=[*TINY, "optim.lr=1e-3", f"train.accumulate={parts}"]), tmp_path / str(parts))
    for parts in ("2", "4"):
        np.testing.assert_allclose(losses(tmp_path / parts), losses(tmp_path / "1"), atol=1e-4)
        one, many = weights(tmp_path / "1/final.safetensors"), weights(tmp_path / parts / "final.safetensors")
        for k in one:
            torch.testing.assert_close(one[k], many[k], atol=1e-3, rtol=1e-3)


def processes(n, *argv, cwd):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", n, "-m", "gwm_nb.train", *argv]
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | dict(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""))
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_on_a_data_set_ends_with_every_protocol(davis, tmp_path, capsys):
    gwm_train("davis", str(davis), str(tmp_path / "run"), set=[*DAVIS, 'data.held_out=["dog"]', "log.measure=0"])
    said = capsys.readouterr().out
    assert "DAVIS, dog:" in said and re.search(r"\n *mean( +\d\.\d{3}){8,}\n", said)
    for name in ("published", "per-sequence", "label-free", "k-way"):
        assert re.search(rf"\n{name}: .*look.? at labels", said.replace("looks at", "look at"))
    config = make_config(file=tmp_path / "run/config.toml", changes=["log.labels=false"])
    assert held_back(config, tmp_path / "run") == ""


def test_two_processes_are_one(davis, tmp_path):
    "The published sampling, averaged weights, unfreezing, measured and kept: the same total batch by one process and by two."
    changes = [*DAVIS, "data.batch=4", "train.steps=4", "data.photometric=0", "data.flips=0.5", "train.ema=0.5", "log.measure=2", "log.labels=false",
               "data.validation=4", 'network.unfreeze={2 = "backbone.stages.3.*"}', "log.keep_every=2"]
    run(make_config("davis", changes=[*changes, f"data.path={davis}"]), tmp_path / "one")
    done = processes(2, "--preset", "davis", "--data", davis, "--out", "two", "--set", *changes, cwd=tmp_path)
    assert done.stdout.count("best network") == 1
    one, two = (read_log(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [2, 4]
    for k in ("loss", "validation loss"):
        np.testing.assert_allclose([line[k] for line in two], [line[k] for line in one], atol=1e-4)
    a, b = weights(tmp_path / "one/final.safetensors"), weights(tmp_path / "two/final.safetensors")
    for k in a:
        torch.testing.assert_close(a[k], b[k], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_go_on_together(tmp_path):
    settings = [*EVERYTHING, "train.steps=8", "log.checkpoint=4"]
    processes(2, "--out", "straight", "--set", *settings, cwd=tmp_path)
    processes(2, "--out", "run", "--set", *settings, cwd=tmp_path)
    (tmp_path / "run/last.safetensors").unlink(), (tmp_path / "run/final.safetensors").unlink()
    processes(2, "--resume", "run/step-000006.safetensors", cwd=tmp_path)
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    assert same(weights(tmp_path / "run/final.safetensors"), weights(tmp_path / "straight/final.safetensors"))


def test_half_precision_stays_close(tmp_path):
    "At a low rate: at a high one, six steps make much of a difference in the third digit."
    for precision in ("no", "bf16"):
        run(make_config(changes=[*TINY, f"train.precision={precision}", "optim.lr=4e-4"]), tmp_path / precision)
    a, b = losses(tmp_path / "no"), losses(tmp_path / "bf16")
    assert a != b
    np.testing.assert_allclose(a, b, atol=.05)


def test_recomputing_changes_no_gradient():
    for name, options in (("small", {}), ("efficientnet_lite0", dict(freeze=False, pretrained=False))):
        torch.manual_seed(0)
        one = create_network(name, **options).eval()
        torch.manual_seed(0)
        two = recompute(create_network(name, **options).eval())
        image = torch.rand(2, 3, 64, 96)
        for network in (one, two):
            network(image).square().mean().backward()
        for p, q in zip(one.parameters(), two.parameters()):
            torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4)


def test_recomputing_the_published_head():
    torch.manual_seed(0)
    network = paper_network(2, name="vit_tiny_patch16_224", stride=8, blocks=(0, 1)).eval()
    maps = network.features(torch.rand(1, 3, 64, 96))
    def kept():
        tensors = {}
        count = lambda t: tensors.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t
        network.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            out = network.decode(maps, (64, 96))
        out.square().mean().backward()
        return sum(tensors.values()), [p.grad.clone() for p in network.parameters() if p.grad is not None]
    (plain, gradients), (fewer, again) = kept(), recompute(network) and kept()
    assert fewer < plain
    for p, q in zip(gradients, again):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path):
    for compiled in ("false", "true"):
        run(make_config(changes=[*TINY, f"network.compile={compiled}"]), tmp_path / compiled)
    np.testing.assert_allclose(losses(tmp_path / "true"), losses(tmp_path / "false"), atol=1e-3)


def test_kept_features(davis, tmp_path, monkeypatch):
    "All are there before the first step, mirrored ones too; the next run computes none, and learns the same."
    torch.manual_seed(0)
    torch.save(create_network("resnet18", pretrained=False).backbone.model.state_dict(), tmp_path / "w.pt")
    changes = [*DAVIS, "network.name=resnet18", f"network.pretrained={tmp_path / 'w.pt'}", "data.photometric=0", "data.flips=0.5", "log.labels=false",
               f"data.path={davis}", "data.held_out=cows", "data.validation=2"]
    first = run(make_config("davis", changes=[*changes, "network.features=true"]), tmp_path / "a")
    assert isinstance(first.network.backbone, CachedBackbone) and first.network.backbone.computed == 12 + 2          # and two of validation
    again = run(make_config("davis", changes=[*changes, "network.features=true"]), tmp_path / "b")
    run(make_config("davis", changes=changes), tmp_path / "c")
    assert again.network.backbone.computed == 0 and losses(tmp_path / "a") == losses(tmp_path / "b")
    np.testing.assert_allclose(losses(tmp_path / "c"), losses(tmp_path / "a"), rtol=2e-2)


# ---- weights that come from elsewhere, or go there

def test_weights_alone(tmp_path):
    run(make_config(changes=TINY), tmp_path / "a")
    for source in (tmp_path / "a", tmp_path / "a/last.safetensors"):
        network = take_weights(create_network("small"), source)
        assert same(network.state_dict(), weights(best_file(source)))
    learn = run(make_config(changes=[*TINY, f"network.init_from={tmp_path / 'a'}", "train.steps=1", "optim.lr=0", "optim.weight_decay=0"]), tmp_path / "b")
    assert same(learn.network.state_dict(), load_run(tmp_path / "a").state_dict())
    with pytest.raises(ValueError):
        take_weights(create_network("small", 5), tmp_path / "a")


def test_weights_of_a_published_checkpoint(tmp_path):
    torch.manual_seed(0)
    one, two = (paper_network(2, name="vit_tiny_patch16_224", stride=None, blocks=(0,)) for _ in range(2))
    torch.save(dict(model=one.state_dict()), tmp_path / "checkpoint_best.pth")
    take_weights(two, tmp_path / "checkpoint_best.pth")
    assert same(one.state_dict(), two.state_dict())


def test_adaptation_leaves_the_network_as_it_was(scenes, held_out):
    network = fit(scenes, steps=20, progress=False, device="cpu").network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    adapted = adapt(network, held_out, steps=30, lr=1e-3, progress=False, device="cpu")
    assert same(network.state_dict(), before) and not same(adapted.state_dict(), before) and not adapted.training
    assert validation_loss(adapted, held_out) < validation_loss(network, held_out)


def test_adaptation_after_half_precision(scenes, held_out):
    "Mixed precision wraps the network's forward; the copy has to be its own."
    network = fit(scenes, steps=2, progress=False, device="cpu", precision="bf16").network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert not same(adapt(network, held_out, steps=2, lr=1e-2, progress=False, device="cpu").state_dict(), before) and same(network.state_dict(), before)


# ---- a flow store

def test_a_training_takes_a_flow_store(tmp_path, capsys):
    scene = MovingScenes(1, seed=0, size=(64, 96)).scene(0)
    for clip in ("one", "two"):
        (tmp_path / "clips" / clip).mkdir(parents=True)
        for t in range(4):
            frame = (scene.frame(t) * 255).byte().permute(1, 2, 0).numpy()
            cv2.imwrite(str(tmp_path / f"clips/{clip}/{t:05d}.png"), frame[..., ::-1])
    make_store(tmp_path / "store", tmp_path / "clips", FlowSettings(size=SIZE, gaps=(1, -1)))
    shutil.rmtree(tmp_path / "clips")                                                       # the store is enough
    changes = [*TINY, "data.source=clip", f"data.path={tmp_path / 'store'}"]
    assert len(training_data(make_config(changes=changes))) == 8
    gwm_train(config="", set=changes, out=str(tmp_path / "run"), dry_run=True)
    assert "a flow store of 2 clips and 8 frames" in capsys.readouterr().out
    learn = run(make_config(changes=[*changes, "data.validation=2"]), tmp_path / "run")
    assert len(learn.history) == 6 and (tmp_path / "run/best.safetensors").exists()
    with pytest.raises(ValueError, match="a flow store is trained on as it is; make one without the clips held out"):
        training_data(make_config(changes=[*changes, 'data.held_out=["one"]']))
