"The fit in pieces: wherever it is cut, in every precision, and for small masks it says what the formula says."
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck

from gwm_nb import motion
from gwm_nb.motion import bases, fit_error, fit_motion, motion_fields, motion_grid, reconstruct

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from fit import loop_and_qr  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def batch(B=3, K=4, h=24, w=40, dtype=torch.float32):
    return torch.randn(B, K, h, w, dtype=dtype, requires_grad=True), 3 * torch.randn(B, 2, h, w, dtype=dtype)


def value_and_gradient(error, logits, flow):
    value = error(logits.softmax(1), flow)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


def by_the_formula(masks, flow):
    return (loop_and_qr(masks, flow) - flow).square().mean((1, 2, 3))


@pytest.mark.parametrize("near", [1, 40 * 4 * 5, 40 * 4 * 24, 40 * 4 * 24 * 2, 2**22], ids=["a row", "5 rows", "an image", "2 images", "all"])
def test_pieces(monkeypatch, near):
    "1 to 24 rows, 1 to 3 images a piece, the last one smaller: always the formula's value and gradient."
    logits, flow = batch()
    expected = value_and_gradient(by_the_formula, logits.double(), flow.double())
    monkeypatch.setattr(motion, "_near", near)
    found = value_and_gradient(fit_error, logits, flow)
    for a, b in zip(found, expected): torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-7)
    theta = fit_motion(logits.softmax(1), flow)
    monkeypatch.setattr(motion, "_near", 2**22)
    torch.testing.assert_close(theta, fit_motion(logits.softmax(1), flow), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("K", [1, 2, 7])
@pytest.mark.parametrize("size", [(1, 9), (9, 1), (17, 5), (30, 64)])
def test_shapes(K, size):
    "Any number of masks, any proportions; where a line determines nothing across itself, numbers stay finite."
    logits, flow = batch(2, K, *size)
    value, gradient = value_and_gradient(fit_error, logits, flow)
    plain = (reconstruct(logits.softmax(1), fit_motion(logits.softmax(1), flow)) - flow).square().mean((1, 2, 3))
    torch.testing.assert_close(value, plain, rtol=1e-4, atol=1e-5)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", list(bases))
def test_same_number_as_fit_and_reconstruct(name):
    logits, flow = batch(dtype=torch.float64)
    for criterion, power in (("l2", torch.square), ("l1", torch.abs)):
        plain = lambda m, f: power(reconstruct(m, fit_motion(m, f, name), name) - f).mean((1, 2, 3))
        error = lambda m, f: fit_error(m, f, name, criterion)
        for a, b in zip(value_and_gradient(error, logits, flow), value_and_gradient(plain, logits, flow)):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_gradient_of_flow():
    logits, flow = batch(1, 3, 5, 7, torch.float64)
    flow.requires_grad_()
    assert gradcheck(lambda l, f: fit_error(l.softmax(1), f), (logits, flow), atol=1e-5)
    assert gradcheck(lambda l, f: fit_motion(l.softmax(1), f, "planar", ridge=0.), (logits, flow), atol=1e-5)


@pytest.mark.parametrize("radius", [.3, .1, .03, .01])
def test_small_masks_in_float32(radius):
    "Down to a disc of four pixels in a frame of 480p, values and gradients are those of float64."
    x, y = motion_grid((480, 854)).view(2, 480, 854)
    disc = torch.sigmoid((radius - ((x - .5)**2 + (y - .2)**2).sqrt()) * 200)
    masks = torch.stack([disc, 1 - disc])[None]
    flow = 3 * torch.nn.functional.interpolate(torch.randn(1, 2, 30, 50), (480, 854), mode="bicubic")
    found = []
    for dtype in (torch.float32, torch.float64):
        m = masks.to(dtype).requires_grad_()
        value = fit_error(m, flow.to(dtype))
        found.append((value.detach().double(), torch.autograd.grad(value.sum(), m)[0].double()))
    (a, da), (b, db) = found
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)
    assert (da - db).norm() < 1e-5 * db.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    "Masks and flow of half precision are rounded inputs, nothing worse: the sums are not taken in it."
    logits, flow = batch(2, 3, 60, 80)
    masks, flow = logits.softmax(1).detach().to(dtype).requires_grad_(), flow.to(dtype)
    value = fit_error(masks, flow)
    exact = masks.detach().double().requires_grad_()
    true = fit_error(exact, flow.double())
    step = torch.finfo(dtype).eps
    assert value.dtype == dtype and ((value - true) / true).abs().max() < 2 * step
    a, b = torch.autograd.grad(value.sum(), masks)[0].double(), torch.autograd.grad(true.sum(), exact)[0]
    assert (a - b).norm() < 2 * step * b.norm()


def test_mixed_precision_is_not_for_sums():
    "Within autocast, where a product of matrices would be taken in bfloat16, the fit is the same to the last bit."
    logits, flow = batch()
    plain = value_and_gradient(fit_error, logits, flow)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_gradient(fit_error, logits, flow)
        theta = fit_motion(logits.softmax(1), flow)
    for a, b in zip(found, plain): assert torch.equal(a, b)
    assert torch.equal(theta, fit_motion(logits.softmax(1), flow))


def test_tables_made_in_inference_mode_serve_training():
    "The kept tables of whole numbers may first be asked for where nothing is trained."
    motion._places.cache_clear()
    motion._binomials.cache_clear()
    logits, flow = batch()
    with torch.inference_mode(): motion_fields(fit_motion(logits.softmax(1), flow), (24, 40))
    theta = fit_motion(logits.softmax(1), flow)
    motion_fields(theta, (24, 40)).square().mean().backward()
    assert logits.grad.abs().sum() > 0


def test_wrong_criterion():
    logits, flow = batch()
    with pytest.raises(ValueError, match="criterion must be 'l2' or 'l1', not 'l3'"): fit_error(logits.softmax(1), flow, criterion="l3")
