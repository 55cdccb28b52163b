"The readable fit: the formula, finite for every mask, and wrong shapes are refused."
import pytest
import torch

from gwm_nb.basis import Basis
from gwm_nb.motion import (bases, fit_motion, monomials, motion_fields, motion_grid,
                           reconstruct)

SIZE = 24, 40
MASKS = {"empty": [], "a pixel": [(3, 4)], "a row": [(5, c) for c in range(12)],
         "a diagonal": [(i, i) for i in range(15)],
         "a block": [(i, j) for i in (7, 8) for j in (1, 2, 3)],
         "all": [(i, j) for i in range(24) for j in range(40)]}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def masks_of(places, dtype=torch.float32):
    "A mask with these pixels, and its complement, (1,2,h,w)."
    m = torch.zeros(1, 2, *SIZE, dtype=dtype)
    for i, j in places: m[0, 0, i, j] = 1
    m[0, 1] = 1 - m[0, 0]
    return m


@pytest.mark.parametrize("value", [1, 1e-3, 1e-12, 1e-18])
@pytest.mark.parametrize("name", list(bases))
@pytest.mark.parametrize("case", list(MASKS))
def test_every_mask_has_a_finite_motion_and_gradient(case, name, value):
    "In float32, also where a softmax is nearly zero."
    masks, flow = (value * masks_of(MASKS[case])).requires_grad_(), 4 * torch.randn(1, 2, *SIZE)
    theta = fit_motion(masks, flow, name)
    (reconstruct(masks, theta, name) - flow).square().mean().backward()
    assert theta.isfinite().all() and theta.dtype == torch.float32 and masks.grad.isfinite().all()
    if case == "empty": assert not theta[:, 0].any()


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


def test_motions_of_several_families_at_every_pixel():
    theta = torch.randn(2, 3, 3, 2, dtype=torch.double)
    x, y = motion_grid(SIZE, dtype=torch.double).view(2, *SIZE)
    a, b, c = theta[..., None, None].unbind(2)
    torch.testing.assert_close(motion_fields(theta, SIZE, "affine"), a + b * x + c * y)


def test_the_longer_side_spans_two_and_a_single_pixel_is_the_origin():
    assert motion_grid((3, 5)).aminmax() == (-1, 1) and motion_grid((1, 1)).tolist() == [[0], [0]]
    assert motion_grid((3, 5))[1].aminmax() == (-.5, .5)


@pytest.mark.parametrize("masks, flow", [((2, 24, 40), (1, 2, 24, 40)),
                                         ((1, 2, 24, 40), (2, 24, 40)),
                                         ((1, 2, 24, 39), (1, 2, 24, 40)),
                                         ((2, 2, 24, 40), (1, 2, 24, 40)),
                                         ((1, 2, 24, 40), (1, 3, 24, 40))])
def test_wrong_shapes_are_refused(masks, flow):
    with pytest.raises(ValueError) as error: fit_motion(torch.rand(masks), torch.rand(flow))
    assert str(masks) in str(error.value) and str(flow) in str(error.value)


def test_a_basis_stands_for_itself_where_its_name_can():
    masks, flow = torch.rand(1, 2, *SIZE).softmax(1), torch.randn(1, 2, *SIZE)
    assert fit_motion(masks, flow, bases["planar"]).equal(fit_motion(masks, flow, "planar"))
    assert fit_motion(masks, flow, Basis(3)).shape == (1, 2, 10, 2)
    with pytest.raises(ValueError, match="unknown motion basis 'cubic'"): bases["cubic"]
