"Several objects: made-up graphs whose answer is known."
import numpy as np
import pytest
import scipy.sparse as sparse

from gwm_nb.objects import match_objects, split_objects
from inputs import refused


def strip(rows):
    """A video of one row of superpixels a frame, from strings like '.aa.b.': letters are objects,
    '.' is background. Neighbours in a row are linked, and equal letters of a column in time."""
    t, n = len(rows), len(rows[0])
    letters = np.array([list(r) for r in rows]).ravel()
    frame, column = np.repeat(np.arange(t), n), np.tile(np.arange(n), t)
    links = sparse.lil_matrix((t * n, t * n), dtype=np.float32)
    for i in range(t * n):
        if column[i] + 1 < n:
            links[i, i + 1] = links[i + 1, i] = 1 if letters[i] == letters[i + 1] else .05
        if i + n < t * n and letters[i] == letters[i + n]:
            links[i, i + n] = links[i + n, i] = 1
    lab = {"a": (50, 60, 0), "b": (50, -60, 0), "c": (50, 0, 60)}
    film = dict(graph=links.tocsr(), p=(letters != ".").astype(float), frame=frame,
                area=np.full(t * n, 100.),
                place=np.stack([np.full(t * n, .5), (column + .5) / n], 1),
                colour=np.array([lab.get(c, (50, 0, 0)) for c in letters], float))
    return film, letters


TOUCH = ["aaaa...bb."] * 3 + ["aaaabbbbb."] * 2 + ["aaaa...bb."] * 3
LOST = ["aaaa...bbb"] * 2 + ["aaaa......"] * 2 + ["aaaa...bbb"] * 2
ANOTHER = LOST[:3] + [row.replace("b", "c") for row in LOST[3:]]
FALLS_APART = [".aaaaaaaa."] * 2 + [".aaaa..aa."] * 2 + [".aaaaaaaa."] * 4
CRUMB = [f"aaaa....{'.....cc.....'[t]}......bbb" for t in range(12)]     # belongs to the nearest
BEHIND_A_POST = ["bbb......"] * 5 + ["bb......b"] + ["......bbb"] * 5


@pytest.mark.parametrize("rows, objects", [
    (TOUCH, ["a", "b"]), (LOST, ["a", "b"]), (ANOTHER, ["a", "b", "c"]), (FALLS_APART, ["a"]),
    (CRUMB, ["ac", "b"]), (BEHIND_A_POST, ["b"]), (["bbb...bbb"] * 5, ["b", "b"])],
    ids=["touch", "lost", "another", "falls apart", "crumb", "post", "two alike"])
def test_objects_are_told_apart_and_known_again(rows, objects):
    film, letters = strip(rows)
    ids = split_objects(**film)
    assert ids.dtype == np.uint8 and ((ids > 0) == (film["p"] > .5)).all()
    assert [{*letters[ids == k]} for k in range(1, ids.max() + 1)] == list(map(set, objects))


def test_as_many_as_were_asked_for():
    film, letters = strip(TOUCH)
    for n in (1, 2, 3, 4):
        ids = split_objects(**film, objects=n)
        assert set(ids) == set(range(n + 1))
        assert n < 3 or all(len({*letters[ids == k]}) == 1 for k in range(1, n + 1))
    assert split_objects(**film | dict(p=np.zeros(80))).max() == 0
    for wrong in (255, 1.5, "two"):
        refused(split_objects, **film, objects=wrong, says="'auto' or an integer from 1 to 254")


def row(*numbers): return np.repeat(np.array(numbers, np.uint8), 10)[None, None]


@pytest.mark.parametrize("before, now, given, count, limit, wanted", [
    ((1, 2, 3), (2, 3, 1), 3, 3, 254, [0, 3, 1, 2]), ((0, 2, 0), (1, 2, 0), 5, 2, 254, [0, 6, 2]),
    ((1, 2, 0), (1, 1, 0), 2, 2, 254, ([0, 1, 3], [0, 2, 3])),      # 2 is in no shared frame
    ((0, 2, 0), (1, 2, 0), 2, 2, 2, [0, 1, 2]), ((1, 0, 0), (1, 0, 2), 3, 2, 3, [0, 1, 2]),
    ((0, 0), (1, 2), 254, 2, 254, [0, 1, 2])])
def test_numbers_go_on_and_are_free_again_at_the_limit(before, now, given, count, limit, wanted):
    found = match_objects(row(*before), row(*now), given, count, limit=limit)
    assert list(found) == wanted or list(found) in wanted
