"The published network: names, features, logits, optimiser and training steps against recorded numbers; and checkpoints that lie."
import copy
import json
import os
import pickle
import random
import time
import zipfile
import zlib
from math import sqrt

import cv2
import numpy as np
import pytest
import timm
import torch
from einops import rearrange

from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowSettings
from gwm_nb.videos import training_samples
from gwm_nb.weights import aliases
from gwm_nb.network import create_network
from gwm_nb.paper import CachedBackbone, KeyFeatures, cache_features, paper_network, paper_optimizer, paper_recipe, paper_schedule, resize_positions
from gwm_nb.checkpoints import load_backbone, load_published
from gwm_nb.train import Photometric, fit

CASES = ("forward_128x224", "forward_96x160", "forward_pad_100x170")


def fill(name, shape):
    "The value that the recorded runs gave to parameter `name`."
    r = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(zlib.crc32(name.encode())), dtype=torch.float32)
    if name.endswith(("pos_embed", "cls_token")):
        return .5 * r
    if name.endswith("query_embed.weight"):
        return r
    if len(shape) >= 2:
        return r / sqrt(r.numel() / shape[0])
    return 1 + .1 * r if name.endswith(".weight") else .1 * r


@torch.no_grad()
def fill_network(network):
    "Fill every parameter of a published network by its published name."
    for name, p in network.named_parameters():
        p.copy_(fill(name.replace("backbone.model.", "backbone.extractor.model."), tuple(p.shape)))
    return network


def tiny(K=4, **options):
    torch.manual_seed(0)
    return paper_network(K, name="vit_tiny_patch16_224", stride=8, blocks=(0, 1), **options)


def picture(z): return torch.tensor(z["rgb"]).float() / 255


def stats(x):
    x = x.double().flatten()
    return [x.mean(), x.std(), x.abs().max(), x[::7].sum(), (x * torch.arange(len(x)).cos()).sum()]


def far(a, b): return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()


def relative(a, b): return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def recorded(golden): return {c: dict(np.load(golden / f"{c}.npz")) for c in (*CASES, "train_96x160")}


@pytest.fixture(scope="module")
def network(golden): return fill_network(paper_network()).eval()


@pytest.fixture(scope="module")
def maps(network, recorded): return {c: network.features(picture(recorded[c])) for c in CASES}


# ---- names and weights

@pytest.mark.parametrize("name, first", [("sem_seg_head.predictor.query_embed.weight", [2.320253, .327636, -1.403252]),
                                         ("backbone.extractor.model.pos_embed", [-.132626, -.199802, .364021])])
def test_the_weight_rule(name, first):
    shape = (4, 256) if "query" in name else (1, 785, 768)
    np.testing.assert_allclose(fill(name, shape).flatten()[:3], first, atol=1e-6)


@pytest.mark.parametrize("K", [4, 2])
def test_names_shapes_and_order(network, golden, K):
    net, listed = network if K == 4 else paper_network(2), json.loads((golden / f"state_dict_manifest{'' if K == 4 else '_K2'}.json").read_text())
    state = net.state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == listed["state_dict"] and list(state) == list(listed["state_dict"])
    assert {v.dtype for v in state.values()} == {torch.float32}
    assert sorted(map(sorted, aliases(net))) == sorted(map(sorted, listed["aliases"]))
    assert [k for k, p in net.named_parameters() if p.requires_grad] == listed["parameters_unique"]
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == listed["n_parameters_unique"]
    assert {k: list(p.shape) for k, p in net.backbone.model.named_parameters()} == listed["dino_not_in_state_dict"]


def test_the_state_dict_goes_in_and_comes_out_to_the_byte(golden, network):
    listed = json.loads((golden / "state_dict_manifest.json").read_text())
    shared = {name: group[0] for group in listed["aliases"] for name in group}
    state = {k: fill(shared.get(k, k), tuple(s)) for k, s in listed["state_dict"].items()}
    net = load_published(state, paper_network())
    assert all(v.numpy().tobytes() == state[k].numpy().tobytes() for k, v in net.state_dict().items())


