"Runs: folders, resuming after a crash, several processes, memory, and weights from elsewhere."
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from gwm_nb.benchmarks import heldout_table
from gwm_nb.callbacks import Checkpoint, read_log
from gwm_nb.checkpoints import load, load_training
from gwm_nb.commands import gwm_train
from gwm_nb.configuration import make_config
from gwm_nb.network import create_network
from gwm_nb.paper import CachedBackbone, paper_network
from gwm_nb.runs import adapt, best_file, recompute, resume_run, run, take_weights
from gwm_nb.scenes import MovingScenes
from gwm_nb.train import Flips, fit
from inputs import ON_CLIPS, ON_DAVIS, TINY, davis_config

EVERYTHING = [*TINY, "data.photometric=0.3", "train.ema=0.5", "log.keep_every=2", "log.keep=2",
              'network.unfreeze={2 = "backbone.stages.3.*"}']


def losses(folder): return [line["loss"] for line in read_log(Path(folder) / "log.jsonl")]


def weights(path): return load(path).state_dict()


def same(a, b): return a.keys() == b.keys() and all(v.equal(b[k]) for k, v in a.items())


# ---- what a run writes

def test_a_run_on_a_data_set_ends_with_every_protocol(davis, tmp_path, capsys):
    gwm_train("davis", str(davis), str(tmp_path / "x"), set=[*ON_DAVIS, "data.held_out=dog"])
    printed = capsys.readouterr().out
    assert "DAVIS, dog:" in printed and re.search(r"\n *mean( +\d\.\d{3}){8,}\n", printed)
    for name in ("published", "per-sequence", "label-free", "k-way"):
        assert re.search(rf"\n{name}: .*looks? at labels", printed)
    last = read_log(tmp_path / "x/log.jsonl")[-1]
    assert last["step"] == 2
    assert {"validation loss", "J", "J_best_of_two", "J_best_mask"} <= last.keys()
    assert "frames" not in last
    told = {line.split(":")[0]: "looks at labels" in line for line in printed.splitlines()}
    assert not told["validation loss"] and not told["best network"] and told["J"]
    notes = load(tmp_path / "x/best.safetensors").notes
    assert notes["chosen_by"] == "validation loss" and notes["looks_at_labels"] is False
    assert notes["config"] == asdict(make_config(file=tmp_path / "x/config.toml"))
    text = (tmp_path / "x/config.toml").read_text()
    (tmp_path / "x/config.toml").write_text(text.replace("labels = true", "labels = false"))
    assert heldout_table(tmp_path / "x") == ""


def refused(preset, data, out, **options):
    with pytest.raises((ValueError, OSError)) as e:
        gwm_train(preset, str(data), str(out), **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_folders_that_are_taken(tmp_path):
    for name in ("foreign/thesis.tex", "run/config.toml", "file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for name, says in (("foreign", "thesis.tex"), ("run", "--resume"), ("file", "file")):
        assert says in refused("demo", "", tmp_path / name)


def test_resume_takes_no_other_options(tmp_path):
    assert "--init-from" in refused("demo", "", "", resume=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing.*config.toml"):
        gwm_train(resume=str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        best_file(tmp_path)


def test_out_of_memory_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, learn): raise torch.OutOfMemoryError("CUDA out of memory. Tried ...")
    monkeypatch.setattr(Flips, "before_step", full)
    line = refused("demo", "", tmp_path / "x", set=TINY)
    assert "batch of 4" in line and "train.accumulate" in line and not (tmp_path / "x").exists()


def test_set_is_given_once(tmp_path, call):
    _, end = call(gwm_train, "--set", "data.batch=2", "--set", "optim.lr=1", cwd=tmp_path)
    assert "--set" in end and "twice" in end


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
    ema = [dict(training["callbacks"])["EMA"] for training in (one, two)]
    assert all(p.equal(q) for p, q in zip(*ema, strict=True))
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


def test_recomputing_keeps_less_and_changes_no_gradient():
    torch.manual_seed(0)
    paper = paper_network(2, name="vit_tiny_patch16_224", stride=8, blocks=(0, 1)).eval()
    maps = paper.features(torch.rand(1, 3, 64, 96))
    timm = create_network("efficientnet_lite0", freeze=False, pretrained=False).eval()
    for network, arguments in ((paper.decode, (maps, (64, 96))), (timm, (torch.rand(2, 3, 64, 96),))):
        module, found = getattr(network, "__self__", network), []
        for _ in range(2):
            kept = {}
            def count(t):
                kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                return t
            module.zero_grad()
            with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
                out = network(*arguments)
            out.square().mean().backward()
            gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
            found.append((sum(kept.values()), gradients))
            recompute(module)
        (plain, gradients), (fewer, again) = found
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
    kept = davis_config(davis, *changes, "network.features=true")
    first, again = (run(kept, tmp_path / name).network.backbone for name in "ab")
    run(davis_config(davis, *changes), tmp_path / "c")
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
    assert same(learn.network.state_dict(), weights(best_file(straight)))
    with pytest.raises(ValueError):
        take_weights(create_network("small", 5), straight)


def test_adaptation_leaves_the_network_as_it_was():
    "Mixed precision wraps the network's forward; the copy has to be its own."
    scenes = MovingScenes(8, size=(32, 48))
    network = fit(scenes, steps=2, progress=False, device="cpu", precision="bf16").network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    adapted = adapt(network, scenes, steps=2, lr=1e-2, progress=False, device="cpu")
    assert not same(adapted.state_dict(), before) and not adapted.training
    assert same(network.state_dict(), before)


# ---- what surrounds a run

def test_names_that_are_no_text_are_trained_on_and_resumed(davis, tmp_path):
    "File names are bytes; these are not UTF-8."
    clip = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(next((davis / "DAVIS2016/JPEGImages/480p").iterdir()), clip)
    changes = [*ON_CLIPS, f"data.path={clip}", "log.measure=0", "log.checkpoint=1"]
    run(make_config("clip", changes=changes), tmp_path / "run")
    assert make_config(file=tmp_path / "run/config.toml").data.path == str(clip)
    assert resume_run(tmp_path / "run").step == 2
