"The published network against recorded numbers, checkpoints that lie, and kept features."
import copy
import json
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch
from einops import rearrange

from gwm_nb.checkpoints import load_published
from gwm_nb.network import create_network
from gwm_nb.paper import (CachedBackbone, KeyFeatures, cache_features, paper_network,
                          paper_optimizer, paper_schedule, resize_positions)
from gwm_nb.weights import aliases
from inputs import fill_network, refused, tiny_paper

# the largest takes as long as the two others, and says the same
CASES = ("forward_96x160", "forward_pad_100x170",
         pytest.param("forward_128x224", marks=pytest.mark.slow))
VIT = "vit_tiny_patch16_224"


def far(a, b): return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()


@pytest.fixture(scope="module")
def network(golden): return fill_network(paper_network()).eval()


@pytest.mark.parametrize("K", [4, 2])
def test_names_shapes_and_order(network, golden, K):
    file = golden / f"state_dict_manifest{'' if K == 4 else '_K2'}.json"
    net, listed = network if K == 4 else paper_network(2), json.loads(file.read_text())
    shapes = lambda named: {k: list(v.shape) for k, v in named}
    state, trained = net.state_dict(), {k: p for k, p in net.named_parameters() if p.requires_grad}
    assert list(shapes(state.items()).items()) == list(listed["state_dict"].items())
    assert {v.dtype for v in state.values()} == {torch.float32}
    assert sorted(map(sorted, aliases(net))) == sorted(map(sorted, listed["aliases"]))
    assert list(trained) == listed["parameters_unique"]
    assert sum(p.numel() for p in trained.values()) == listed["n_parameters_unique"]
    assert shapes(net.backbone.model.named_parameters()) == listed["dino_not_in_state_dict"]


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_features_head_and_logits(network, golden, case):
    z, head = dict(np.load(golden / f"{case}.npz")), network.sem_seg_head
    image = torch.tensor(z["rgb"]).float() / 255
    maps = network.features(image)
    for i, m in enumerate(maps, 2):
        assert list(m.shape) == list(z[f"res{i}_shape"])
        assert far(m[:, ::16, ::5, ::5], z[f"res{i}_slice"]) < 1e-4
        if f"res{i}_full_b0" in z:
            assert far(m[0], z[f"res{i}_full_b0"]) < 1e-4
    positions = resize_positions(network.backbone.model.pos_embed, maps[0].shape[-2:])
    assert far(positions[0, ::97], z["pos_embed_interp_f16tokens"]) < 1e-4
    assert far(head.predictor.queries(maps), z["hs"][0]) < 1e-4
    pixels = head.pixel_decoder(maps)
    assert list(pixels.shape) == list(z["mask_features_shape"])
    assert far(pixels[:, ::16, ::5, ::5], z["mask_features_slice"]) < 1e-4
    raw = head(maps)
    assert far(raw, z["raw_sem_seg"]) < 5e-4
    logits = network.decode(maps, image.shape[-2:])
    assert far(logits, z["sem_seg"]) < 5e-4
    if case == CASES[0]:
        assert far(head.plain(maps), raw) < 2e-4 and far(network(image), logits) < 1e-5


def test_optimiser(network, golden):
    listed = json.loads((golden / "optimizer.json").read_text())["groups"]
    names = {id(p): k for k, p in network.named_parameters()}
    keys = "lr", "weight_decay", "betas", "eps", "amsgrad"
    ours = [(names[id(g["params"][0])], *(g[k] for k in keys))
            for g in paper_optimizer(network).param_groups]
    theirs = [(g["name"], *(tuple(g[k]) if k == "betas" else g[k] for k in keys)) for g in listed]
    assert ours == theirs and len(ours) == 150 and sum(g[2] == 0 for g in ours) == 53


def test_schedule(golden):
    listed = json.loads((golden / "optimizer.json").read_text())["lr"]
    optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], 1.5e-4)
    schedule, rates = paper_schedule(optimiser), []
    for _ in range(max(map(int, listed)) + 1):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step(), schedule.step()
    for t, lr in listed.items():
        assert rates[int(t)] == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize("name, side", [("vit_small_patch8_224.dino", 224),
                                        ("vit_small_patch14_reg4_dinov2.lvd142m", 518),
                                        ("vit_small_patch16_dinov3.lvd1689m", 96)])
