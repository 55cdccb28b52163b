"The Learner where a lesson is the wrong place: errors, the published recipe, callbacks."
import numpy as np
import pytest
import torch

from gwm_nb.callbacks import Checkpoint
from gwm_nb.checkpoints import load, save
from gwm_nb.network import create_network
from gwm_nb.paper import paper_network, paper_recipe, paper_schedule
from gwm_nb.scenes import MovingScenes
from gwm_nb.train import Callback, Flips, History, Learner, fit
from inputs import fill_network, refused

SIZE = (32, 48)


@pytest.fixture(scope="module")
def scenes(): return MovingScenes(6, seed=3, size=SIZE)


class Watch(Callback):
    "Keeps the losses, and the norms of the gradients before they are clipped."
    def __init__(self): self.losses, self.norms = [], []
    def after_loss(self, learn): self.losses.append(learn.loss.item())
    def after_backward(self, learn):
        grads = [p.grad for p in learn.network.parameters() if p.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(grads).item())


def test_the_gradient_is_clipped_after_callbacks_saw_it(scenes):
    def first(clip):
        watch, network = Watch(), create_network("small")
        flat = lambda: torch.cat([p.detach().flatten().clone() for p in network.parameters()])
        before = flat()
        fit(scenes, network, steps=1, batch_size=2, progress=False, callbacks=[watch], clip=clip,
            schedule=lambda optimiser, steps: torch.optim.lr_scheduler.ConstantLR(optimiser, 1.),
            optimiser=lambda network: torch.optim.SGD(network.parameters(), 1.))
        return watch.norms[0], (flat() - before).norm().item()
    norm, moved = first(None)
    assert moved == pytest.approx(norm, rel=1e-4) and norm > .002
    seen, moved = first(.001)
    assert seen > .002 and moved == pytest.approx(.001, rel=1e-2)


# Their true gradient is zero (softmax takes no notice of one map added to every mask; the decoder's
# first input is zero): what was recorded is rounding noise.
NOISE = ("sem_seg_head.predictor.mask_embed.layers.2.bias",
         "sem_seg_head.predictor.transformer.decoder.layers.0.self_attn.in_proj_weight")


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def check_gradients(parameters, z):
    found = {k: p.grad for k, p in parameters.items() if p.grad is not None}
    total = torch.nn.utils.get_total_norm(list(found.values()))
    assert total.item() == pytest.approx(z["total_grad_norm"], rel=1e-3)
    for k, norm in zip(z["names"], z["grad_norm_each"]):
        if "mask_querie_comb" in k:
            assert k not in found and np.isnan(norm)
        elif k in NOISE:
            assert found[k].norm() < 1e-5 and norm < 1e-5
        else:
            assert found[k].norm().item() == pytest.approx(norm, rel=1e-3), k
    for k in z:
        if k.startswith("grad0/") and k[6:] not in NOISE:
            assert relative(found[k[6:]], z[k]) < 1e-3, k


def test_the_recorded_training_steps_through_the_learner(golden):
    "Two steps: losses, learning rates, gradients before clipping, parameters after each step."
    z = dict(np.load(golden / "train_96x160.npz"))
    network = fill_network(paper_network())
    image, flow = torch.tensor(z["rgb"])[0].float() / 255, torch.tensor(z["flow"])[0]
    sample = dict(image=image, flow=flow, name="recorded/00000")
    parameters, checked = dict(network.named_parameters()), []
    before = {k: p.detach().clone() for k, p in parameters.items()}

    class Compare(Callback):
        def before_fit(self, learn): learn.network.eval()               # recorded without dropout
        def before_step(self, learn):
            rate = learn.schedule.get_last_lr()[0]
            assert rate == pytest.approx(z[f"lr{learn.step}"], rel=1e-12)
        def after_loss(self, learn):
            assert learn.loss.item() == pytest.approx(z[f"loss{learn.step}"], abs=1e-5)
        def after_backward(self, learn):
            if learn.step == 0:
                check_gradients(parameters, z)
        def after_step(self, learn):
            for k in (k for k in z if k.startswith(f"param{learn.step}/")):
                name = k.split("/", 1)[1]
                assert relative(parameters[name].detach(), z[k]) < 1e-3, k
                same = torch.equal(parameters[name].detach(), before[name])
                assert same == ("mask_querie_comb" in name), k
                checked.append(k)

    unwarmed = lambda optimiser, steps: paper_schedule(optimiser, warmup=0)
    recipe = paper_recipe(steps=2, batch_size=1, schedule=unwarmed)
    Learner(network, [sample], callbacks=[Compare()], **recipe).fit()
    assert len(checked) == sum(k.startswith("param") for k in z) >= 14


def test_a_training_of_another_kind_is_not_resumed(scenes, tmp_path):
    file = tmp_path / "a.safetensors"
    again = lambda *callbacks: Learner(create_network("small"), scenes,
                                       callbacks=[Flips(), History(), *callbacks]).resume(file)
    fit(scenes, steps=2, batch_size=2, progress=False, callbacks=[Checkpoint(file)])
    refused(again, says="callbacks")
    save(create_network("small"), file)
    refused(lambda: again(Checkpoint(file)), says="a.safetensors.*state of a training")


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_fit_and_loss_stay_float32(scenes, precision):
    class Kinds(Callback):
        def after_loss(self, learn): self.kinds = {learn.logits.dtype, learn.loss.dtype}
    kinds = Kinds()
    learn = fit(scenes, steps=2, batch_size=2, precision=precision, progress=False,
                callbacks=[kinds])
    assert kinds.kinds | {p.dtype for p in learn.network.parameters()} == {torch.float32}
    assert learn.accelerator.mixed_precision == precision


def test_a_loss_that_is_no_number_ends_the_training_before_it_spoils_the_weights(tmp_path):
    data = [dict(image=torch.rand(3, *SIZE), name=f"clip/{i:05d}",
                 flow=torch.full((2, *SIZE), float("nan") if i == 2 else 1.)) for i in range(4)]
    network, file = create_network("small"), tmp_path / "last.safetensors"
    with pytest.raises(ValueError, match=r"nan at step \d+ .*clip/00002"):
        fit(data, network, steps=50, batch_size=2, progress=False, callbacks=[Checkpoint(file)])
    for state in (network.state_dict(), load(file).state_dict()):
        assert all(v.isfinite().all() for v in state.values())


@pytest.mark.parametrize("options, says", [
    (dict(batch_size=5, accumulate=2), "2.*5|5.*2"), (dict(accumulate=0), "0"),
    (dict(data="nowhere.mp4"), "nowhere.mp4"),
    (dict(steps=0), "steps .*at least 1.* 0"), (dict(batch_size=-1), "at least 1.*-1"),
    (dict(data=[]), "empty"), (dict(loss="l1"), "'l1'.*ReconstructionLoss"),
    (dict(loss=lambda logits, flow: flow, batch_size=1), r"scalar.*\(1, 2, "),
    (dict(data=[torch.rand(3, 64, 96)] * 8), "dict with image and flow.*Tensor"),
    (dict(data=[dict(image=torch.rand(3, 64, 96))] * 8), "image and flow.*'image'")])
def test_what_cannot_be_trained_is_refused(scenes, options, says):
    refused(lambda: fit(**(dict(data=scenes, steps=1, progress=False) | options)),
            says=says, error=(ValueError, TypeError, FileNotFoundError))
