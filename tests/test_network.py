"Networks by name, backbones of timm, and masks of many images."
import pytest
import torch
import torch.nn as nn

from gwm_nb.checkpoints import load, save
from gwm_nb.network import (SegmentationNetwork, SmallBackbone, create_network, networks,
                            predict_masks)
from gwm_nb.weights import TimmBackbone
from inputs import refused

SWIN = "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize("options, says", [
    (dict(name="effnet_lite0"), "'effnet_lite0'.*efficientnet_lite0"),
    (dict(name="resnet18.nonsense", pretrained=False), "unknown"),
    (dict(pretrained=True), "learns from nothing"), (dict(num_masks=0), "at least 1"),
    (dict(name="vgg11", pretrained=False), "full size"),
    (dict(name="maxvit_tiny_tf_224", pretrained=False), "any size"),
    (dict(name="resnet18", pretrained="none.pth"), "none.pth: no such file")])
def test_refusals(options, says):
    refused(create_network, **options, says=says)


@pytest.mark.parametrize("name", [
    "small", "resnet18", "convnext_atto", SWIN, "swinv2_tiny_window8_256", "mambaout_femto",
    "vit_tiny_patch16_224", "twins_svt_small"])
def test_maps_and_logits_of_any_size(name):
    network = create_network(name, 3, pretrained=False).eval()
    reach = max(network.backbone.strides[0] // 2, 1)
    for size in ((97, 161), (64, 96)):
        image = torch.rand(2, 3, *size)
        channels = [m.shape[1] for m in network.backbone(image)]
        assert channels == list(network.backbone.channels)
        assert network(image).shape == (2, 3, *(-(-n // reach) for n in size))
    if name == SWIN:            # a map with as many rows as channels: the model says which is which
        assert network(torch.rand(1, 3, 384, 256)).shape == (1, 3, 192, 128)


def test_registries(monkeypatch):
    monkeypatch.setitem(networks, "mine", lambda **options: options)
    assert create_network("mine", 3, pretrained=False) == dict(pretrained=False, num_masks=3)
    assert [TimmBackbone(n).mean[0] for n in ("resnet18", "vit_tiny_patch16_224")] == [.485, .5]


@pytest.mark.parametrize("name", ["small", "convnext_atto"])
def test_masks_can_not_dither(name):
    "Neighbours differ by at most half of what two values of the head do, whatever the weights."
    network, coarse = create_network(name, 3, pretrained=False).eval(), []
    nn.init.normal_(network.decoder.head.weight, std=10.)
    network.decoder.head.register_forward_hook(lambda m, a, logits: coarse.append(logits))
    with torch.no_grad():
        logits = network(torch.rand(2, 3, 64, 96))
    for axis in (-2, -1):
        step = coarse[0].diff(dim=axis).abs().max()
        assert logits.diff(dim=axis).abs().max() <= step / 2 * 1.001


def test_images_batches_and_streams_have_the_same_masks():
    torch.manual_seed(0)
    network, images = create_network("resnet18", 3, pretrained=False), torch.rand(5, 3, 64, 96)
    masks = predict_masks(network, images, batch_size=2)
    assert masks.shape == (5, 3, 64, 96) and not masks.requires_grad
    torch.testing.assert_close(masks.sum(1), torch.ones(5, 64, 96))
    for same in (predict_masks(network, iter(images)),
                 predict_masks(network, list(images), batch_size=1)):
        torch.testing.assert_close(same, masks, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predict_masks(network, images[3]), masks[3], atol=1e-5, rtol=1e-4)
    refused(predict_masks, network, [], says="no images")


def test_a_stream_is_read_a_few_at_a_time():
    network, read, sizes = SegmentationNetwork(SmallBackbone((8, 8)), 2), [], []
    network.register_forward_pre_hook(lambda m, a: sizes.append((len(a[0]), len(read))))
    stream = (read.append(1) or torch.rand(3, 16, 16) for _ in range(5))
    predict_masks(network, stream, batch_size=2)
    assert sizes == [(2, 2), (2, 4), (1, 5)]


def test_each_part_is_left_in_the_mode_it_was_found_in():
    "A frozen backbone is never in training."
    frozen = create_network("resnet18", pretrained=False, freeze=True).train()
    assert not any(p.requires_grad for p in frozen.backbone.parameters())
    assert frozen.decoder.training and not any(m.training for m in frozen.backbone.modules())
    network = create_network("resnet18", pretrained=False)
    network.decoder.eval()
    modes = lambda: [m.training for m in network.modules()]
    before, statistics = modes(), network.backbone.model.bn1.running_mean.clone()
    predict_masks(network, torch.rand(2, 3, 32, 32))
    with pytest.raises(RuntimeError):
        predict_masks(network, torch.rand(2, 5, 32, 32))
    assert modes() == before and any(before) and not all(before)
    assert network.backbone.model.bn1.running_mean.equal(statistics)


def test_the_finest_maps_can_be_left_out(tmp_path):
    network = create_network("resnet18", 3, pretrained=False, stride=4, freeze=True).eval()
    assert network.backbone.strides == (4, 8, 16, 32)
    image = torch.rand(1, 3, 64, 96)
    logits = network(image)
    assert logits.shape == (1, 3, 32, 48)
    again = load(save(network, tmp_path / "a.safetensors"))
    torch.testing.assert_close(again(image), logits)
    assert not again.training and len([p for p in again.parameters() if p.requires_grad]) == len(
        list(again.decoder.parameters()))
    for name, stride in (("resnet18", 64), ("small", 4)):
        refused(create_network, name, 3, pretrained=False, stride=stride, says=str(stride))
