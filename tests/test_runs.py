"Runs: folders, resuming after a crash, several processes, memory, and weights from elsewhere."
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from gwm_nb.benchmarks import heldout_table
from gwm_nb.callbacks import read_log
from gwm_nb.checkpoints import load, load_training
from gwm_nb.commands import gwm_train
from gwm_nb.configuration import make_config
from gwm_nb.network import create_network
from gwm_nb.paper import CachedBackbone
from gwm_nb.runs import adapt, best_file, resume_run, run, take_weights
from gwm_nb.scenes import MovingScenes
from gwm_nb.train import Flips, fit
from inputs import ON_DAVIS, TINY, davis_config, refused

EVERYTHING = [*TINY, "data.photometric=0.3", "train.ema=0.5", "log.keep_every=2", "log.keep=2",
              'network.unfreeze={2 = "backbone.stages.3.*"}']


LONG = make_config(changes=[*EVERYTHING, "train.steps=16"])


def losses(folder): return [line["loss"] for line in read_log(Path(folder) / "log.jsonl")]


def weights(path): return load(path).state_dict()


def same(a, b): return a.keys() == b.keys() and all(v.equal(b[k]) for k, v in a.items())


def test_a_run_on_a_data_set_ends_with_every_protocol(davis, tmp_path, capsys):
    gwm_train("davis", str(davis), str(tmp_path / "x"), set=[*ON_DAVIS, "data.held_out=dog"])
    printed = capsys.readouterr().out
    assert "DAVIS, dog:" in printed and re.search(r"\n *mean( +\d\.\d{3}){8,}\n", printed)
    for name in ("published", "per-sequence", "label-free", "k-way"):
        assert re.search(rf"\n{name}: .*looks? at labels", printed)
    last = read_log(tmp_path / "x/log.jsonl")[-1]
    assert last["step"] == 2 and "frames" not in last
    assert {"validation loss", "J", "J_best_of_two", "J_best_mask"} <= last.keys()
    notes = load(tmp_path / "x/best.safetensors").notes
    assert notes["chosen_by"] == "validation loss" and notes["looks_at_labels"] is False
    assert notes["config"] == asdict(make_config(file=tmp_path / "x/config.toml"))
    text = (tmp_path / "x/config.toml").read_text()
    (tmp_path / "x/config.toml").write_text(text.replace("labels = true", "labels = false"))
    assert heldout_table(tmp_path / "x") == ""


@pytest.mark.parametrize("argv, says", [
    (["--out", "foreign"], "thesis.tex"), (["--out", "run"], "--resume"),
    (["--out", "file"], "file"), (["--resume", "run", "--init-from", "x"], "--init-from"),
    (["--resume", "nothing"], "nothing"),
    (["--set", "data.batch=2", "--set", "optim.lr=1"], "twice"),
    (["--out", "new", "--set", *TINY], "train.accumulate")])
def test_what_a_run_refuses(tmp_path, call, monkeypatch, argv, says):
    "Foreign folders, other options of a resumed run; the last runs out of memory."
    def full(self, learn): raise torch.OutOfMemoryError("CUDA out of memory. Tried ...")
    monkeypatch.setattr(Flips, "before_step", full)
    for name in ("foreign/thesis.tex", "run/config.toml", "file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert says in call(gwm_train, *argv, cwd=tmp_path)[1] and not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run(LONG, folder)
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
    ema = [dict(training["callbacks"])["EMA"] for training in (one, two)]
    assert all(p.equal(q) for p, q in zip(*ema, strict=True))
    assert {f.name for f in folder.iterdir()} == {f.name for f in straight.iterdir()}


def test_going_on_from_an_earlier_checkpoint_and_from_the_end(straight, tmp_path):
    "The log knows more than the first of them."
    shutil.copytree(straight, tmp_path / "run")
    for place in ("run/step-000014.safetensors", "run"):
        resume_run(tmp_path / place)
        agree(tmp_path / "run", straight)


def processes(n, *argv, cwd):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", n, "-m",
             "gwm_nb.runs", *argv]
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
    run(davis_config(davis, *changes), tmp_path / "one")
    printed = processes(2, "--preset", "davis", "--data", davis, "--out", "two", "--set", *ON_DAVIS,
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


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path):
    for compiled in ("false", "true"):
        run(make_config(changes=[*TINY, f"network.compile={compiled}"]), tmp_path / compiled)
    np.testing.assert_allclose(losses(tmp_path / "true"), losses(tmp_path / "false"), atol=1e-3)


def test_kept_features(davis, tmp_path, capsys, monkeypatch):
    "All are there before the first step, mirrored ones too; the next run computes none."
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    torch.manual_seed(0)
    state = create_network("resnet18", pretrained=False).backbone.model.state_dict()
    torch.save(state, tmp_path / "w.pt")
    changes = ["network.name=resnet18", f"network.pretrained={tmp_path / 'w.pt'}",
               "data.photometric=0", "data.flips=0.5", "log.labels=false", "data.held_out=cows",
               "data.validation=2"]
    kept = davis_config(davis, *changes, "network.features=true")
    first, again = (run(kept, tmp_path / name).network.backbone for name in "ab")
    run(davis_config(davis, *changes), tmp_path / "c")
    assert isinstance(first, CachedBackbone)
    assert first.computed == 12 + 2 and again.computed == 0          # and two of validation
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    np.testing.assert_allclose(losses(tmp_path / "c"), losses(tmp_path / "a"), rtol=2e-2)
    shown = capsys.readouterr().err                        # no terminal: lines, none redrawn
    assert "features: 100%" in shown and "\r" not in shown


def test_weights_alone(straight, tmp_path):
    for source in (straight, straight / "last.safetensors"):
        network = take_weights(create_network("small"), source)
        assert same(network.state_dict(), weights(best_file(source)))
    still = [f"network.init_from={straight}", "train.steps=1", "optim.lr=0", "optim.weight_decay=0"]
    learn = run(make_config(changes=[*TINY, *still]), tmp_path / "b")
    assert same(learn.network.state_dict(), weights(best_file(straight)))
    refused(lambda: take_weights(create_network("small", 5), straight), says="5")
    refused(best_file, tmp_path, says=re.escape(str(tmp_path)), error=FileNotFoundError)


def test_adaptation_leaves_the_network_as_it_was():
    "Mixed precision wraps the network's forward; the copy has to be its own."
    scenes = MovingScenes(8, size=(32, 48))
    network = fit(scenes, steps=2, progress=False, device="cpu", precision="bf16").network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    adapted = adapt(network, scenes, steps=2, lr=1e-2, progress=False, device="cpu")
    assert not same(adapted.state_dict(), before) and not adapted.training
    assert same(network.state_dict(), before)