@torch.no_grad()
def test_keys_are_those_of_timm(name, side):
    torch.manual_seed(0)
    ours = KeyFeatures(name, stride=None, blocks=(0, 1))
    model, seen, x = ours.model, [], torch.randn(1, 3, side, side)
    model.blocks = model.blocks[:2]
    for k, p in model.named_parameters():
        p.copy_(torch.randn_like(p) * (.02 if p.ndim > 1 else .1) + k.endswith("norm.weight"))
    for block in model.blocks:
        block.attn.qkv.register_forward_hook(lambda m, a, out: seen.append(out.chunk(3, -1)[1]))
    model.forward_features(x)
    for theirs, keys in zip(tuple(seen), ours(x), strict=True):
        keys = rearrange(keys, "b (d h) y x -> b (y x) (h d)", h=model.blocks[0].attn.num_heads)
        assert far(keys, theirs[:, model.num_prefix_tokens:]) < 1e-5


@pytest.mark.parametrize("arrays", [False, True])
def test_load_published(tmp_path, arrays):
    "Also a file written under NumPy 1, whose arrays have another module."
    theirs, ours = fill_network(tiny_paper()), tiny_paper()
    state = {k: v.numpy() if arrays else v for k, v in theirs.state_dict().items()}
    new, old = tmp_path / "new.pth", tmp_path / "old.pth"
    torch.save({"model": state, "iteration": 5000, "best": np.float64(.79),
                "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []},
                "torch_rng": torch.get_rng_state(), "np_rng": np.random.get_state(),
                "py_rng": random.getstate()}, new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w", zipfile.ZIP_STORED) as out:
        for i in source.infolist():
            out.writestr(i.filename, source.read(i).replace(b"numpy._core", b"numpy.core"))
    load_published(old if arrays else new, ours)
    for k, v in theirs.state_dict().items():
        assert v.equal(ours.state_dict()[k])
    decoder = ours.sem_seg_head.pixel_decoder
    assert decoder.layer_2.norm is decoder.mask_features[0].norm
    torch.save({"epoch": 3}, new)
    refused(load_published, new, ours, says="new.pth.*epoch")


@pytest.mark.parametrize("build, says", [
    (lambda: paper_network(quirks=("grwo",)), "grwo"), (lambda: paper_network(0, name=VIT), "1.*0"),
    (lambda: create_network("paper", freeze=False), "frozen"),
    (lambda: KeyFeatures("resnet18"), "resnet18"),
    (lambda: cache_features(create_network("small"), "x"), "frozen backbone"),
    (lambda: KeyFeatures(VIT, stride=17), "patch size 16"),
    (lambda: tiny_paper()(torch.rand(3, 64, 64)), r"\(B,3,H,W\)"),
    (lambda: paper_optimizer(frozen().backbone), "unfreeze some")])
def test_refusals(build, says):
    refused(build, says=says)


def frozen():
    torch.manual_seed(0)
    return create_network("resnet18", pretrained=False, freeze=True)


def test_a_cache_is_shared_and_never_mixed_up(tmp_path):
    backbone, folder = frozen().backbone.eval(), tmp_path / "64x96"
    make = lambda: CachedBackbone(backbone, tmp_path, torch.float32)
    one, two, pictures = make(), make(), torch.rand(7, 3, 64, 96)
    one(pictures[:2]), two(pictures[2:4]), one(pictures[4:6]), two(pictures[:1])
    assert (one.computed, two.computed) == (4, 2)
    damaged = sorted(folder.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (folder / "half.safetensors.part").write_bytes(b"half a file")       # of a killed program
    three = make()
    for cache in (three, one, two):
        for p in pictures.split(1):
            torch.testing.assert_close(cache(p)[2], backbone(p)[2], atol=1e-5, rtol=1e-4)
    assert (three.computed, one.computed, two.computed) == (2, 4, 2)
    assert len(list(folder.glob("*.safetensors"))) == 7
    batch = pictures[[6, 1, 6]]
    torch.testing.assert_close(three(batch)[4], backbone(batch)[4], atol=1e-5, rtol=1e-4)


def test_a_cache_does_not_show_outside(tmp_path):
    trained = create_network("resnet18", pretrained=False)
    cached = cache_features(frozen(), tmp_path)
    cached.load_state_dict(trained.state_dict())
    for again in (pickle.loads(pickle.dumps(cached)), copy.deepcopy(cached)):
        assert again.backbone.folder == tmp_path
    refused(lambda: CachedBackbone(frozen().backbone, tmp_path, torch.bfloat16),
            says="another backbone or number type")