def test_the_backbone_follows_but_is_never_trained():
    net = tiny().train()
    assert net.sem_seg_head.training and not any(m.training for m in net.backbone.modules())
    assert not any(p.requires_grad for p in net.backbone.parameters())
    assert {p.dtype for p in net.double().parameters()} == {torch.double}
    assert {p.device.type for p in net.to("meta").parameters()} == {"meta"}


# ---- forward

@pytest.mark.parametrize("case", CASES)
def test_features(network, maps, recorded, case):
    z = recorded[case]
    for i, m in enumerate(maps[case], 2):
        assert list(m.shape) == list(z[f"res{i}_shape"])
        assert far(m[:, ::16, ::5, ::5], z[f"res{i}_slice"]) < 1e-4
        np.testing.assert_allclose(stats(m), z[f"res{i}_stats"], rtol=1e-5, atol=.05)
        if f"res{i}_full_b0" in z:
            assert far(m[0], z[f"res{i}_full_b0"]) < 1e-4
    assert far(resize_positions(network.backbone.model.pos_embed, maps[case][0].shape[-2:])[0, ::97], z["pos_embed_interp_f16tokens"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_head_and_logits(network, maps, recorded, case):
    z, head = recorded[case], network.sem_seg_head
    assert far(head.predictor.queries(maps[case]), z["hs"][0]) < 1e-4
    pixels = head.pixel_decoder(maps[case])
    assert list(pixels.shape) == list(z["mask_features_shape"])
    assert far(pixels[:, ::16, ::5, ::5], z["mask_features_slice"]) < 1e-4
    np.testing.assert_allclose(stats(pixels), z["mask_features_stats"], rtol=1e-5, atol=.05)
    raw = head(maps[case])
    assert far(raw, z["raw_sem_seg"]) < 5e-4
    if case == CASES[1]:
        assert far(head.plain(maps[case]), raw) < 2e-4
    assert far(network.decode(maps[case], z["rgb"].shape[-2:]), z["sem_seg"]) < 5e-4


def test_forward_is_features_and_decode(network, maps, recorded):
    with torch.inference_mode():
        assert far(network(picture(recorded["forward_96x160"])), recorded["forward_96x160"]["sem_seg"]) < 5e-4


# ---- training

def test_optimiser_and_schedule(network, golden):
    listed = json.loads((golden / "optimizer.json").read_text())
    optimiser, names = paper_optimizer(network), {id(p): k for k, p in network.named_parameters()}
    groups = [(names[id(g["params"][0])], g["lr"], g["weight_decay"], list(g["betas"]), g["eps"], g["amsgrad"]) for g in optimiser.param_groups]
    assert groups == [(g["name"], g["lr"], g["weight_decay"], g["betas"], g["eps"], g["amsgrad"]) for g in listed["groups"]]
    assert len(groups) == 150 and sum(g[2] == 0 for g in groups) == 53


def test_schedule(golden):
    listed = json.loads((golden / "optimizer.json").read_text())["lr"]
    optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], 1.5e-4)
    schedule, rates = paper_schedule(optimiser), []
    for _ in range(max(map(int, listed)) + 1):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step(), schedule.step()
    for t, lr in listed.items():
        assert rates[int(t)] == pytest.approx(lr, rel=1e-12)


# Their true gradient is zero (softmax takes no notice of one map added to every mask; the decoder's first input is zero): what was recorded is rounding noise.
NOISE = ("sem_seg_head.predictor.mask_embed.layers.2.bias", "sem_seg_head.predictor.transformer.decoder.layers.0.self_attn.in_proj_weight")


def check_gradients(parameters, z):
    total = torch.nn.utils.get_total_norm([p.grad for p in parameters.values() if p.grad is not None])
    assert total.item() == pytest.approx(z["total_grad_norm"], rel=1e-3)
    for k, norm in zip(z["names"], z["grad_norm_each"]):
        if "mask_querie_comb" in k:
            assert parameters[k].grad is None and np.isnan(norm)
        elif k in NOISE:
            assert parameters[k].grad.norm() < 1e-5 and norm < 1e-5
        else:
            assert parameters[k].grad.norm().item() == pytest.approx(norm, rel=1e-3), k
    for k in z:
        if k.startswith("grad0/") and k[6:] not in NOISE:
            assert relative(parameters[k[6:]].grad, z[k]) < 1e-3, k


