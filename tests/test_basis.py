"Families of motion: which ties are refused, and that every good family is found again."
import pytest
import torch

from gwm_nb.basis import Basis, _binomials
from gwm_nb.motion import bases, fit_motion, motion_fields


SHIFT = ((0, 0, 1),), ((0, 1, 1),)
GROW, TURN = ((1, 0, 1), (2, 1, 1)), ((1, 1, 1), (2, 0, -1))
NOT_CLOSED = {
    "turn alone": (1, (TURN,), "along x turns ties[0]"),
    "growth alone": (1, (GROW,), "ties[0]"),
    "u shifts, both grow": (1, (SHIFT[0], GROW), "ties[1]"),
    "planar without x and y": (2, SHIFT + bases["planar"].ties[-2:], "ties["),
    "1 and 1 + x, in u and v": (1, (((0, 0, 1),), ((0, 1, 1), (1, 1, 1))), "ties[1]"),
    "steps only": (2, (((0, 0, 1),), ((1, 0, 1),), ((3, 0, 1), (2, 0, 1))),
                   "another unit turns ties[2]")}
REFUSED = {
    "shift twice": (1, (*SHIFT, ((0, 0, 1),)), "ties[2] "),
    "with another factor": (1, (*SHIFT, GROW, ((1, 0, -.3), (2, 1, -.3))), "ties[3] "),
    "a sum of others": (0, (*SHIFT, ((0, 0, 2), (0, 1, 1))), "ties[2] "),
    "nothing": (0, (*SHIFT, ((0, 0, 0),)), "ties[2] "), "no place": (0, (*SHIFT, ()), "ties[2] ")
} | {f"place {place}": (1, (((0, 0, 1),), ((*place, 1),)), f"ties[1] names {place}")
     for place in ((-1, 0), (3, 0), (0, 2), (0, -1))}
GOOD = {
    "zoom, of lists": Basis(1, [[(0, 0, 1)], [[0, 1, 1]], [(1, 0, 1), (2, 1, 1)]]),
    "a zoom of other factors": Basis(1, (*SHIFT, ((1, 0, .7), (2, 1, -2.5)))),
    "u alone": Basis(2, tuple(((p, 0, 1),) for p in range(6))),
    "small factors": Basis(1, (*SHIFT, ((1, 0, 1e-5), (2, 1, 1e-5)), TURN)),
    "cubic": Basis(3),
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
    torch.manual_seed(0)
    basis = bases.get(case) or GOOD[case]
    monkeypatch.setitem(bases, "mine", basis)
    C = basis.tie_matrix()
    theta = torch.einsum("q,qpc->pc", torch.randn(len(C), dtype=torch.double), C)[None, None]
    corner = torch.zeros(1, 1, 24, 40, dtype=torch.double)
    corner[..., :10, 20:] = 1
    found = fit_motion(corner, motion_fields(theta, (24, 40), "mine")[:, 0], "mine", ridge=1e-13)
    torch.testing.assert_close(found, theta, rtol=1e-6, atol=1e-6)
