"Callbacks: what is logged, averaged, measured and saved, and when a training stops."

import cv2
import pytest
import torch

from gwm_nb import callbacks
from gwm_nb.callbacks import (EMA, Best, Compile, EarlyStop, KeepLast, Log, Measure, SaveImages,
                              Trackers, Unfreeze, averaged, plot_loss, read_log, validation_loss)
from gwm_nb.checkpoints import load, load_training
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.network import create_network
from gwm_nb.scenes import MovingScenes
from gwm_nb.train import Callback, fit


@pytest.fixture(scope="module")
def scenes(): return MovingScenes(8, seed=0, size=(32, 48))


def teach(scenes, steps, *callbacks, **options):
    options = dict(batch_size=2) | options
    return fit(scenes, steps=steps, progress=False, device="cpu", callbacks=callbacks, **options)


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
    with pytest.raises(ValueError, match="no.jsonl"):
        plot_loss(tmp_path / "no.jsonl")


def test_validation_loss_is_the_loss_of_the_logits():
    held_out = MovingScenes(4, seed=1000, size=(32, 48))
    torch.manual_seed(0)
    network, loss = create_network("small"), ReconstructionLoss(normalise=True)
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


def test_what_is_measured_and_saved_is_the_average(scenes, tmp_path):
    seen, ema = [], EMA(.5)
    look = Measure(2, "x loss", lambda network: seen.append(copies(network)) or 1. / len(seen))
    learn = teach(scenes, 2, ema, look, Best(tmp_path / "best.safetensors", by="x loss"))
    assert all_equal(seen[0], ema.kept) and not all_equal(seen[0], learn.network.parameters())
    assert all_equal(seen[0], load(tmp_path / "best.safetensors").parameters())


@pytest.mark.parametrize("by, values, best", [("v loss", [3., 1., 2., 1.], 2),
                                              ("J", [.1, .5, .7, .2], 3), ("J", [.5, .5], 1)])
def test_best_is_the_first_of_the_best(scenes, tmp_path, by, values, best):
    file = tmp_path / "best.safetensors"
    teach(scenes, len(values), answers(by, *values), Best(file, by, colour="red"))
    notes = load(file).notes
    assert (notes["step"], notes["value"]) == (best, values[best - 1])
    assert (notes["chosen_by"], notes["looks_at_labels"]) == (by, by == "J")
    assert notes["colour"] == "red"


def test_best_by_what_is_not_measured(scenes, tmp_path):
    with pytest.raises(ValueError, match="'J'.* x loss"):
        teach(scenes, 1, answers("x loss", 0.), Best(tmp_path / "b.safetensors", "J"))


def test_the_last_checkpoints_are_kept(scenes, tmp_path):
    teach(scenes, 9, KeepLast(tmp_path, every=2, n=3))
    names = [f"step-{i:06d}.safetensors" for i in (4, 6, 8)]
    assert sorted(f.name for f in tmp_path.iterdir()) == names
    middle = tmp_path / names[1]
    assert load(middle).notes["step"] == load_training(middle)["step"] == 6


def test_stop_without_improvement(scenes):
    measure = answers("validation loss", 5., 4., 4.5, 4.2, 3., 3.5, 3.5, 3.5, 0.)
    learn = teach(scenes, 9, measure, EarlyStop(3))
    assert learn.step == 8 and learn.outcome == "finished"


def test_unfreezing_what_does_not_exist(scenes):
    with pytest.raises(ValueError, match="'bakbone"):
        teach(scenes, 1, Unfreeze({1: "bakbone.*"}))


def test_images(scenes, tmp_path):
    teach(scenes, 5, SaveImages(tmp_path / "p", every=2, data=scenes, n=2))
    files = sorted((tmp_path / "p").iterdir())
    assert [f.name for f in files] == [f"step-{i:06d}.png" for i in (2, 4, 5)]
    assert cv2.imread(str(files[0])).std() > 10


def test_without_a_compiler_training_stops_with_the_remedy(scenes, monkeypatch):
    def broken(*args, **options): raise RuntimeError("No working C++ compiler found")
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ValueError, match="network.compile=false"):
        teach(scenes, 1, Compile())


def test_trackers_are_told_what_the_log_says(scenes, tmp_path, monkeypatch):
    "Both at once; in the folder of the run, under its name."
    made = {}
    trackers = callbacks.accelerate.tracking

    class Told(trackers.GeneralTracker):
        "Stands for a tracker that is not installed here."
        name, requires_logging_directory, tracker = "told", True, None

        def __init__(self, project, logging_dir=None, **options):
            super().__init__()
            made[len(made)], self.lines, self.options = self, [], options | dict(folder=logging_dir)
        def log(self, values, step, **options): self.lines.append((step, values))
        def finish(self): self.lines.append("finished")

    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, name, Told)
    (tmp_path / "mine").mkdir()
    log = Log(tmp_path / "log.jsonl")
    to_trackers = Trackers(["tensorboard", "wandb"], tmp_path / "mine")
    teach(scenes, 3, Measure(2, "x loss", lambda n: 1.), log, to_trackers)
    plain = lambda line: {k: v for k, v in line.items() if k != "seconds"}
    assert len(made) == 2 and made[1].options["id"] == "mine"
    assert str(tmp_path / "mine") in str(made[0].options["folder"])
    for tracker in made.values():
        *told, last = tracker.lines
        lines = [plain(values | dict(step=step)) for step, values in told]
        assert lines == list(map(plain, read_log(tmp_path / "log.jsonl"))) and last == "finished"