def test_two_training_steps(recorded):
    z, net = recorded["train_96x160"], fill_network(paper_network()).eval()
    recipe, parameters = paper_recipe(), dict(net.named_parameters())
    loss_func, optimiser = recipe["loss"], recipe["optimiser"](net)
    schedule, image, flow = paper_schedule(optimiser, warmup=0), picture(z), torch.tensor(z["flow"])
    for t in range(2):
        assert schedule.get_last_lr()[0] == pytest.approx(z[f"lr{t}"], rel=1e-12)
        loss = loss_func(net(image), flow)
        assert loss.item() == pytest.approx(z[f"loss{t}"], abs=1e-5)
        optimiser.zero_grad(), loss.backward()
        if t == 0:
            check_gradients(parameters, z)
        torch.nn.utils.clip_grad_norm_(parameters.values(), recipe["clip"])
        optimiser.step(), schedule.step()
        for k in z:
            if k.startswith(f"param{t + 1}/"):
                assert relative(parameters[k[7:]].detach(), z[k]) < 1e-3, k
                if "mask_querie_comb" not in k:
                    assert not torch.equal(parameters[k[7:]].detach(), fill(k[7:], parameters[k[7:]].shape)), k


def test_the_published_recipe_is_one_call(tmp_path):
    "Two steps on one short clip in the folders of DAVIS."
    frames = tmp_path / "DAVIS2016" / "JPEGImages" / "480p" / "drift"
    frames.mkdir(parents=True)
    for t, sample in enumerate(MovingScenes(4, seed=5, size=(96, 160))):
        cv2.imwrite(str(frames / f"{t:05d}.png"), (sample["image"] * 255).byte().permute(1, 2, 0).numpy()[..., ::-1])
    data, net = training_samples("DAVIS", tmp_path, FlowSettings(size=(64, 96))), tiny()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    learn = fit(data, net, augment=[Photometric()], progress=False, device="cpu", **paper_recipe(steps=2, batch_size=2))
    assert [h["step"] for h in learn.history] == [1, 2] and all(np.isfinite(h["loss"]) for h in learn.history)
    assert learn.batch_size == 2 and learn.clip == .01 and len(learn.optimiser.param_groups) == sum(p.requires_grad for p in net.parameters())
    same = [k for k, v in net.state_dict().items() if v.equal(before[k])]
    assert all(k in NOISE or "mask_querie_comb" in k or "empty_weight" in k or "layers.0.norm1.weight" in k for k in same)
    assert learn.schedule.get_last_lr()[0] == pytest.approx(1.5e-4 * 2 / 1500, rel=1e-3)


# ---- other transformers

@pytest.mark.parametrize("name, side", [("vit_small_patch8_224.dino", 224), ("vit_small_patch14_reg4_dinov2.lvd142m", 518), ("vit_small_patch16_dinov3.lvd1689m", 96)])
def test_keys_are_those_of_timm(name, side):
    torch.manual_seed(0)
    ours = KeyFeatures(name, stride=None, blocks=(0, 1))
    ours.model.blocks = ours.model.blocks[:2]
    with torch.no_grad():
        for k, p in ours.model.named_parameters():
            p.copy_(torch.randn_like(p) * (.02 if p.ndim > 1 else .1) + k.endswith("norm.weight"))
    seen, x, heads = {}, torch.randn(1, 3, side, side), ours.model.blocks[0].attn.num_heads
    for i in (0, 1):
        ours.model.blocks[i].attn.qkv.register_forward_hook(lambda m, a, out, i=i: seen.update({i: out.chunk(3, -1)[1]}))
    with torch.no_grad():
        ours.model.forward_features(x)
    for i, keys in enumerate(ours(x)):
        assert far(rearrange(keys, "b (d h) y x -> b (y x) (h d)", h=heads), seen[i][:, ours.model.num_prefix_tokens:]) < 1e-5


