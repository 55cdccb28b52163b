"Several objects: made-up graphs whose answer is known, a scene whose objects meet."
import numpy as np
import pytest
import scipy.sparse as sparse
import torch

from gwm_nb.objects import halve, match_objects, split_objects
from gwm_nb.refine import RefineSettings, clip_refiner
from gwm_nb.scenes import MovingScenes


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


def names(ids, letters):
    "Which letters have which number."
    return {k: set(letters[ids == k]) for k in range(1, ids.max() + 1)}


# two touch in two frames in the middle; 'b' is lost for two; one object
TOUCH = ["aaaa...bb."] * 3 + ["aaaabbbbb."] * 2 + ["aaaa...bb."] * 3
LOST = ["aaaa...bbb"] * 2 + ["aaaa......"] * 2 + ["aaaa...bbb"] * 2
ONE = [".aaaaaaaa."] * 2 + [".aaaa..aa."] * 2 + [".aaaaaaaa."] * 4


def test_objects_that_touch_are_told_apart():
    film, letters = strip(TOUCH)
    ids = split_objects(**film)
    assert names(ids, letters) == {1: {"a"}, 2: {"b"}} and ids.dtype == np.uint8
    assert ((ids > 0) == (film["p"] > .5)).all()


def test_an_object_that_was_hidden_is_who_it_was():
    film, letters = strip(LOST)
    assert names(split_objects(**film), letters) == {1: {"a"}, 2: {"b"}}
    film, letters = strip(LOST[:3] + [r.replace("b", "c") for r in LOST[3:]])     # another comes
    assert names(split_objects(**film), letters) == {1: {"a"}, 2: {"b"}, 3: {"c"}}


def test_what_falls_apart_now_and_then_is_one():
    film, letters = strip(ONE)
    assert split_objects(**film).max() == 1


def test_a_crumb_of_its_own_belongs_to_the_nearest():
    film, letters = strip([f"aaaa....{'.....cc.....'[t]}......bbb" for t in range(12)])
    ids = split_objects(**film)
    assert ids.max() == 2 and set(ids[letters == "c"]) == {1}


def test_what_looks_out_on_both_sides_of_a_post_is_one():
    film, letters = strip(["bbb......"] * 5 + ["bb......b"] + ["......bbb"] * 5)
    assert split_objects(**film).max() == 1
    film, letters = strip(["bbb...bbb"] * 5)
    assert split_objects(**film).max() == 2


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_as_many_as_were_asked_for(n):
    film, letters = strip(TOUCH)
    ids = split_objects(**film, objects=n)
    assert set(ids) == set(range(n + 1))
    if n > 2:
        assert all(len(v) == 1 for v in names(ids, letters).values())        # cuts run in objects


def test_nothing_is_nothing():
    film, _ = strip(TOUCH)
    ids = split_objects(**film | dict(p=np.zeros(80)))
    assert ids.shape == (80,) and ids.max() == 0 and ids.dtype == np.uint8


@pytest.mark.parametrize("objects", [0, -1, 255, 1.5, "two", None])
def test_a_number_that_can_not_be_meant(objects):
    film, _ = strip(TOUCH)
    with pytest.raises(ValueError, match="'auto' or an integer from 1 to 254"):
        split_objects(**film, objects=objects)


def test_a_dumb_bell_is_cut_at_its_waist():
    block = np.ones((6, 6)) - np.eye(6)
    links = np.zeros((12, 12))
    links[:6, :6] = links[6:, 6:] = block
    links[5, 6] = links[6, 5] = 9.                                  # strong, but one
    links[:3, 3:6] *= .01                                           # a patch of another colour
    links[3:6, :3] *= .01
    ids = halve(sparse.csr_matrix(links), np.zeros(12, int), np.zeros(12, int), np.ones(12))
    assert len(set(ids[:6])) == len(set(ids[6:])) == 1 and ids[0] != ids[11]


# ---- windows

def picture(*numbers): return np.repeat(np.array(numbers, np.uint8), 10)[None, None]


def test_numbers_go_on():
    assert list(match_objects(picture(1, 2, 3), picture(2, 3, 1), 3, 3)) == [0, 3, 1, 2]
    assert list(match_objects(picture(0, 2, 0), picture(1, 2, 0), 5, 2)) == [0, 6, 2]
    assert list(match_objects(picture(0, 0, 0), picture(1, 2, 0), 2, 2)) == [0, 3, 4]
    found = list(match_objects(picture(1, 2, 0), picture(1, 1, 0), 2, 2))
    assert found in ([0, 1, 3], [0, 2, 3])         # the second's 2 is not in the shared frames
    assert list(match_objects(picture(1, 2), picture(0, 0), 2, 0)) == [0]


def test_a_limit_gives_free_numbers_again():
    assert list(match_objects(picture(0, 2, 0), picture(1, 2, 0), 2, 2, limit=2)) == [0, 1, 2]
    assert list(match_objects(picture(1, 0, 0), picture(1, 0, 2), 3, 2, limit=3)) == [0, 1, 2]
    number = match_objects(picture(0, 0), picture(1, 2), 254, 2)
    assert list(number) == [0, 1, 2] and number.dtype == np.uint8


# ---- a scene, from pixels to numbers

@pytest.fixture(scope="module")
def meeting():
    "Two objects of a scene that meet and part again: exact labels, and a graph."
    scene = MovingScenes(40, seed=7, objects=2, camera=.5).scene(1)
    labels = torch.stack([scene.labels(t) for t in range(10)]).numpy()
    settings = RefineSettings(features="", superpixels=600, gaps=(1, -1))
    frames = [(scene.frame(t) * 255).round().byte() for t in range(10)]
    return labels, clip_refiner(frames, settings).build()


def split(nodes, p):
    place = nodes.place / nodes.size[0]
    return split_objects(nodes.links, p, nodes.frame, nodes.area, place, nodes.colour)


def test_two_that_meet_keep_their_numbers(meeting):
    labels, nodes = meeting
    votes = [np.bincount(nodes.label.ravel(), (labels == k).ravel(), len(nodes)) for k in range(3)]
    ids = split(nodes, np.argmax(votes, 0) > 0)[nodes.label]
    assert ids.max() == 2
    for k in (1, 2):
        mine = labels == k
        number = np.bincount(ids[mine]).argmax()
        assert ((ids == number) & mine).sum() / ((ids == number) | mine).sum() > .9
        assert all(np.bincount(i[m]).argmax() == number for i, m in zip(ids, mine))
