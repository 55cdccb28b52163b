"The readable fit is the formula, and finite for every mask; families of motion, refused ones too."
import pytest
import torch

from gwm_nb.basis import Basis, _binomials
from gwm_nb.motion import bases, fit_motion, monomials, motion_fields, motion_grid, reconstruct
from inputs import degenerate_masks, refused

SIZE = 24, 40


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("value, rest", [(1, 0), (1e-3, 0), (1e-12, 0), (1e-18, 0), (1, 1e-3),
                                         (1, 1e-12), (1, 1e-30)])
@pytest.mark.parametrize("name", list(bases))
def test_every_mask_has_a_finite_motion_and_gradient(name, value, rest):
    "In float32, where a softmax is nearly zero, and over the tiny rest of a saturated one."
    masks, flow = (value * degenerate_masks(*SIZE)).clamp_min(rest), 4 * torch.randn(8, 2, *SIZE)
    theta = fit_motion(masks.requires_grad_(), flow, name)
    fitted = reconstruct(masks, theta, name)
    (fitted - flow).square().mean().backward()
    assert theta.isfinite().all() and theta.dtype == torch.float32 and masks.grad.isfinite().all()
    assert fitted.abs().max() < 1e3 and (rest or not theta[0, 0].any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_formula(dtype):
    "Least squares over pixels in the frame's coordinates, for soft masks of any precision."
    masks, flow = torch.rand(2, 3, *SIZE).to(dtype), 3 * torch.randn(2, 2, *SIZE).to(dtype)
    theta = fit_motion(masks, flow)
    Phi = monomials(motion_grid(SIZE, dtype=torch.double), bases["quadratic"].powers)
    m = masks.double().flatten(2)[..., None]
    F = flow.double().flatten(2).mT[:, None]
    expected = torch.linalg.lstsq(m * Phi, m * F).solution
    tolerance = max(1e-5, 4 * torch.finfo(dtype).eps)
    assert theta.dtype == dtype
    torch.testing.assert_close(theta.double(), expected, rtol=tolerance, atol=tolerance)


def test_the_longer_side_spans_two_and_a_single_pixel_is_the_origin():
    assert motion_grid((3, 5)).aminmax() == (-1, 1) and motion_grid((1, 1)).tolist() == [[0], [0]]
    assert motion_grid((3, 5))[1].aminmax() == (-.5, .5)


SHIFT = ((0, 0, 1),), ((0, 1, 1),)
GROW, TURN = ((1, 0, 1), (2, 1, 1)), ((1, 1, 1), (2, 0, -1))
NOT_CLOSED = {
    "turn alone": (1, (TURN,), "along x turns ties[0]"),
    "1 and 1 + x, in u and v": (1, (((0, 0, 1),), ((0, 1, 1), (1, 1, 1))), "ties[1]"),
    "steps only": (2, (((0, 0, 1),), ((1, 0, 1),), ((3, 0, 1), (2, 0, 1))),
                   "another unit turns ties[2]")}
REFUSED = {
    "with another factor": (1, (*SHIFT, GROW, ((1, 0, -.3), (2, 1, -.3))), "ties[3] "),
    "a sum of others": (0, (*SHIFT, ((0, 0, 2), (0, 1, 1))), "ties[2] "),
    "nothing": (0, (*SHIFT, ((0, 0, 0),)), "ties[2] "),
    "no such place": (1, (((0, 0, 1),), ((3, 0, 1),)), "ties[1] names (3, 0)")}
GOOD = {
    "a zoom of other factors": Basis(1, (*SHIFT, ((1, 0, .7), (2, 1, -2.5)))),
    "u alone": Basis(2, tuple(((p, 0, 1),) for p in range(6))),
    "small factors": Basis(1, (*SHIFT, ((1, 0, 1e-5), (2, 1, 1e-5)), TURN)),
    "cubic, tied": Basis(3, tuple(((p, c, 1),) for p in range(10) for c in range(2)))}


@pytest.mark.parametrize("case", [*NOT_CLOSED, *REFUSED])
def test_wrong_ties_are_refused(case):
    "Also where sums are taken in half precision. The error names the tie."
    degree, ties, says = (NOT_CLOSED | REFUSED)[case]
    _binomials.cache_clear()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError) as error:
        Basis(degree, ties)
    assert says in str(error.value) and ("not closed" in str(error.value)) == (case in NOT_CLOSED)


@pytest.mark.parametrize("case", [*bases, *GOOD])
def test_a_good_family_is_found_again(monkeypatch, case):
    basis = bases.get(case) or GOOD[case]
    monkeypatch.setitem(bases, "mine", basis)
    C = basis.tie_matrix()
    theta = torch.einsum("q,qpc->pc", torch.randn(len(C), dtype=torch.double), C)[None, None]
    corner = torch.zeros(1, 1, 24, 40, dtype=torch.double)
    corner[..., :10, 20:] = 1
    found = fit_motion(corner, motion_fields(theta, (24, 40), "mine")[:, 0], "mine", ridge=1e-13)
    torch.testing.assert_close(found, theta, rtol=1e-6, atol=1e-6)


def test_a_basis_stands_for_itself_where_its_name_can():
    masks, flow = torch.rand(1, 2, *SIZE).softmax(1), torch.randn(1, 2, *SIZE)
    assert fit_motion(masks, flow, bases["planar"]).equal(fit_motion(masks, flow, "planar"))
    assert fit_motion(masks, flow, Basis(3)).shape == (1, 2, 10, 2)
    refused(lambda: bases["cubic"], says="unknown motion basis 'cubic'")