def test_a_local_file_of_dino(tmp_path):
    "DINO's own names are timm's; the file of the whole network or of the keys' backbone will do."
    one, two = (KeyFeatures("vit_tiny_patch16_224", stride=8, blocks=(0, 1)) for _ in range(2))
    torch.save({"teacher": {f"module.backbone.{k}".replace("module.backbone.", "module."): v for k, v in one.model.state_dict().items()}}, tmp_path / "dino.pth")
    load_backbone(tmp_path / "dino.pth", two)
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(one(x)[1], two(x)[1])
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "whole.pth")
    assert KeyFeatures("vit_tiny_patch16_224", stride=8, blocks=(0, 1), pretrained=tmp_path / "whole.pth")(x)[0].isfinite().all()
    with pytest.raises(ValueError, match="does not fit"):
        load_backbone({"x": torch.zeros(1)}, two)


# ---- checkpoints

def release(state, **more):
    "What the release's files hold."
    return {"model": state, "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
            "scheduler": {"last_epoch": 3, "base_lrs": [1.5e-4]}, "iteration": 5000, "best": np.float64(.79), "torch_rng": torch.get_rng_state(),
            "np_rng": np.random.get_state(), "py_rng": random.getstate(), **more}


@pytest.mark.parametrize("arrays", [False, True])
def test_load_published(tmp_path, arrays):
    theirs, ours = fill_network(tiny()), tiny()
    state = {k: v.numpy() if arrays else v for k, v in theirs.state_dict().items()}
    torch.save(release(state), tmp_path / "r.pth")
    load_published(tmp_path / "r.pth", ours)
    assert all(a.equal(b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values()))
    decoder = ours.sem_seg_head.pixel_decoder
    assert decoder.layer_2.norm is decoder.mask_features[0].norm


def test_files_written_under_numpy_1(tmp_path):
    torch.save(release(tiny().state_dict()), tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w", zipfile.ZIP_STORED) as old:
        for i in new.infolist():
            data = new.read(i)
            old.writestr(i.filename, data.replace(b"numpy._core", b"numpy.core") if i.filename.endswith(".pkl") else data)
    load_published(tmp_path / "old.pth", tiny())


class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f"touch {self.path}",)


def spoiled(tmp_path, state, kind):
    "A file that is not what it claims to be."
    file, first = tmp_path / "bad.pth", next(iter(state))
    changed = {"missing": {k: v for k, v in state.items() if k != first}, "unexpected": state | {"extra.weight": torch.zeros(1)}, "shape": state | {first: torch.zeros(1, 2)},
               "nan": state | {first: state[first] * float("nan")}, "not a tensor": state | {first: "x"},
               "alias": {k: v + 1 if k.endswith("mask_features.2.norm.bias") else v for k, v in state.items()}}
    torch.save(release(changed.get(kind, state), **({"hook": Evil(tmp_path / "owned")} if kind == "evil" else {})), file)
    data = {"truncated": file.read_bytes()[:-5000], "half": file.read_bytes()[:file.stat().st_size // 2], "empty": b"", "text": b"<html>404 not found</html>",
            "evil pickle": pickle.dumps(Evil(tmp_path / "owned")), "evil old pickle": pickle.dumps(Evil(tmp_path / "owned"), 2)}
    if kind in data:
        file.write_bytes(data[kind])
    if kind in ("list", "other dict"):
        torch.save([1, 2] if kind == "list" else {"epoch": 3}, file)
    return file


@pytest.mark.parametrize("kind, says", [
    ("truncated", "cut short"), ("half", "cut short"), ("empty", "cut short"), ("text", "no file of torch.save"), ("list", "holds a list"), ("other dict", "epoch"),
    ("evil", "system"), ("evil old pickle", "do not trust it"), ("evil pickle", "do not trust it"), ("missing", "1 missing: sem_seg_head"), ("unexpected", "extra.weight"),
    ("shape", "(1, 2) instead of"), ("nan", "not finite"), ("not a tensor", "not a tensor"), ("alias", "shared by several layers")])
def test_bad_checkpoints_change_nothing(tmp_path, kind, says):
    net = tiny()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    file = spoiled(tmp_path, fill_network(tiny()).state_dict(), kind)
    with pytest.raises(ValueError) as e:
        load_published(file, net)
    assert says in str(e.value) and "\n" not in str(e.value) and "bad.pth" in str(e.value) and not (tmp_path / "owned").exists()
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())


