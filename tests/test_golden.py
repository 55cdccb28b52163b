"Parity with numbers that the published implementation computed."
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gwm_nb.flow import flow_to_rgb, resize_flow
from gwm_nb.flow_files import read_flo, write_flo
from gwm_nb.motion import fit_motion, reconstruct
from gwm_nb.loss import ReconstructionLoss


@pytest.fixture(scope="module")
def flow_read(golden): return np.load(golden / "flow_read.npz")


def test_flo_is_read_and_written_to_the_byte(golden, flow_read, tmp_path):
    flow = read_flo(golden / "flow_60x107.flo")
    np.testing.assert_array_equal(flow.numpy(), flow_read["none"])
    np.testing.assert_array_equal(flow.permute(1, 2, 0).numpy(), flow_read["flo"])
    write_flo(tmp_path / "again.flo", flow)
    assert (tmp_path / "again.flo").read_bytes() == (golden / "flow_60x107.flo").read_bytes()


@pytest.mark.parametrize("size", ["32x56", "96x170", "60x107", "128x224", "31x53"])
def test_flow_is_resized_as_published(golden, flow_read, size):
    h, w = map(int, size.split("x"))
    resized = resize_flow(read_flo(golden / "flow_60x107.flo"), (h, w))
    np.testing.assert_allclose(resized.numpy(), flow_read[size], rtol=1e-5, atol=1e-5)


def test_colours_are_the_published_ones(flow_read):
    rgb = flow_to_rgb(torch.from_numpy(flow_read["32x56"]))
    published = (flow_read["rgb_32x56"] + 1) / 2      # unrounded; ours is rounded down twice
    np.testing.assert_allclose(rgb.numpy(), published, atol=2 / 255)


@pytest.mark.parametrize("seed", [0, 1])
def test_quadratic_reconstruction_and_gradient(golden, seed):
    z = np.load(golden / f"quad_32x56_seed{seed}.npz")
    logits, flow = torch.from_numpy(z["logits"]).requires_grad_(), torch.from_numpy(z["flow"])
    masks = logits.softmax(1)
    out = reconstruct(masks, fit_motion(masks, flow))
    loss = F.mse_loss(out, flow)
    loss.backward()
    np.testing.assert_allclose(out.detach().numpy(), z["rec64"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(loss.item(), z["loss64"], rtol=1e-5)
    assert np.abs(logits.grad.numpy() - z["grad64"]).max() < 1e-4 * np.abs(z["grad64"]).max()


@pytest.mark.parametrize("case", ["small", "none"])
def test_the_whole_loss_path(golden, case):
    "Flow clipped at 20 px, softmax, masks resized bilinearly to the flow, weight 0.03."
    z = np.load(golden / f"quad_flowres_{case}.npz")
    logits = torch.from_numpy(z["logits"]).requires_grad_()
    loss = ReconstructionLoss(weight=.03)(logits, torch.from_numpy(z["flow"]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), z["loss"], rtol=1e-4)
    assert np.abs(logits.grad.numpy() - z["grad"]).max() < 1e-4 * np.abs(z["grad"]).max()
