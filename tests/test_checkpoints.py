"Files of networks and runs: what comes back, what is refused, and what a crash leaves."
import copy
import json
import os
import socket
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn as nn

from gwm_nb import checkpoints
from gwm_nb.benchmarks import load_any
from gwm_nb.checkpoints import load, load_training, published_checkpoint, save
from gwm_nb.network import create_network
from gwm_nb.runs import take_weights
from inputs import Mirror, blob, place, refused, tiny_paper


def plain(value):
    "Something that is equal only for what is equal to the last bit, of the same kinds throughout."
    if isinstance(value, dict):
        return type(value), [(plain(k), plain(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [plain(v) for v in value]
    if isinstance(value, torch.Tensor):
        bits = value.detach().contiguous().flatten().view(torch.uint8)
        return value.dtype, value.shape, bits.tolist()
    if isinstance(value, (np.ndarray, np.generic)):
        return type(value), value.dtype, value.shape, value.tobytes()
    return type(value), repr(value)


def same_weights(one, two):
    one, two = one.state_dict(), two.state_dict()
    return list(one) == list(two) and all(one[k].equal(two[k]) for k in one)


VALUES = [
    {}, [], (), None, True, 0, -0., float("inf"), float("nan"), 2**200, "", "training/0",
    {"tensor": "training/0"}, {"dict": [[1, 2]]}, ((),), {(1, "a"): {None: [(2,)]}},
    {1: "int", "1": "text"}, {"a/b": {"c": torch.ones(1)}}, torch.tensor(3),
    torch.zeros(0, 4), torch.tensor([True, False]), torch.rand(4, 5)[:, ::2], torch.rand(3, 2).T,
    torch.rand(2).bfloat16(), torch.rand(2).half(), torch.tensor([float("nan"), -0.]),
    torch.tensor([1 + 2j]), np.arange(6, dtype=np.uint32).reshape(2, 3)[:, ::-1], np.array(3.),
    np.float64(.1), np.int16(-4), np.bool_(True), np.zeros((2, 0))]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_everything_comes_back_as_what_it_was(tmp_path, value):
    save(nn.Linear(2, 2), tmp_path / "run.safetensors", training={"value": value})
    assert plain(load_training(tmp_path / "run.safetensors")["value"]) == plain(value)


@pytest.mark.parametrize("bad, where", [
    (object(), "training['x']"), ({"y": [1, {2}]}, "training['x']['y'][1]"), (1j, "complex"),
    (b"bytes", "bytes"), (np.array(["text"]), "ndarray"), (print, "function")])
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, bad, where):
    refused(lambda: save(nn.Linear(2, 2), tmp_path / "run.safetensors", training={"x": bad}),
            says=[where])
    assert not list(tmp_path.iterdir())


def test_a_network_of_ones_own(tmp_path):
    build = lambda K=2: nn.Sequential(nn.Conv2d(3, K, 1), nn.BatchNorm2d(2)).train()
    own, wrong = build(), build(4)
    save(own, tmp_path / "own", training={"step": 3}, J=.2)
    again = load(tmp_path / "own", network=build())
    assert same_weights(again, own) and again.notes == {"J": .2} and not again.training
    before = copy.deepcopy(wrong)
    for options, says in (({}, "network="), (dict(network=wrong), "does not fit")):
        refused(load, tmp_path / "own", **options, says=f"own.*{says}")
    assert same_weights(wrong, before) and not hasattr(wrong, "notes")


def test_the_frozen_backbone_is_known_by_its_fingerprint(tmp_path):
    ours, other = tiny_paper(), tiny_paper()
    torch.nn.init.normal_(other.backbone.model.pos_embed)
    save(ours, tmp_path / "tiny")
    for given in (dict(backbone=other.backbone), dict(network=other), {}, dict(pretrained=True)):
        refused(load, tmp_path / "tiny", **given, says="backbone.*give it")
    other.backbone = ours.backbone
    for given in (dict(backbone=ours.backbone), dict(network=other)):
        assert same_weights(load(tmp_path / "tiny", **given), ours)


def described(file, tensors, **about):
    tensors = {k: v.clone() for k, v in tensors.items()}
    file.write_bytes(safetensors.torch.save(tensors, {"gwm_nb": json.dumps(about)}))
    return file


SMALL = dict(build="create_network", name="small", num_masks=2, freeze=False)
PAPER = dict(build="paper_network", name="vit_tiny_patch16_224", num_masks=2, stride=None,
             blocks=[0], quirks=[], pretrained=True)


@pytest.mark.parametrize("about", [
    SMALL | dict(num_masks=2**40), SMALL | dict(name="vit_giant_patch14_dinov2", pretrained=True),
    SMALL | dict(name="resnet18", pretrained="secret.pth"), PAPER], ids=lambda about: about["name"])
def test_a_description_builds_nothing_that_its_file_does_not_hold(tmp_path, monkeypatch, about):
    "A network is built only after its shapes are found in the file, and nothing is fetched."
    built = []
    def note(tensor, *args, **options): tensor.is_meta or built.append(tensor.shape)
    state = dict(create_network("small", 2).state_dict())
    monkeypatch.setattr(nn.init, "kaiming_uniform_", note)
    monkeypatch.setattr(socket, "socket", None)
    refused(lambda: load(described(tmp_path / "evil.safetensors", state, **about)), says="evil")
    assert not built
    load(described(tmp_path / "good.safetensors", state, **SMALL))
    assert built                                                      # it would be noted


def test_only_the_published_backbone_is_fetched_and_only_when_asked_for(tmp_path, monkeypatch):
    asked = []
    def fetched(name, stride, blocks, pretrained, quirk):
        asked.append((name, pretrained))
        return tiny_paper(4).backbone
    monkeypatch.setattr(checkpoints, "KeyFeatures", fetched)
    state = dict(tiny_paper(4).state_dict())
    about = PAPER | dict(name="vit_base_patch8_224.dino", num_masks=4, quirks=["grow"])
    file = described(tmp_path / "run.safetensors", state, **about)
    refused(load, file, says="backbone=.*pretrained=True")
    assert not asked
    for read in (partial(load, pretrained=True), load_any):
        refused(read, file, says="another frozen backbone")
    assert asked == [("vit_base_patch8_224.dino", True)] * 2
    refused(lambda: load_any(described(file, state, **PAPER)), says="vit_tiny")
    assert len(asked) == 2


def test_what_does_not_fit_and_notes_that_are_none(tmp_path):
    network = create_network("small", 4)
    network.decoder.head = nn.Conv2d(16, 16, 1)            # four values a mask, as until 0.1
    file = save(network, tmp_path / "old.safetensors")
    for other in (None, create_network("small", 4)):
        refused(load, file, network=other, says=r"head.weight \(16, 16, 1, 1\).*\(4, 16, 1, 1\)")
    refused(lambda: save(network, tmp_path / "x", J=torch.tensor(.5)), says="notes")
    assert list(tmp_path.iterdir()) == [file]


def test_networks_by_name(mirror, tmp_path):
    dino, file = tmp_path / "dino.pth", tmp_path / "cache/published/DAVIS.pth"
    for network in (create_network("gwm-davis"), load_any("DAVIS"),
                    create_network("gwm-davis", num_masks=4, pretrained=dino)):
        assert same_weights(network, mirror) and not network.training
    assert [p for p in mirror.built_with if p] == [True, True, dino]
    assert same_weights(take_weights(tiny_paper(4), "DAVIS"), mirror)
    assert [published_checkpoint(name) for name in ("davis", "DAVIS", "gwm-davis")] == [file] * 3
    assert file.read_bytes() == mirror.data and list(file.parent.iterdir()) == [file]
    assert Mirror.asked == [place("DAVIS")]
    for options, says in ((dict(num_masks=3), "4 masks, not 3"), (dict(freeze=False), "frozen"),
                          (dict(pretrained=False), "DINO")):
        refused(create_network, "gwm-davis", **options, says=says)
    Mirror.files |= {place(name): mirror.data for name in ("STv2", "FBMS")}
    for name in ("stv2", "fbms", "all"):
        create_network(f"gwm-{name}")
    assert published_checkpoint("davis+fbms+stv2") == published_checkpoint("ALL")
    assert Mirror.asked[1:] == [place(name) for name in ("STv2", "FBMS", "DAVIS%2BFBMS%2BSTv2")]


def test_a_path_comes_before_a_name(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(create_network("small"), tmp_path / "x.safetensors").rename(tmp_path / "all")
    refused(load_any, "all", says="all: not a readable")
    for call in (load_any, partial(take_weights, tiny_paper(4))):
        refused(call, "DAVIS17", says="DAVIS17", error=FileNotFoundError)
    refused(published_checkpoint, "KITTI", says="'KITTI'.*DAVIS, STv2, FBMS, DAVIS")
    assert not Mirror.asked


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 99\n"


@pytest.mark.parametrize("case, says", [
    ("wrong hash", "its git id is"), ("cut", "bytes came"), ("404", "404"),
    ("no server", "could not be fetched"), ("pointer", "pointer of git-lfs")])
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(mirror, tmp_path, monkeypatch, case,
                                                           says):
    "The line says what to get from where, and where to put it."
    whole, file = mirror.data, tmp_path / "cache/published/DAVIS.pth"
    changed = {"wrong hash": whole[:-1] + b"!", "cut": (whole[:-5000], len(whole)),
               "pointer": POINTER}
    Mirror.files = {} if case == "404" else {place("DAVIS"): changed.get(case, whole)}
    if case == "no server":
        monkeypatch.setenv("GWM_RELEASE", "http://127.0.0.1:9")
    with monkeypatch.context() as m, pytest.raises((ValueError, OSError), match=says) as e:
        if case == "pointer":                               # even if it is what was committed
            m.setitem(checkpoints.published_blobs, "DAVIS", blob(POINTER))
        published_checkpoint("DAVIS")
    address = os.environ["GWM_RELEASE"] + place("DAVIS")
    assert address in str(e.value) and str(e.value).endswith(str(file)) and "\n" not in str(e.value)
    assert not list(file.parent.iterdir())
    file.write_bytes(b"mine")
    refused(published_checkpoint, "DAVIS", says="DAVIS: .*not the published file")
    assert file.read_bytes() == b"mine"
    file.write_bytes(whole)                                  # as the line says
    assert published_checkpoint("DAVIS") == file and len(Mirror.asked) <= 1
