"The fast fit: in blocks of any size, in every precision, and compiled, it is the readable fit."
import sys

import pytest
import torch

from gwm_nb import basis, fast_fit
from gwm_nb.fast_fit import fit_error, fit_motion_fast
from gwm_nb.motion import bases, fit_motion, reconstruct
from inputs import degenerate_masks


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def batch(B=3, K=4, h=24, w=40, dtype=torch.float32):
    logits = torch.randn(B, K, h, w, dtype=dtype, requires_grad=True)
    return logits, 3 * torch.randn(B, 2, h, w, dtype=dtype)


def value_and_gradients(error, logits, flow):
    flow = flow.detach().requires_grad_()
    value = error(logits.softmax(1), flow)
    return value.detach(), *torch.autograd.grad(value.sum(), (logits, flow))


def of_masks(error, masks, flow, dtype):
    "A value and its gradient with respect to masks, computed in `dtype`."
    masks = masks.detach().to(dtype).requires_grad_()
    value = error(masks, flow.to(dtype))
    return value.detach().double(), torch.autograd.grad(value.sum(), masks)[0].double()


def plain(masks, flow, name="quadratic", power=torch.square):
    error = power(reconstruct(masks, fit_motion(masks, flow, name), name) - flow)
    return error.mean((1, 2, 3))


