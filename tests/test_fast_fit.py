"The fast fit: in blocks of any size, in every precision, and compiled, it is the formula."
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gwm_nb import basis, fast_fit
from gwm_nb.basis import Basis
from gwm_nb.fast_fit import fit_error, fit_motion_fast
from gwm_nb.motion import bases, fit_motion, motion_fields, motion_grid, reconstruct

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from fit import loop_and_qr  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def batch(B=3, K=4, h=24, w=40, dtype=torch.float32):
    logits = torch.randn(B, K, h, w, dtype=dtype, requires_grad=True)
    return logits, 3 * torch.randn(B, 2, h, w, dtype=dtype)


def value_and_gradients(error, logits, flow):
    "Of logits and flow."
    flow = flow.detach().requires_grad_()
    value = error(logits.softmax(1), flow)
    return value.detach(), *torch.autograd.grad(value.sum(), (logits, flow))


def by_the_formula(masks, flow):
    return (loop_and_qr(masks, flow) - flow).square().mean((1, 2, 3))


BLOCKS = {"a row": 1, "5 rows": 40 * 4 * 5, "an image": 40 * 4 * 24, "2 images": 40 * 4 * 24 * 2,
          "all": 2**22}


@pytest.mark.parametrize("size", BLOCKS.values(), ids=BLOCKS)
def test_blocks(monkeypatch, size):
    "1 to 24 rows, 1 to 3 images a block, the last one smaller: the formula's value and gradient."
    logits, flow = batch()
    expected = value_and_gradients(by_the_formula, logits.double(), flow.double())
    monkeypatch.setattr(fast_fit, "_cache_block", size)
    found = value_and_gradients(fit_error, logits, flow)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-7)
    masks = logits.softmax(1)
    theta = fit_motion_fast(masks, flow)
    torch.testing.assert_close(theta, fit_motion(masks, flow), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(bases))
def test_fast_fit_is_the_plain_fit(name):
    "Motions and both gradients, to what float64 can tell apart; masks of a few pixels among them."
    masks, flow = degenerate_masks(24, 40).double(), 3 * torch.randn(8, 2, 24, 40).double()
    found = []
    for fit in (fit_motion_fast, fit_motion):
        m, f = masks.clone().requires_grad_(), flow.clone().requires_grad_()
        theta = fit(m, f, name, ridge=1e-3)
        found.append((theta, *torch.autograd.grad((theta * torch.arange(2.)).sum(), (m, f))))
    for a, b in zip(*found):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(bases))
def test_same_number_as_fit_and_reconstruct(name):
    logits, flow = batch(dtype=torch.float64)
    for criterion, power in (("l2", torch.square), ("l1", torch.abs)):
        plain = lambda m, f: power(reconstruct(m, fit_motion(m, f, name), name) - f).mean((1, 2, 3))
        error = lambda m, f: fit_error(m, f, name, criterion)
        both = (value_and_gradients(form, logits, flow) for form in (error, plain))
        for a, b in zip(*both):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("radius", [.3, .01])
def test_small_masks_in_float32(radius):
    "Down to a disc of four pixels in a frame of 480p, values and gradients are those of float64."
    x, y = motion_grid((480, 854)).view(2, 480, 854)
    disc = torch.sigmoid((radius - ((x - .5)**2 + (y - .2)**2).sqrt()) * 200)
    masks = torch.stack([disc, 1 - disc])[None]
    coarse = torch.randn(1, 2, 30, 50)
    flow = 3 * torch.nn.functional.interpolate(coarse, (480, 854), mode="bicubic")
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
    "Masks and flow of half precision are rounded inputs; no sum is taken in it."
    logits, flow = batch(2, 3, 60, 80)
    masks, flow = logits.softmax(1).detach().to(dtype).requires_grad_(), flow.to(dtype)
    value = fit_error(masks, flow)
    exact = masks.detach().double().requires_grad_()
    true = fit_error(exact, flow.double())
    step = torch.finfo(dtype).eps
    assert value.dtype == dtype and ((value - true) / true).abs().max() < 2 * step
    a, b = (torch.autograd.grad(v.sum(), m)[0].double() for v, m in ((value, masks), (true, exact)))
    assert (a - b).norm() < 2 * step * b.norm()


def test_mixed_precision_is_not_for_sums():
    "Within autocast, which takes products in bfloat16, the fit is the same to the last bit."
    logits, flow = batch()
    plain = value_and_gradients(fit_error, logits, flow)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_gradients(fit_error, logits, flow)
        thetas = [fit(logits.softmax(1), flow) for fit in (fit_motion, fit_motion_fast)]
    for a, b in zip(found, plain): assert torch.equal(a, b)
    for theta, fit in zip(thetas, (fit_motion, fit_motion_fast)):
        assert torch.equal(theta, fit(logits.softmax(1), flow))


def test_tables_made_in_inference_mode_serve_training():
    "The kept tables of whole numbers may first be asked for where nothing is trained."
    fast_fit._positions.cache_clear()
    basis._binomials.cache_clear()
    logits, flow = batch()
    with torch.inference_mode(): motion_fields(fit_motion_fast(logits.softmax(1), flow), (24, 40))
    theta = fit_motion_fast(logits.softmax(1), flow)
    motion_fields(theta, (24, 40)).square().mean().backward()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("fit", [fit_motion_fast, fit_error])
