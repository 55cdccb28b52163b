"Benchmarks, not part of the tests: `pytest tests/bench`. Compare lines of one run; ratios last longer than seconds."
import pytest
import torch

from gwm_nb.flow import DIS, DIS_PRESETS, estimate_flow
from gwm_nb.scenes import MovingScenes
from gwm_nb.network import create_network
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.superpixels import fold_batch_norm


@pytest.mark.parametrize("preset", list(DIS_PRESETS))
def test_dis(benchmark, preset):
    scene = MovingScenes(1, size=(256, 448)).scene(0)
    benchmark.group = "DIS flow of a pair at 448x256"
    benchmark(estimate_flow, scene.frame(0), scene.frame(1), DIS(preset))


@pytest.mark.parametrize("name", ["small", "efficientnet_lite0", "resnet18"])
def test_training_step(benchmark, name):
    network, loss = create_network(name, pretrained=False), ReconstructionLoss(normalise=True)
    image, flow = torch.rand(8, 3, 96, 160).contiguous(memory_format=torch.channels_last), torch.randn(8, 2, 96, 160)
    network.to(memory_format=torch.channels_last)
    benchmark.group = "training step, 8 pictures of 96x160"
    benchmark(lambda: loss(network(image), flow).backward())


@pytest.mark.parametrize("form", ["as it is", "folded", "folded, float16", "folded, bfloat16"])
def test_features_of_a_picture(benchmark, form):
    network = create_network("efficientnet_lite0", pretrained=False).backbone.eval().requires_grad_(False)
    number = getattr(torch, form.split(", ")[1]) if ", " in form else torch.float32
    network = (network if form == "as it is" else fold_batch_norm(network)).to(number, memory_format=torch.channels_last)
    picture = torch.rand(1, 3, 720, 1281).to(number, memory_format=torch.channels_last)
    benchmark.group = "features of a picture of 1281x720, one thread"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode(): benchmark(network, picture)
    torch.set_num_threads(threads)


def test_scene(benchmark):
    benchmark(lambda: MovingScenes(1, seed=0)[0])
