"The Learner where a lesson would be the wrong place: errors, the published recipe on a miniature data set, what callbacks may change."
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowSettings
from gwm_nb.videos import training_samples
from gwm_nb.network import create_network
from gwm_nb.paper import paper_network, paper_recipe, paper_schedule
from gwm_nb.checkpoints import load, save
from gwm_nb.train import Callback, Checkpoint, Flips, Learner, Photometric, adamw, fit, flip, training_loader, training_order
from test_paper import check_gradients, fill_network, picture, relative

SIZE = (32, 48)


@pytest.fixture(scope="module")
def scenes(): return MovingScenes(6, seed=3, size=SIZE)


@pytest.fixture
def davis(tmp_path):
    "A miniature of DAVIS2016: two clips of six frames."
    for i, clip in enumerate(("dog", "cows")):
        scene, frames = MovingScenes(1, seed=14 + i, size=(64, 96)).scene(0), tmp_path / "DAVIS2016/JPEGImages/480p" / clip
        frames.mkdir(parents=True)
        for t in range(6):
            pixels = (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy()
            cv2.imwrite(str(frames / f"{t:05d}.jpg"), pixels[..., ::-1])
    return tmp_path


class Watch(Callback):
    "Keeps what each stage of a step leaves on the learner."
    def __init__(self): self.events, self.losses, self.norms = [], [], []
    def before_fit(self, learn): self.events.append("before_fit")
    def before_step(self, learn): self.events.append("before_step")
    def after_logits(self, learn): self.events.append("after_logits")
    def after_loss(self, learn):
        self.events.append("after_loss")
        self.losses.append(learn.loss.item())
    def after_backward(self, learn):
        self.events.append("after_backward")
        grads = [p.grad for p in learn.network.parameters() if p.grad is not None]
        self.norms.append(torch.stack([g.norm() for g in grads]).norm().item())
    def after_step(self, learn): self.events.append("after_step")
    def after_fit(self, learn): self.events.append("after_fit")


STAGES = ["before_step", "after_logits", "after_loss", "after_backward", "after_step"]


def test_every_stage_is_announced_in_order(scenes):
    watch = Watch()
    Learner(create_network("small"), scenes, steps=3, batch_size=2, callbacks=[watch]).fit()
    assert watch.events == ["before_fit", *STAGES * 3, "after_fit"]


def test_the_published_recipe_is_one_call(davis, tmp_path):
    "Samples, light, optimiser, schedule, clip, loss weight: two steps on a miniature data set."
    data = training_samples("DAVIS", davis, FlowSettings(size=SIZE))
    network = paper_network(2, name="vit_tiny_patch16_224", stride=8, blocks=(1, 2))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    watch = Watch()
    learn = fit(data, network, augment=[Photometric()], progress=False, callbacks=[watch], **paper_recipe(steps=2, batch_size=2))
    assert learn.step == 2 and [h["step"] for h in learn.history] == [1, 2]
    assert learn.loss_func.weight == .03 and learn.clip == .01
    groups = learn.optimiser.param_groups
    assert {g["weight_decay"] for g in groups} == {0., .01} and all(len(g["params"]) == 1 for g in groups)
    assert groups[0]["initial_lr"] == 1.5e-4 and 0 < groups[0]["lr"] < 1e-6          # still warming up
    moved = [k for k, v in network.state_dict().items() if not v.equal(before[k])]
    assert moved and all(k.startswith("sem_seg_head") for k in moved)
    assert not any(p.grad is not None for p in network.backbone.parameters())
    assert all(np.isfinite(watch.losses)) and all(n > 0 for n in watch.norms)


def test_optimiser_and_schedule_are_arguments(scenes):
    made = {}

    def sgd(network, lr=.5):
        made["optimiser"] = torch.optim.SGD(network.parameters(), lr)
        return made["optimiser"]

    def constant(optimiser, steps):
        made["steps"] = steps
        return torch.optim.lr_scheduler.ConstantLR(optimiser, 1., 1)

    learn = fit(scenes, steps=2, batch_size=2, optimiser=sgd, schedule=constant, progress=False)
    assert learn.optimiser is made["optimiser"] and made["steps"] == 2 and [h["lr"] for h in learn.history] == [.5, .5]
    assert fit(scenes, steps=1, batch_size=2, optimiser=sgd, schedule=constant, lr=.25, progress=False).history[0]["lr"] == .25


def test_a_callback_may_change_each_stage(scenes):
    class Change(Callback):
        def before_step(self, learn): learn.batch = learn.batch | dict(image=torch.zeros_like(learn.batch["image"]))
        def after_logits(self, learn):
            self.seen = learn.logits.detach().clone()
            learn.logits = learn.logits * 2
        def after_loss(self, learn): learn.loss = learn.loss * 0
    watch, change = Watch(), Change()
    network = create_network("small")
    wanted = network(torch.zeros(2, 3, *SIZE)).detach()
    learn = Learner(network, scenes, steps=1, batch_size=2, callbacks=[change, watch],
                    optimiser=lambda n: adamw(n, weight_decay=0.)).fit()
    torch.testing.assert_close(change.seen, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(learn.logits.detach(), 2 * change.seen)
    assert watch.losses == [0.] and watch.norms == [0.]


def test_the_gradient_is_clipped_after_callbacks_saw_it(scenes):
    def first(clip):
        watch = Watch()
        torch.manual_seed(0)
        network = create_network("small")
        before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
        Learner(network, scenes, steps=1, batch_size=2, clip=clip, callbacks=[watch], schedule=lambda o, n: torch.optim.lr_scheduler.ConstantLR(o, 1., 1),
                optimiser=lambda n: torch.optim.SGD(n.parameters(), 1.)).fit()
        return watch.norms[0], (torch.cat([p.detach().flatten() for p in network.parameters()]) - before).norm().item()
    norm, moved = first(None)
    assert moved == pytest.approx(norm, rel=1e-4) and norm > .002
    seen, moved = first(.001)
    assert seen == pytest.approx(norm, rel=1e-4) and moved == pytest.approx(.001, rel=1e-2)


def test_two_flows_are_averaged(scenes):
    class Two(torch.utils.data.Dataset):
        def __len__(self): return 4
        def __getitem__(self, i): return scenes[i] | dict(flow2=scenes[i]["flow"] * 0)
    losses = {}
    for name, data in (("one", [scenes[i] for i in range(4)]), ("both", Two())):
        torch.manual_seed(0)
        watch = Watch()
        Learner(create_network("small"), data, steps=1, batch_size=4, callbacks=[watch], loss=lambda logits, flow: (logits.mean() * 0 + flow.abs().mean())).fit()
        losses[name] = watch.losses[0]
    assert losses["both"] == pytest.approx(losses["one"] / 2)


def test_flips_are_repeatable_and_mirror_whole_batches(scenes):
    def drawn(seed):
        class Keep(Callback):
            def before_fit(self, learn): self.flows = []
            def before_step(self, learn): self.flows.append(learn.batch["flow"].clone())
        keep = Keep()
        Learner(create_network("small"), scenes, steps=12, batch_size=2, seed=seed, callbacks=[before := Keep(), Flips(), keep]).fit()
        return [bool((a != b).any()) for a, b in zip(before.flows, keep.flows)], before, keep
    flipped, before, after = drawn(5)
    assert 0 < sum(flipped) < 12 and drawn(5)[0] == flipped
    i = flipped.index(True)
    torch.testing.assert_close(flip(dict(flow=before.flows[i]))["flow"], after.flows[i])


def test_a_checkpoint_is_a_network(scenes, tmp_path):
    learn = Learner(create_network("small", 3), scenes, steps=5, batch_size=2, callbacks=[Checkpoint(tmp_path / "net.safetensors", every=2)]).fit()
    again = load(tmp_path / "net.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"] and again.num_masks == 3 and again.notes["step"] == 5
    picture = torch.rand(1, 3, *SIZE)
    torch.testing.assert_close(again(picture), learn.network.cpu()(picture), atol=1e-5, rtol=1e-4)


def test_labels_never_reach_a_batch(scenes):
    batches = list(training_loader(scenes, training_order(6, 3, 2, seed=0)))
    assert "mask" in scenes[0] and [set(b) for b in batches] == [{"image", "flow", "name"}] * 3


def test_the_recorded_training_steps_through_the_learner(golden):
    "Two steps of the published code: losses, learning rates, gradients before clipping, parameters after each step."
    z = dict(np.load(golden / "train_96x160.npz"))
    network = fill_network(paper_network())
    sample = dict(image=picture(z)[0], flow=torch.tensor(z["flow"])[0], name="recorded/00000")
    parameters, checked = dict(network.named_parameters()), []

    class Compare(Callback):
        def before_fit(self, learn): learn.network.eval()               # recorded without dropout
        def before_step(self, learn): assert learn.schedule.get_last_lr()[0] == pytest.approx(z[f"lr{learn.step}"], rel=1e-12)
        def after_loss(self, learn): assert learn.loss.item() == pytest.approx(z[f"loss{learn.step}"], abs=1e-5)
        def after_backward(self, learn):
            if learn.step == 0: check_gradients(parameters, z)
        def after_step(self, learn):
            for k in (k for k in z if k.startswith(f"param{learn.step}/")):
                assert relative(parameters[k.split("/", 1)[1]].detach(), z[k]) < 1e-3, k
                checked.append(k)

    recipe = paper_recipe(steps=2, batch_size=1, schedule=lambda optimiser, steps: paper_schedule(optimiser, warmup=0))
    Learner(network, [sample], callbacks=[Compare()], **recipe).fit()
    assert len(checked) == sum(k.startswith("param") for k in z) >= 14


def test_accumulation_keeps_the_batch(scenes):
    runs = [fit(scenes, steps=4, batch_size=4, accumulate=n, progress=False) for n in (1, 2, 4)]
    for other in runs[1:]:
        np.testing.assert_allclose([h["loss"] for h in other.history], [h["loss"] for h in runs[0].history], atol=1e-4)
        for a, b in zip(other.network.parameters(), runs[0].network.parameters()):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("options, says", [(dict(batch_size=5, accumulate=2), "divides"), (dict(accumulate=0), "parts")])
def test_a_batch_that_does_not_come_apart_is_refused(scenes, options, says):
    with pytest.raises(ValueError, match=says):
        fit(scenes, steps=1, progress=False, **options)


TWO = """
import json, os, sys, torch
torch.set_num_threads(1)
from gwm_nb.scenes import MovingScenes
from gwm_nb.train import fit
learn = fit(MovingScenes(6, seed=3, size=(32, 48)), steps=4, batch_size=4, accumulate=int(sys.argv[2]), progress=False)
if learn.accelerator.is_main_process:
    with open(sys.argv[1], "w") as f: json.dump([learn.accelerator.num_processes, [h["loss"] for h in learn.history]], f)
learn.accelerator.wait_for_everyone()
os._exit(0)          # without the teardown of gloo's threads, which now and then aborts a process that is done
"""


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_are_one(scenes, tmp_path, accumulate):
    "The same batches, shared by two processes: the same losses."
    (tmp_path / "two.py").write_text(TWO)
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "two.py", "losses.json", str(accumulate)]
    environment = os.environ | dict(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).resolve().parent.parent))
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    processes, losses = json.loads((tmp_path / "losses.json").read_text())
    alone = fit(scenes, steps=4, batch_size=4, progress=False)
    assert processes == 2
    np.testing.assert_allclose(losses, [h["loss"] for h in alone.history], atol=1e-4)


