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
from inputs import Mirror, blob, place, tiny_paper


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
    with pytest.raises(ValueError) as e:
        save(nn.Linear(2, 2), tmp_path / "run.safetensors", training={"x": bad})
    assert where in str(e.value) and not list(tmp_path.iterdir())


def test_the_file_says_how_to_build_the_network(tmp_path):
    network = create_network("resnet18", num_masks=3, pretrained=False, freeze=True)
    save(network, tmp_path / "a", J=.5, data=["a", {"b": 1}])
    again = load(tmp_path / "a")
    assert same_weights(again, network) and again.config == network.config
    assert again.notes == {"J": .5, "data": ["a", {"b": 1}]} and not again.training
    trained = [[p.requires_grad for p in n.parameters()] for n in (again, network)]
    assert trained[0] == trained[1] and {True, False} == set(trained[0])


def test_a_network_of_ones_own(tmp_path):
    build = lambda K=2: nn.Sequential(nn.Conv2d(3, K, 1), nn.BatchNorm2d(2)).train()
    own, wrong = build(), build(4)
    save(own, tmp_path / "own", training={"step": 3}, J=.2)
    again = load(tmp_path / "own", network=build())
    assert same_weights(again, own) and again.notes == {"J": .2} and not again.training
    before = copy.deepcopy(wrong)
    for options, says in (({}, "network="), (dict(network=wrong), "does not fit")):
        with pytest.raises(ValueError, match=f"own.*{says}"):
            load(tmp_path / "own", **options)
    assert same_weights(wrong, before) and not hasattr(wrong, "notes")


def test_the_frozen_backbone_is_known_by_its_fingerprint(tmp_path):
    ours, other = tiny_paper(), tiny_paper()
    torch.nn.init.normal_(other.backbone.model.pos_embed)
    save(ours, tmp_path / "tiny")
    for given in (dict(backbone=other.backbone), dict(network=other), {}, dict(pretrained=True)):
        with pytest.raises(ValueError, match="backbone.*give it"):
            load(tmp_path / "tiny", **given)
    other.backbone = ours.backbone
    for given in (dict(backbone=ours.backbone), dict(network=other)):
        assert same_weights(load(tmp_path / "tiny", **given), ours)


def test_files_that_are_not_ours(tmp_path):
    whole = save(create_network("small"), tmp_path / "good").read_bytes()
    contents = {"other": safetensors.torch.save({"a": torch.zeros(2)}), "cut": whole[:-100],
                "later": whole.replace(b"create_network", b"dreams_network")}
    for name, content in contents.items():
        assert content != whole
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as e:
            load(tmp_path / name)
        assert "\n" not in str(e.value)
    with pytest.raises(FileNotFoundError, match="none"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match="good: "):
        load_training(tmp_path / "good")


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
    with pytest.raises(ValueError, match="evil.safetensors"):
        load(described(tmp_path / "evil.safetensors", state, **about))
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
    with pytest.raises(ValueError, match="backbone=.*pretrained=True"):
        load(file)
    assert not asked
    for read in (partial(load, pretrained=True), load_any):
        with pytest.raises(ValueError, match="another frozen backbone"):
            read(file)
    assert asked == [("vit_base_patch8_224.dino", True)] * 2
    with pytest.raises(ValueError, match="vit_tiny"):
        load_any(described(file, state, **PAPER))
    assert len(asked) == 2


def test_what_does_not_fit_and_notes_that_are_none(tmp_path):
    network = create_network("small", 4)
    network.decoder.head = nn.Conv2d(16, 16, 1)            # four values a mask, as until 0.1
    file = save(network, tmp_path / "old.safetensors")
    for other in (None, create_network("small", 4)):
        with pytest.raises(ValueError, match=r"head.weight \(16, 16, 1, 1\).*\(4, 16, 1, 1\)") as e:
            load(file, network=other)
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="notes"):
        save(network, tmp_path / "x", J=torch.tensor(.5))
    with pytest.raises(FileNotFoundError, match="nowhere.*make it first"):
        save(network, tmp_path / "nowhere" / "x")
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
        with pytest.raises(ValueError, match=says):
            create_network("gwm-davis", **options)
    Mirror.files |= {place(name): mirror.data for name in ("STv2", "FBMS")}
    for name in ("stv2", "fbms", "all"):
        create_network(f"gwm-{name}")
    assert published_checkpoint("davis+fbms+stv2") == published_checkpoint("ALL")
    assert Mirror.asked[1:] == [place(name) for name in ("STv2", "FBMS", "DAVIS%2BFBMS%2BSTv2")]


def test_a_path_comes_before_a_name(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(create_network("small"), tmp_path / "x.safetensors").rename(tmp_path / "all")
    with pytest.raises(ValueError, match="all: not a readable"):
        load_any("all")
    for call in (load_any, partial(take_weights, tiny_paper(4))):
        with pytest.raises(FileNotFoundError, match="DAVIS17"):
            call("DAVIS17")
    with pytest.raises(ValueError, match="'KITTI'.*DAVIS, STv2, FBMS, DAVIS"):
        published_checkpoint("KITTI")
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
    with pytest.raises(ValueError, match="DAVIS: .*not the published file"):
        published_checkpoint("DAVIS")
    assert file.read_bytes() == b"mine"
    file.write_bytes(whole)                                  # as the line says
    assert published_checkpoint("DAVIS") == file and len(Mirror.asked) <= 1
