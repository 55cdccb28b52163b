"Benchmarks, not part of the tests: `pytest tests/bench`. Compare lines of one run; ratios last longer than seconds."
import pytest
import torch

from gwm_nb.flow import DIS, DIS_PRESETS, estimate_flow
from gwm_nb.scenes import MovingScenes
from gwm_nb.motion import fit_motion, monomials, motion_grid, reconstruct
from gwm_nb.network import create_network
from gwm_nb.loss import ReconstructionLoss


def loop_and_qr(masks, flow):
    "The fit as the published code does it: a loop over images and masks, each with a QR of an N x 6 matrix."
    Phi = monomials(motion_grid(flow.shape[-2:]), [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1)])
    out = torch.zeros_like(flow)
    for b in range(len(masks)):
        for m in masks[b]:
            Q, R = torch.linalg.qr(m.reshape(-1, 1) * Phi)
            theta = torch.linalg.solve_triangular(R, Q.T @ (m.reshape(-1, 1) * flow[b].flatten(1).T), upper=True)
            out[b] = out[b] + m * (Phi @ theta).T.view_as(flow[b])
    return out


@pytest.mark.parametrize("size", [(96, 160), (480, 854)], ids=["96x160", "480x854"])
@pytest.mark.parametrize("fit", [loop_and_qr, lambda m, f: reconstruct(m, fit_motion(m, f))], ids=["loop and QR", "fit_motion"])
def test_fit_forward_and_backward(benchmark, fit, size):
    torch.manual_seed(0)
    logits, flow = torch.randn(4, 4, *size, requires_grad=True), torch.randn(4, 2, *size)
    benchmark.group = f"fit {size[0]}x{size[1]}, 4 images, 4 masks"
    benchmark(lambda: (fit(logits.softmax(1), flow) - flow).square().mean().backward())


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


def test_scene(benchmark):
    benchmark(lambda: MovingScenes(1, seed=0)[0])