def test_wrong_arguments(fit):
    masks, flow = torch.rand(1, 2, 24, 32), torch.rand(1, 2, 24, 32)
    with pytest.raises(ValueError, match="'l2' or 'l1', not 'l3'"):
        fit_error(masks, flow, criterion="l3")
    for m, f in ((masks[0], flow), (masks, flow[0]), (masks[..., 1:], flow), (masks, flow[:, :1])):
        with pytest.raises(ValueError, match=r"masks must be \(B,K,h,w\)"): fit(m, f)


# ---- the compiled loops

@pytest.fixture
def fused(monkeypatch):
    "However small, masks go through the compiled loops; the names of those that ran, in order."
    pytest.importorskip("numba", reason="the extra fast (numba) is not installed")
    ran, compiled = [], fast_fit.compiled
    monkeypatch.setattr(fast_fit, "_compile_from", 1)
    noted = lambda rows: lambda *args: (ran.append(rows.__name__), compiled(rows)(*args))
    monkeypatch.setattr(fast_fit, "compiled", noted)
    return ran


THERE, BACK = ["low_moment_rows", "moment_rows", "blend_rows"], ["gradient_rows"]


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
    "Every basis and criterion, odd widths, one row, one mask: as the other form, and as float64."
    logits, flow = batch(*size)
    found = value_and_gradients(lambda m, f: fit_error(m, f, name, criterion), logits, flow)
    assert fused == THERE + BACK
    turned = lambda t: t.mT.contiguous().mT                       # any strides will do
    form = lambda m, f: fit_error(turned(m), turned(f), name, criterion)
    assert_near(value_and_gradients(form, logits, flow), found)
    form = lambda m, f: eager(m, f, name, criterion)
    tolerance = 1e-4 if size[2] > 1 else 1e-3         # across a single row the ridge decides
    assert_near(found, value_and_gradients(form, logits, flow), tolerance)
    assert_near(found, value_and_gradients(form, logits.double(), flow.double()), tolerance)


def degenerate_masks(h=120, w=214):
    masks = torch.zeros(8, 2, h, w)
    masks[1, 0, 3, 4] = 1                             # 0 stays empty
    masks[2, 0, 5, :12] = 1
    masks[3, 0, range(15), range(15)] = 1
    masks[4, 0, 7:9, 1:4] = 1
    masks[5, 0] = 1
    masks[6, 0, h - 6:h - 4, w - 9:w - 4] = .7        # ten pixels, far from the middle
    masks[7, 0] = .25
    masks[:, 1] = 1 - masks[:, 0]
    return masks


def test_compiled_loops_and_degenerate_masks(fused):
    "No less accurate than the other form, and right to 2e-5 wherever a gradient is determined."
    masks, flow = degenerate_masks(), 3 * torch.randn(8, 2, 120, 214)
    def found(form, dtype):
        m = masks.to(dtype).requires_grad_()
        value = form(m, flow.to(dtype))
        return value.detach().double(), torch.autograd.grad(value.sum(), m)[0].double()
    (a, da), (b, db) = (found(form, torch.float32) for form in (fit_error, eager))
    c, dc = found(eager, torch.float64)
    assert fused == THERE + BACK and da.isfinite().all()
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
    found = []
    for form in (fit_error, eager):
        masks = inputs["masks"].clone().requires_grad_()
        error = form(masks, inputs["flow"], criterion=criterion)
        found.append((error.detach(), torch.autograd.grad(error.sum(), masks)[0]))
    assert fused == THERE + BACK
    (a, da), (b, db) = found
    assert a.isfinite().tolist() == b.isfinite().tolist() == [True, False, True]
    assert torch.equal(da.isfinite(), db.isfinite()) and not da[1].isfinite().all()
    assert_near((a[::2], da[::2]), (b[::2], db[::2]))


def test_without_numba_all_is_as_it_was(monkeypatch):
    "The other form, silently, to the last bit."
    monkeypatch.setattr(fast_fit, "_compile_from", 1)
    monkeypatch.setitem(sys.modules, "numba", None)
    fast_fit.compiled.cache_clear()
    logits, flow = batch()
    try:
        both = (value_and_gradients(form, logits, flow) for form in (fit_error, eager))
        for a, b in zip(*both): assert torch.equal(a, b)
        assert fast_fit.compiled(fast_fit.low_moment_rows) is None
    finally: fast_fit.compiled.cache_clear()


def test_what_the_loops_are_for(fused, monkeypatch):
    "float32 on a CPU, at most quadratic, enough values in rows that are long enough."
    def chosen(size=(1, 2, 24, 40), masks=torch.float32, flow=torch.float32, basis=bases["planar"],
               device="cpu"):
        B, K, h, w = size
        tensors = (torch.empty(size, dtype=masks, device=device),
                   torch.empty(B, 2, h, w, dtype=flow, device=device))
        return fast_fit.loops_pay(*tensors, basis)
    assert chosen() and not chosen(size=(1, 2, 40, 15)) and not chosen(device="meta")
    assert not chosen(masks=torch.float64) and not chosen(flow=torch.bfloat16)
    assert not chosen(basis=Basis(3))
    monkeypatch.undo()
    assert not chosen() and chosen(size=(8, 4, 128, 224))


def test_numba_waits_until_it_is_wanted():
    "Neither the import nor a small fit loads it; a large one does."
    pytest.importorskip("numba", reason="the extra fast (numba) is not installed")
    code = """if True:
        import sys, torch
        from gwm_nb.fast_fit import fit_error
        fit_error(torch.rand(1, 2, 24, 40), torch.rand(1, 2, 24, 40))
        assert 'numba' not in sys.modules
        fit_error(torch.rand(8, 4, 128, 224), torch.rand(8, 2, 128, 224))
        assert 'numba' in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)