# ---- what is refused

@pytest.mark.parametrize("build, says", [
    (lambda: paper_network(quirks=("grwo",)), "grwo"), (lambda: paper_network(0, name="vit_tiny_patch16_224"), "at least 1"), (lambda: KeyFeatures("resnet18"), "no plain qkv"),
    (lambda: KeyFeatures("vit_nonsense"), "unknown backbone"), (lambda: KeyFeatures("vit_tiny_patch16_224", stride=17), "patch size 16"),
    (lambda: KeyFeatures("vit_tiny_patch16_224", blocks=(12,)), "between 0 and 11"), (lambda: KeyFeatures("vit_tiny_patch16_224", blocks=()), "between 0 and 11"),
    (lambda: KeyFeatures("beit_base_patch16_224"), "no plain qkv"), (lambda: tiny()(torch.rand(3, 64, 64)), r"\(B,3,H,W\)"),
    (lambda: paper_optimizer(create_network("resnet18", pretrained=False, freeze=True).backbone), "unfreeze some")])
def test_refusals(build, says):
    with pytest.raises(ValueError, match=says):
        build()


@pytest.mark.parametrize("quirks", [True, False, ("grow",)])
def test_any_size_comes_back(quirks):
    net = tiny(quirks=quirks)
    for size in ((64, 96), (50, 70), (33, 97)):
        assert net(torch.rand(2, 3, *size)).shape == (2, 4, *size)


# ---- kept features

@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 5e-2)])
def test_training_on_kept_features_is_training(tmp_path, dtype, tolerance):
    "`fit` draws and mirrors batches as ever; the cache knows pictures by what they are."
    data, losses = MovingScenes(6, seed=3, size=(64, 96)), []
    for cached in (False, True):
        torch.manual_seed(0)
        network = create_network("resnet18", pretrained=False, freeze=True)
        if cached:
            cache_features(network, tmp_path, data, dtype=dtype)
            computed = network.backbone.computed
        learn = fit(data, network, steps=8, batch_size=4, progress=False, device="cpu")
        losses.append([h["loss"] for h in learn.history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)
    assert computed == network.backbone.computed == 12            # six pictures and their mirror images, all before training


def frozen_backbone():
    torch.manual_seed(0)
    return create_network("resnet18", pretrained=False, freeze=True).backbone.eval()


def test_a_cache_is_shared_and_never_mixed_up(tmp_path):
    backbone = frozen_backbone()
    one, two = CachedBackbone(backbone, tmp_path, torch.float32), CachedBackbone(backbone, tmp_path, torch.float32)
    pictures = torch.rand(6, 3, 64, 96)
    one(pictures[:2]), two(pictures[2:4]), one(pictures[4:]), two(pictures[:1])
    assert (one.computed, two.computed) == (4, 2)
    files = sorted((tmp_path / "64x96").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-100])                                # damaged
    (tmp_path / "64x96" / "half.safetensors.part").write_bytes(b"half a file")        # as a killed program leaves it
    three = CachedBackbone(backbone, tmp_path, torch.float32)
    extra = torch.rand(1, 3, 64, 96)
    for cache in (three, one, two):
        for p in [*pictures, extra[0]]:
            torch.testing.assert_close(cache(p[None])[2], backbone(p[None])[2], atol=1e-5, rtol=1e-4)
    assert three.computed == 2 and (one.computed, two.computed) == (4, 2) and len(list((tmp_path / "64x96").glob("*.safetensors"))) == 7
    again = three(torch.stack([extra[0], pictures[1], extra[0]]))
    torch.testing.assert_close(again[4], backbone(torch.stack([extra[0], pictures[1], extra[0]]))[4], atol=1e-5, rtol=1e-4)