class Crash(Callback):
    "Ends the program, so to speak, after `step`."
    def __init__(self, step): self.at = step
    def after_step(self, learn):
        if learn.step == self.at: raise KeyboardInterrupt


@pytest.mark.parametrize("crash", [3, 4, 5, 7])
def test_resumed_is_uninterrupted(scenes, tmp_path, crash):
    def run(name, at, **options):
        return fit(scenes, steps=8, batch_size=2, progress=False, augment=[Flips(), Photometric()], callbacks=[Checkpoint(tmp_path / name, every=3), Crash(at)], **options)
    with pytest.raises(KeyboardInterrupt):
        run("a.safetensors", crash)
    resumed, straight = run("a.safetensors", None, resume=tmp_path / "a.safetensors"), run("b.safetensors", None)
    assert resumed.history == straight.history and len(straight.history) == 8
    for a, b in zip(resumed.network.state_dict().values(), straight.network.state_dict().values()):
        assert a.equal(b)


def test_a_training_of_another_kind_is_not_resumed(scenes, tmp_path):
    file = tmp_path / "a.safetensors"
    fit(scenes, steps=2, batch_size=2, progress=False, callbacks=[Checkpoint(file)])
    with pytest.raises(ValueError, match="callbacks"):
        fit(scenes, steps=4, batch_size=2, progress=False, resume=file)
    save(create_network("small"), file)
    with pytest.raises(ValueError, match="no state of a training"):
        fit(scenes, steps=4, batch_size=2, progress=False, callbacks=[Checkpoint(file)], resume=file)


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_fit_and_loss_stay_float32(scenes, precision):
    class Kinds(Callback):
        def after_logits(self, learn): self.logits = learn.logits.dtype
        def after_loss(self, learn): self.loss = learn.loss.dtype
    kinds = Kinds()
    learn = fit(scenes, steps=2, batch_size=2, precision=precision, progress=False, callbacks=[kinds])
    assert (kinds.logits, kinds.loss) == (torch.float32, torch.float32)
    assert learn.accelerator.mixed_precision == precision and all(p.dtype == torch.float32 for p in learn.network.parameters())


