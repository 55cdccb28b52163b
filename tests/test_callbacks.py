"Callbacks: what is logged, averaged, measured and saved, and when a training stops."
from types import SimpleNamespace

import pytest
import torch

from gwm_nb import callbacks
from gwm_nb.callbacks import (EMA, Best, Compile, EarlyStop, Log, Measure,
                              Trackers, Unfreeze, averaged, plot_loss, read_log, validation_loss)
from gwm_nb.checkpoints import load
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.network import create_network
from gwm_nb.scenes import MovingScenes
from gwm_nb.train import Callback, fit
from inputs import refused


@pytest.fixture(scope="module")
def scenes(): return MovingScenes(8, seed=0, size=(32, 48))


def teach(scenes, steps, *callbacks):
    return fit(scenes, steps=steps, progress=False, device="cpu", batch_size=2, callbacks=callbacks)


def answers(name, *values):
    "A measurement of each step with these answers."
    values = iter(values)
    return Measure(1, name, lambda network: next(values))


def copies(network): return [p.detach().clone() for p in network.parameters()]


def all_equal(a, b): return all(p.equal(q) for p, q in zip(a, b, strict=True))


def test_the_log_holds_every_nth_step_the_last_and_what_was_measured(scenes, tmp_path):
    file = tmp_path / "log.jsonl"
    learn = teach(scenes, 7, Measure(5, "x loss", lambda network: 3.), Log(file, every=3))
    lines = read_log(file)
    assert [(line["step"], line.get("x loss")) for line in lines] == [
        (3, None), (5, 3.), (6, None), (7, 3.)]
    for line in lines:
        step = learn.history[line["step"] - 1]
        assert (line["loss"], line["lr"]) == (step["loss"], step["lr"])
    assert [line.get_label() for line in plot_loss(file).axes[0].lines][1:] == ["loss", "x loss"]


def test_validation_loss_is_the_loss_of_the_logits(scenes):
    torch.manual_seed(0)
    network, loss = create_network("small"), ReconstructionLoss(normalise=True)
    image, flow = (torch.stack([sample[k] for sample in scenes]) for k in ("image", "flow"))
    with torch.no_grad():
        wanted = loss(network.eval()(image), flow).item()
    network.train()
    found = validation_loss(network, scenes, loss, batch_size=3)
    assert found == pytest.approx(wanted, rel=1e-4) and network.training


def test_the_average_of_the_weights_is_measured_and_saved(scenes, tmp_path):
    class Keep(Callback):
        def before_fit(self, learn): self.weights = []
        def after_step(self, learn): self.weights.append(copies(learn.network))
    seen, keep, ema = [], Keep(), EMA(.7)
    look = Measure(2, "x loss", lambda network: seen.append(copies(network)) or 1. / len(seen))
    learn = teach(scenes, 4, keep, ema, look, Best(tmp_path / "best.safetensors", by="x loss"))
    wanted = keep.weights[0]
    for now in keep.weights[1:]:
        wanted = [.7 * w + .3 * n for w, n in zip(wanted, now)]
    with averaged(learn) as network:
        torch.testing.assert_close(copies(network), wanted)
    assert all_equal(learn.network.parameters(), keep.weights[-1])          # and back to the bit
    assert all_equal(seen[-1], ema.kept)
    assert all_equal(seen[-1], load(tmp_path / "best.safetensors").parameters())


@pytest.mark.parametrize("by, values, best", [("v loss", [3., 1., 2., 1.], 2),
                                              ("J", [.1, .5, .7, .2], 3), ("J", [.5, .5], 1)])
def test_best_is_the_first_of_the_best(scenes, tmp_path, by, values, best):
    file = tmp_path / "best.safetensors"
    teach(scenes, len(values), answers(by, *values), Best(file, by, colour="red"))
    notes = load(file).notes
    assert (notes["step"], notes["value"]) == (best, values[best - 1])
    assert (notes["chosen_by"], notes["looks_at_labels"]) == (by, by == "J")
    assert notes["colour"] == "red"


def test_stop_without_improvement(scenes):
    measure = answers("validation loss", 5., 4., 4.5, 4.2, 3., 3.5, 3.5, 3.5, 0.)
    learn = teach(scenes, 9, measure, EarlyStop(3))
    assert learn.step == 8 and learn.outcome == "finished"


@pytest.mark.parametrize("callback, says", [
    (lambda folder: Best(folder / "b.safetensors", "J"), "'J'.* x loss"),
    (lambda folder: Unfreeze({1: "bakbone.*"}), "'bakbone"),
    (lambda folder: Compile(), "network.compile=false")])
def test_what_cannot_be_done_is_told(scenes, tmp_path, monkeypatch, callback, says):
    def no_compiler(*args, **options): raise RuntimeError("No working C++ compiler found")
    monkeypatch.setattr(torch, "compile", no_compiler)
    refused(lambda: teach(scenes, 1, answers("x loss", 0.), callback(tmp_path)), says=says)


def test_trackers_are_told_what_the_log_says(scenes, tmp_path, monkeypatch):
    told, accelerator = [], callbacks.accelerate.Accelerator

    def start(self, project, init_kwargs):
        told.append((self.log_with, init_kwargs["wandb"]["id"]))
        self.trackers = [SimpleNamespace(finish=lambda: told.append("finished"))]
    monkeypatch.setattr(accelerator, "init_trackers", start)
    monkeypatch.setattr(accelerator, "log",
                        lambda self, line, step: told.append(line | {"step": step}))
    trackers = Trackers(["tensorboard", "wandb"], tmp_path / "mine")
    teach(scenes, 3, Measure(2, "x loss", lambda n: 1.), Log(tmp_path / "log.jsonl"), trackers)
    lines = [line | {"seconds": 0} for line in read_log(tmp_path / "log.jsonl")]
    started, *sent, last = told
    assert (started, last) == ((["tensorboard", "wandb"], "mine"), "finished")
    assert [line | {"seconds": 0} for line in sent] == lines