def test_the_same_bytes_in_another_size_are_another_picture(tmp_path):
    cache, numbers = CachedBackbone(frozen_backbone(), tmp_path), torch.rand(1, 3 * 64 * 96)
    assert cache(numbers.view(1, 3, 64, 96))[0].shape != cache(numbers.view(1, 3, 96, 64))[0].shape and cache.computed == 2


def fill_cache(folder, pictures): CachedBackbone(frozen_backbone(), folder)(pictures)


def test_several_programs_fill_one_cache(tmp_path):
    "The same pictures at the same time, and one program is killed on the way."
    pictures, start = torch.rand(8, 3, 64, 96, generator=torch.Generator().manual_seed(0)), torch.multiprocessing.get_context("spawn")
    others = [start.Process(target=fill_cache, args=(tmp_path, pictures)) for _ in range(2)]
    for p in others:
        p.start()
    while not list(tmp_path.glob("64x96/*")) and any(p.is_alive() for p in others):
        time.sleep(.001)
    others[0].kill()
    for p in others:
        p.join()
    assert others[1].exitcode == 0
    cache = CachedBackbone(frozen_backbone(), tmp_path)
    for ours, theirs in zip(cache(pictures), frozen_backbone()(pictures)):
        torch.testing.assert_close(ours, theirs, atol=.02, rtol=.02)
    assert cache.computed == 0


def test_features_beyond_half_precision_are_refused(tmp_path):
    class Loud(torch.nn.Module):
        channels, strides = (3,), (1,)
        def forward(self, x): return [x * 1e6]
    with pytest.raises(ValueError, match="beyond the range of torch.float16; keep them as torch.bfloat16"):
        CachedBackbone(Loud(), tmp_path / "half")(torch.ones(1, 3, 8, 8))
    assert not list((tmp_path / "half").rglob("*.safetensors"))
    assert CachedBackbone(Loud(), tmp_path / "brain", torch.bfloat16)(torch.ones(1, 3, 8, 8))[0].max() == torch.tensor(1e6).bfloat16()


def test_a_cache_does_not_show_outside(tmp_path):
    network = create_network("resnet18", pretrained=False, freeze=True)
    names = list(network.state_dict())
    cached = cache_features(network, tmp_path)
    assert sorted(cached.state_dict()) == sorted(names)
    cached.load_state_dict(create_network("resnet18", pretrained=False).state_dict())
    assert pickle.loads(pickle.dumps(cached.backbone)).folder == tmp_path and copy.deepcopy(cached).backbone.folder == tmp_path
    with pytest.raises(ValueError, match="already"):
        cache_features(cached, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="frozen backbone"):
        cache_features(create_network("resnet18", pretrained=False), tmp_path / "x")
    with pytest.raises(ValueError, match="another backbone or number type"):
        CachedBackbone(frozen_backbone(), tmp_path, torch.bfloat16)


@pytest.mark.parametrize("other", [dict(stride=16), dict(blocks=(0, 2)), dict(position_quirk=False)])
def test_a_cache_belongs_to_one_backbone(tmp_path, other):
    torch.manual_seed(0)
    one = KeyFeatures("vit_tiny_patch16_224", **dict(stride=8, blocks=(0, 1)))
    CachedBackbone(one, tmp_path)
    two = KeyFeatures("vit_tiny_patch16_224", **(dict(stride=8, blocks=(0, 1)) | other))
    two.model.load_state_dict(one.model.state_dict())
    with pytest.raises(ValueError, match="another backbone"):
        CachedBackbone(two, tmp_path)


def test_an_exported_network_is_checked_before_it_is_kept(tmp_path):
    from gwm_nb.checkpoints import export_program
    network = create_network("small").train()
    export_program(network, tmp_path / "a.pt2", size=(32, 48))
    before = (tmp_path / "a.pt2").read_bytes()
    with pytest.raises(ValueError, match="differs by"):
        export_program(network, tmp_path / "a.pt2", size=(32, 48), tolerance=-1)
    assert (tmp_path / "a.pt2").read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["a.pt2"] and network.training
    assert torch.export.load(tmp_path / "a.pt2").module()(torch.rand(70, 3, 32, 48)).shape == (70, 2, 32, 48)