class Poisoned(torch.utils.data.Dataset):
    "Sample 2 has flow that is no number."
    def __len__(self): return 4
    def __getitem__(self, i):
        flow = torch.full((2, *SIZE), float("nan") if i == 2 else 1.)
        return dict(image=torch.rand(3, *SIZE), flow=flow, name=f"clip/{i:05d}")


def test_a_loss_that_is_no_number_ends_the_training_before_it_spoils_the_weights(tmp_path):
    network = create_network("small")
    with pytest.raises(ValueError, match=r"the loss became nan at step \d+ .*clip/00002"):
        fit(Poisoned(), network, steps=50, batch_size=2, progress=False, callbacks=[Checkpoint(tmp_path / "last.safetensors")])
    assert all(v.isfinite().all() for v in network.state_dict().values())
    assert all(v.isfinite().all() for v in load(tmp_path / "last.safetensors").state_dict().values())


@pytest.mark.parametrize("options, says", [
    (dict(data="nowhere.mp4"), "no such clip"), (dict(network="resnet18x"), "did you mean"), (dict(steps=0), "at least 1"),
    (dict(batch_size=-1), "at least 1"), (dict(data=[]), "the data set is empty")])
def test_what_cannot_be_trained_is_refused(scenes, options, says):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        fit(**(dict(data=scenes, progress=False) | options))


def test_a_learner_trains_once(scenes):
    learn = fit(scenes, steps=1, batch_size=2, progress=False)
    with pytest.raises(ValueError, match="has been fitted"):
        learn.fit()
