"Families of motion: which ties are refused, and that every good family is found again."
import pytest
import torch

from gwm_nb.basis import Basis, _binomials
from gwm_nb.motion import bases, fit_motion, monomials, motion_fields, motion_grid


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


SHIFT = ((0, 0, 1),), ((0, 1, 1),)
GROW, TURN = ((1, 0, 1), (2, 1, 1)), ((1, 1, 1), (2, 0, -1))
NOT_CLOSED = {
    "turn alone": (1, (TURN,)),
    "growth alone": (1, (GROW,)),
    "u shifts, both grow": (1, (SHIFT[0], GROW)),
    "1 and x^2": (2, (((0, 0, 1),), ((3, 0, 1),))),
    "planar without x and y": (2, SHIFT + bases["planar"].ties[-2:]),
    "1 and 1 + x, in u and v": (1, (((0, 0, 1),), ((0, 1, 1), (1, 1, 1)))),
    "steps only": (2, (((0, 0, 1),), ((1, 0, 1),), ((3, 0, 1), (2, 0, 1)))), # not in another unit
}
DEPENDENT = {
    "shift twice": (1, (*SHIFT, ((0, 0, 1),))),
    "with another factor": (1, (*SHIFT, GROW, ((1, 0, -.3), (2, 1, -.3)))),
    "a sum of others": (0, (*SHIFT, ((0, 0, 2), (0, 1, 1)))),
    "nothing": (0, (*SHIFT, ((0, 0, 0),))),
    "no place": (0, (*SHIFT, ())),
}
GOOD = {
    "zoom": Basis(1, (*SHIFT, GROW)),
    "a zoom of other factors": Basis(1, (*SHIFT, ((1, 0, .7), (2, 1, -2.5)))),
    "u alone": Basis(2, tuple(((p, 0, 1),) for p in range(6))),
    "small factors": Basis(1, (*SHIFT, ((1, 0, 1e-5), (2, 1, 1e-5)), TURN)),
    "cubic": Basis(3),
    "cubic, tied": Basis(3, tuple(((p, c, 1),) for p in range(10) for c in range(2))),
}


def remains_itself(powers, C, times=20):
    "Whether a family is the same in many coordinates, by another way: least squares over pixels."
    grid = motion_grid((12, 15), dtype=torch.double)
    def fields(grid): return (monomials(grid, powers) @ C).flatten(1).T
    left = []
    for _ in range(times):
        own = (grid - torch.randn(2, 1).double()) / (.2 + 2 * torch.rand(1).double())
        A, b = fields(grid), fields(own)
        solution = torch.linalg.lstsq(A, b, driver="gelsd").solution
        left.append(((A @ solution - b).norm(dim=0) / b.norm(dim=0)).max())
    return max(left) < 1e-6


def refused(degree, ties):
    with pytest.raises(ValueError) as error: Basis(degree, ties)
    return str(error.value)


@pytest.mark.parametrize("case", list(NOT_CLOSED))
def test_a_family_that_is_not_closed_is_refused(monkeypatch, case):
    "The error names a parameter and the places that are missing."
    line = refused(*NOT_CLOSED[case])
    assert "not closed" in line and "ties[" in line and line.endswith(")")
    monkeypatch.setattr(Basis, "_check_ties", lambda self: None)
    basis = Basis(*NOT_CLOSED[case])
    assert not remains_itself(basis.powers, basis.tie_matrix())


def test_the_error_names_what_is_missing():
    line = refused(1, (TURN,))
    assert "along x turns ties[0]" in line and line.endswith("(0, 0), (0, 1)")
    assert "another unit turns ties[2]" in refused(*NOT_CLOSED["steps only"])


@pytest.mark.parametrize("place", [(-1, 0), (3, 0), (0, 2), (0, -1)])
def test_a_place_that_does_not_exist_is_refused(place):
    line = refused(1, (((0, 0, 1),), ((*place, 1),)))
    assert f"ties[1] names {place}" in line and "3 monomials" in line


@pytest.mark.parametrize("case", list(DEPENDENT))
def test_dependent_parameters_are_refused(case):
    degree, ties = DEPENDENT[case]
    assert refused(degree, ties).startswith(f"ties[{len(ties) - 1}] ")


@pytest.mark.parametrize("case", [*bases, *GOOD])
def test_a_good_family_is_found_again(monkeypatch, case):
    basis = bases.get(case) or GOOD[case]
    monkeypatch.setitem(bases, "mine", basis)
    C = basis.tie_matrix()
    assert remains_itself(basis.powers, C)
    theta = torch.einsum("q,qpc->pc", torch.randn(len(C), dtype=torch.double), C)[None, None]
    corner = torch.zeros(1, 1, 24, 40, dtype=torch.double)
    corner[..., :10, 20:] = 1
    found = fit_motion(corner, motion_fields(theta, (24, 40), "mine")[:, 0], "mine", ridge=1e-13)
    torch.testing.assert_close(found, theta, rtol=1e-6, atol=1e-6)


def test_ties_may_be_lists():
    lists = Basis(1, [[(0, 0, 1)], [[0, 1, 1]], [(1, 0, 1), (2, 1, 1)]])
    assert torch.equal(lists.tie_matrix(), GOOD["zoom"].tie_matrix())


@pytest.mark.parametrize("place", [torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)])
def test_ties_are_checked_anywhere(place):
    _binomials.cache_clear()
    with place:
        Basis(1, GOOD["zoom"].ties)
        assert "not closed" in refused(1, (TURN,))
