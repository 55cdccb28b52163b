"A classifier that learns from noisy labels, and the boxes of what it finds."
from dataclasses import replace

import numpy as np
import pytest

from gwm_nb.self_training import (ReplayBuffer, appearance_logits, boxes_cut_object, self_train,
                                  side_coverage, track_boxes, update_replay)


def test_labels_of_one_class_teach_nothing():
    "Uncertain labels count nothing."
    x, one = np.random.default_rng(0).normal(size=(40, 3)), np.ones(40)
    right = x[:, 0] > 0
    logits = lambda p: appearance_logits(x, p, one, 1., .05)
    assert all(logits(p) is None for p in (.9 * one, .1 * one, np.where(right, .9, .5)))
    assert ((logits(np.where(right, .9, .1)) > 0) == right).mean() > .9


def test_a_replay_buffer_does_not_grow(disk_graph):
    n = len(disk_graph)
    graph, replay = replace(disk_graph, stages=[np.zeros((n, 5), np.float16)]), None
    for _ in range(4):
        replay = update_replay(graph, np.zeros(n), replay, limit=100)
        assert len(replay.p) == 100 == len(replay.colour) == len(replay.stages[0])
        assert replay.weight.sum() == pytest.approx(1)
    first = ReplayBuffer(graph.colour, graph.stages, np.ones(n), graph.area)
    mixed = update_replay(graph, np.zeros(n), first, limit=100)
    assert (mixed.p == 1).sum() == 50 and mixed.weight[mixed.p == 1].sum() == pytest.approx(.5)


def test_the_replay_buffer_decides_what_is_the_object(disk_graph):
    "Two kinds of superpixels look different; labels are given in the buffer only."
    n, kind = len(disk_graph), (disk_graph.place[:, 1] > 40).astype(float)
    noise = .01 * np.random.default_rng(0).normal(size=(n, 3))
    stage = (np.stack([kind, 1 - kind, kind**2], 1) + noise).astype(np.float16)
    graph = replace(disk_graph, stages=[stage])
    replay = update_replay(graph, np.where(kind > 0, .99, .01))
    q, _ = self_train(graph, np.zeros(n), np.where(kind > 0, .49, .51), (1.,), .05, 1e3, replay)
    assert ((q > .5) == (kind > 0)).mean() > .95


def test_boxes_follow_and_bridge_frames_without_an_object():
    square = np.zeros((12, 60, 80), np.float32)
    for t in range(12):
        square[t, 20:32, 5 + 4 * t:17 + 4 * t] = .9
    boxes, whole = track_boxes(square), np.tile([0., 0, 60, 80], (12, 1))
    y, x, h, w = boxes.T
    assert np.allclose(w / h, 80 / 60) and (np.diff(x) >= 0).all() and h.max() <= 60 / 1.5
    assert min(x.min(), y.min()) >= 0 and (x + w).max() <= 80 + 1e-9 and (y + h).max() <= 60 + 1e-9
    for t in range(2, 10):
        assert y[t] <= 20 and y[t] + h[t] >= 32
        assert x[t] <= 5 + 4 * t and x[t] + w[t] >= 17 + 4 * t
    assert track_boxes(square, zoom=1.5)[:, 2].min() == pytest.approx(40)
    assert (track_boxes(square * .5) == whole).all() and (track_boxes(square * 0) == whole).all()
    square[5] = 0
    assert np.allclose(track_boxes(square), boxes, atol=3)


ALL = slice(None)


@pytest.mark.parametrize("frames, box, rows, columns, covered", [
    (20, (10, 10, 30, 40), ALL, slice(60, 80), 1),                  # it fills the box's right side
    (20, (10, 10, 30, 40), slice(20, 40), slice(60, 80), 1 / 3),    # it touches that alone
    (20, (10, 40, 30, 40), slice(20, 40), slice(60, 80), 0),        # which is the frame's
    (20, (10, 10, 30, 40), slice(0), slice(0), 0), (20, (0, 0, 60, 80), ALL, ALL, 0),
    (2, (10, 10, 30, 40), slice(50, 60), slice(20, 60), .5),        # in too few frames
    (3, (10, 10, 30, 40), slice(50, 60), slice(20, 60), .5)])
def test_a_box_that_cuts_the_object_is_noticed(disk_graph, frames, box, rows, columns, covered):
    "Also in three frames of twenty: where the object comes to rest, and only there."
    label, boxes = np.zeros((20, 60, 80), np.int32), np.tile(np.array(box, float), (20, 1))
    label[20 - frames:, rows, columns] = 1
    coverage = side_coverage(label > 0, boxes, (60, 80))
    assert np.allclose(coverage, np.where(np.arange(20) < 20 - frames, 0, covered))
    graph = replace(disk_graph, size=(60, 80), label=label, boxes=boxes)
    assert boxes_cut_object(graph, np.array([0., 1.])) == (covered > 0 and frames > 2)
