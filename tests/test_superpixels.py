"Superpixels, their graph and their features, on clips whose answer is known."
import numpy as np
import pytest
import scipy.sparse as sparse
import torch

from gwm_nb.evaluate import background_weights, jaccard, residual_motion
from gwm_nb.refine import temporal_consistency
from gwm_nb.scenes import MovingScenes
from gwm_nb.superpixels import (border_prior, build_graph, crop_box, diffuse, mean_residual,
                                parallel_map, paste_box, pool_maps, superpixel_features)


# ---- motion

def test_the_border_weighs_more():
    weight = border_prior((48, 64))
    assert weight.shape == (48, 64) and weight.max() == 1
    assert weight.min() == weight[24, 32] == pytest.approx(.3)
    assert (weight[0] == 1).all() and (weight[:, -1] == 1).all()


def test_the_prior_decides_which_of_two_motions_is_the_background():
    "An object that covers half of the frame, but not its border."
    flow, border = torch.zeros(1, 2, 48, 64), torch.ones(48, 64, dtype=torch.bool)
    border[8:40, 8:56] = False
    flow[..., ~border] = 5.
    residual = lambda p: residual_motion(flow, background_weights(flow, prior=p, rounds=20))[0]
    found = residual(border_prior((48, 64)))
    assert found[border].mean() < .1 and found[~border].mean() > 7
    assert residual(None)[border].mean() > 1


def test_flows_of_a_batch_are_fitted_one_by_one():
    flows = torch.stack([s["flow"] for s in MovingScenes(3, seed=1, size=(48, 64))])
    alone = residual_motion(flows[1:2])[0]
    assert torch.allclose(residual_motion(flows)[1], alone, atol=1e-4)


def square_flow(*speeds):
    "Flows (n,2,40,60) of a square that moves to the right before a resting ground."
    flow = torch.zeros(len(speeds), 2, 40, 60)
    flow[:, 0, 15:25, 25:35] = torch.tensor(speeds)[:, None, None]
    return flow


def test_the_residual_is_in_pixels_a_frame_for_any_gap():
    flow = square_flow(2., 4.)
    residual, error = mean_residual(flow, torch.zeros_like(flow), torch.tensor([1, 2]))
    assert residual[20, 30] == pytest.approx(2, abs=.2) and residual[5, 5] < .1
    assert error.shape == (2, 40, 60)


def test_an_inconsistent_flow_weighs_less():
    "Two flows disagree about a pixel; the one that is consistent decides."
    flow = square_flow(1., 5.)
    back = torch.zeros_like(flow)
    back[0, 0] = -1.
    assert mean_residual(flow, back, torch.tensor([1, -1]))[0][20, 30] < 2


def test_motion_of_a_window(disk):
    window, masks = disk
    n, inside = len(masks), masks[2]
    assert window.residual.shape == (n, 64, 96) and window.residual.dtype == np.float32
    assert set(window.flow) == {(a, b) for a in range(n) for b in (a - 1, a + 1) if 0 <= b < n}
    assert window.residual[2][inside].mean() > 3 * window.residual[2][~inside].mean()


def test_threads_keep_the_order_and_are_given_back(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    assert parallel_map(lambda x: (x, torch.get_num_threads()), range(9), "") == [(x, 1) for x in range(9)]
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


# ---- superpixels and graph

def test_superpixels_partition_each_frame(disk, disk_graph):
    (window, masks), graph = disk, disk_graph
    assert graph.area.sum() == window.residual.size and len(graph) == graph.label.max() + 1
    for t in range(len(masks)):
        assert set(np.unique(graph.label[t])) == set(np.flatnonzero(graph.frame == t))
    assert (np.bincount(graph.label.ravel()) == graph.area).all()
    mean = np.bincount(graph.label.ravel(), window.residual.ravel()) / graph.area
    assert np.allclose(graph.means[0], mean, atol=1e-3)
    assert np.allclose(graph.paint(graph.means[0])[graph.label == 7], mean[7], atol=1e-3)
    assert np.allclose(graph.frame_sums(np.ones(len(graph))), window.residual[0].size)


def test_links_are_symmetric_and_join_neighbouring_frames_only(disk_graph):
    links, frame = disk_graph.links, disk_graph.frame
    assert abs(links - links.T).max() < 1e-6
    assert links.data.min() >= 0 and links.diagonal().max() == 0
    rows, columns = links.nonzero()
    assert set(frame[rows] - frame[columns]) == {-1, 0, 1}
    along = disk_graph.flow_links.tocoo()
    assert set(abs(frame[along.row] - frame[along.col])) == {1}


def test_links_follow_the_flow_into_moving_boxes(disk):
    "Boxes that move with the object: its superpixels stay in the box, and so do the links."
    window, masks = disk
    boxes = np.array([[12., 12 + 3 * t, 40, 60] for t in range(len(masks))])
    graph = build_graph(window, boxes, [masks.astype(np.float32)], None, superpixels=150)
    assert temporal_consistency(graph, (graph.means[0] > .5).astype(float))[:-1].min() > .8


@pytest.mark.parametrize("box, shape", [((15, 20, 30, 40), (60, 80)), ((0, 0, 60, 80), (60, 80)),
                                        ((7.3, 11.8, 20.5, 27.3), (121, 161))])
def test_cropped_and_pasted(box, shape):
    image, whole, scale = np.zeros((60, 80), np.float32), (0, 0, 60, 80), shape[0] / 60
    image[20:28, 30:42] = 1
    pasted = paste_box(crop_box(image, box, 1, (60, 80)), box, scale, shape)
    wanted = paste_box(image, whole, scale, shape)
    assert pasted.shape == shape and jaccard(pasted > .5, wanted > .5) > .7


def test_outside_its_box_a_mask_is_zero():
    pasted = paste_box(np.ones((60, 80), np.float32), (15, 20, 30, 40), 1, (60, 80))
    assert pasted[15:45, 20:60].min() == 1 and pasted.sum() == 30 * 40


def test_a_map_is_averaged_where_it_lies():
    label = np.repeat([0, 1], [18, 30])[None].repeat(32, 0)
    ramp = np.tile(np.arange(12), (1, 8, 1)).astype(np.float32)
    ramp_mean, constant = pool_maps([ramp, np.full((1, 4, 6), 7, np.float32)], label)
    assert np.allclose(constant, 7) and ramp_mean[:, 0] == pytest.approx([1.75, 7.75], abs=.1)


def test_diffusion_solves_the_system_it_claims_to():
    rng = np.random.default_rng(0)
    w = rng.random((12, 12)) * (rng.random((12, 12)) < .4)
    w, t = w + w.T, rng.random(12)
    exact = np.linalg.solve(np.diag(w.sum(1) + .35) - w, .35 * t)
    assert np.allclose(diffuse(sparse.csr_matrix(w), t, .35), exact, atol=1e-3)


def test_features_are_white_and_a_constant_stage_is_no_trouble():
    rng = np.random.default_rng(0)
    stages = [rng.normal(size=(500, 40)).astype(np.float16), np.ones((500, 30), np.float16)]
    x = superpixel_features(rng.normal(size=(500, 3)), stages, 8)
    assert x.shape == (500, 9 + 16) and x.dtype == np.float32 and np.isfinite(x).all()
    assert np.allclose(np.cov(x[:, 9:17].T), np.eye(8), atol=.02) and abs(x[:, 17:]).max() < 1e-3
    assert np.isfinite(superpixel_features(np.zeros((50, 3)), [], 8)).all()
    assert superpixel_features(rng.normal(size=(5, 3)), [stages[0][:5]], 8).shape == (5, 9 + 5)