@pytest.mark.parametrize("size", [1, 40 * 4 * 5, 40 * 4 * 24, 40 * 4 * 24 * 2, 2**22])
def test_blocks(monkeypatch, size):
    "1 to 24 rows, 1 to 3 images a block, the last one smaller."
    logits, flow = batch()
    expected = value_and_gradients(plain, logits.double(), flow.double())
    monkeypatch.setattr(fast_fit, "_cache_block", size)
    found = value_and_gradients(fit_error, logits, flow)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-7)
    masks = logits.softmax(1)
    theta = fit_motion_fast(masks, flow)
    torch.testing.assert_close(theta, fit_motion(masks, flow), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    "Masks and flow of half precision are rounded inputs; no sum is taken in it."
    logits, flow = batch(2, 3, 60, 80)
    masks, flow, step = logits.softmax(1).to(dtype), flow.to(dtype), torch.finfo(dtype).eps
    assert fit_error(masks, flow).dtype == dtype
    (a, da), (b, db) = (of_masks(fit_error, masks, flow, d) for d in (dtype, torch.float64))
    assert ((a - b) / b).abs().max() < 2 * step and (da - db).norm() < 2 * step * db.norm()


def test_mixed_precision_and_inference_mode_change_nothing():
    "Within autocast; and after tables of whole numbers were first asked for without training."
    logits, flow = batch()
    forms = (fit_error, *(lambda m, f, fit=fit: fit(m, f).sum((1, 2, 3))
                          for fit in (fit_motion, fit_motion_fast)))
    for form in forms:
        expected = value_and_gradients(form, logits, flow)
        fast_fit._positions.cache_clear()
        basis._binomials.cache_clear()
        with torch.inference_mode(): form(logits.softmax(1), flow)
        with torch.autocast("cpu", torch.bfloat16):
            found = value_and_gradients(form, logits, flow)
        for a, b in zip(found, expected): assert torch.equal(a, b)


@pytest.fixture
def fused(monkeypatch):
    "However small, masks go through the compiled loops; the names of those that ran, in order."
    pytest.importorskip("numba", reason="the extra fast (numba) is not installed")
    ran, compiled = [], fast_fit.compiled
    monkeypatch.setattr(fast_fit, "_compile_from", 1)
    noted = lambda rows: lambda *args: (ran.append(rows.__name__), compiled(rows)(*args))
    monkeypatch.setattr(fast_fit, "compiled", noted)
    return ran


ROWS = ["low_moment_rows", "moment_rows", "blend_rows", "gradient_rows"]


def eager(masks, flow, basis="quadratic", criterion="l2"):
    return fast_fit._FitError.apply(masks, flow, bases[basis], 1e-7, criterion)


def assert_near(found, expected, rtol=1e-4):
    "Values one by one, gradients by their norm."
    torch.testing.assert_close(found[0].double(), expected[0].double(), rtol=rtol, atol=1e-7)
    for a, b in zip(found[1:], expected[1:]):
        assert (a.double() - b.double()).norm() <= rtol * b.double().norm() + 1e-12


@pytest.mark.parametrize("criterion", ["l2", "l1"])
@pytest.mark.parametrize("name, size", [
    *((name, (2, 4, 24, 40)) for name in bases),
    *(("quadratic", size) for size in
      ((1, 1, 17, 61), (3, 2, 1, 33), (1, 7, 70, 16), (2, 3, 45, 131)))])
def test_compiled_loops(fused, size, name, criterion):
    "Every basis and criterion, odd widths, one row, one mask, any strides: as in float64."
    logits, flow = batch(*size)
    expected = value_and_gradients(lambda m, f: eager(m, f, name, criterion), logits.double(),
                                   flow.double())
    for turned in (lambda t: t, lambda t: t.mT.contiguous().mT):
        form = lambda m, f: fit_error(turned(m), turned(f), name, criterion)
        tolerance = 1e-4 if size[2] > 1 else 1e-3         # across a single row the ridge decides
        assert_near(value_and_gradients(form, logits, flow), expected, tolerance)
    assert fused == ROWS * 2


def test_compiled_loops_and_degenerate_masks(fused):
    "No less accurate than the other form, and right to 2e-5 wherever a gradient is determined."
    masks, flow = degenerate_masks(), 3 * torch.randn(8, 2, 120, 214)
    a, da = of_masks(fit_error, masks, flow, torch.float32)
    assert fused == ROWS and da.isfinite().all()
    _, db = of_masks(eager, masks, flow, torch.float32)
    c, dc = of_masks(eager, masks, flow, torch.float64)
    distance = lambda g: (g - dc).flatten(1).norm(dim=1) / dc.flatten(1).norm(dim=1)
    torch.testing.assert_close(a, c, rtol=1e-6, atol=0)
    fused_off, eager_off, diagonal = distance(da), distance(db), 3
    assert max(fused_off[diagonal], eager_off[diagonal]) < .5 # a ridge as small as roundings
    fused_off[diagonal] = eager_off[diagonal] = 0
    assert fused_off.max() < 2e-5 and fused_off.max() <= eager_off.max(), (fused_off, eager_off)


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
@pytest.mark.parametrize("criterion", ["l2", "l1"])
@pytest.mark.parametrize("where", ["masks", "flow"])
def test_what_is_no_number_shows(fused, where, criterion, value):
    "In the image that has it, as in the other form; the others keep their numbers."
    logits, flow = batch()
    inputs = {"masks": logits.detach().softmax(1), "flow": flow}
    inputs[where][1, 0, 5, 6] = value
    (a, da), (b, db) = (of_masks(lambda m, f: form(m, f, criterion=criterion), *inputs.values(),
                                 torch.float32) for form in (fit_error, eager))
    assert fused == ROWS
    assert a.isfinite().tolist() == b.isfinite().tolist() == [True, False, True]
    assert torch.equal(da.isfinite(), db.isfinite()) and not da[1].isfinite().all()
    assert_near((a[::2], da[::2]), (b[::2], db[::2]))


def test_without_numba_the_other_form_serves(monkeypatch):
    monkeypatch.setattr(fast_fit, "_compile_from", 1)
    monkeypatch.setitem(sys.modules, "numba", None)
    fast_fit.compiled.cache_clear()
    logits, flow = batch()
    try:
        both = (value_and_gradients(form, logits, flow) for form in (fit_error, eager))
        assert all(torch.equal(a, b) for a, b in zip(*both))
        assert fast_fit.compiled(fast_fit.low_moment_rows) is None
    finally: fast_fit.compiled.cache_clear()
