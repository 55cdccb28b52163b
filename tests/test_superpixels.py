"Superpixels, their graph and their features, on clips whose answer is known."
import numpy as np
import pytest
import scipy.sparse as sparse
import torch

from gwm_nb.evaluate import background_weights, residual_motion
from gwm_nb.refine import temporal_consistency
from gwm_nb.superpixels import (border_prior, build_graph, diffuse, mean_residual, parallel_map,
                                paste_box, superpixel_features)


def test_the_prior_decides_which_of_two_motions_is_the_background():
    "An object that covers half of the frame, but not its border."
    flow, border = torch.zeros(1, 2, 48, 64), torch.ones(48, 64, dtype=torch.bool)
    border[8:40, 8:56] = False
    flow[..., ~border] = 5.
    residual = lambda p: residual_motion(flow, background_weights(flow, prior=p, rounds=20))[0]
    found = residual(border_prior((48, 64)))
    assert found[border].mean() < .1 and found[~border].mean() > 7
    assert residual(None)[border].mean() > 1


@pytest.mark.parametrize("speeds, back, gaps, least, most", [
    ((2., 4.), (0, 0), (1, 2), 1.8, 2.2), ((1., 5.), (-1, 0), (1, -1), .9, 2)],
    ids=["gaps", "consistency"])
def test_the_residual_is_in_pixels_a_frame_and_of_consistent_flow(speeds, back, gaps, least, most):
    "A square that moves to the right; of two flows that disagree the consistent one decides."
    flow, home = torch.zeros(2, 2, 40, 60), torch.zeros(2, 2, 40, 60)
    flow[:, 0, 15:25, 25:35] = torch.tensor(speeds)[:, None, None]
    home[:, 0] = torch.tensor(back)[:, None, None]
    found, error = mean_residual(flow, home, torch.tensor(gaps))
    assert least < found[20, 30] < most and found[5, 5] < .1 and error.shape == (2, 40, 60)


def test_motion_of_a_window(disk):
    window, masks = disk
    n, inside = len(masks), masks[2]
    assert window.residual.shape == (n, 64, 96) and window.residual.dtype == np.float32
    assert set(window.flow) == {(a, b) for a in range(n) for b in (a - 1, a + 1) if 0 <= b < n}
    assert window.residual[2][inside].mean() > 3 * window.residual[2][~inside].mean()


def test_threads_keep_the_order_and_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    found = parallel_map(lambda x: (x, torch.get_num_threads()), range(9), "")
    assert found == [(x, 1) for x in range(9)]
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


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


def test_outside_its_box_a_mask_is_zero():
    pasted = paste_box(np.ones((60, 80), np.float32), (15, 20, 30, 40), 1, (60, 80))
    assert pasted[15:45, 20:60].min() == 1 and pasted.sum() == 30 * 40


def test_diffusion_solves_the_system_it_claims_to():
    rng = np.random.default_rng(0)
    w = rng.random((12, 12)) * (rng.random((12, 12)) < .4)
    w, t = w + w.T, rng.random(12)
    exact = np.linalg.solve(np.diag(w.sum(1) + .35) - w, .35 * t)
    assert np.allclose(diffuse(sparse.csr_matrix(w), t, .35), exact, atol=1e-3)


def test_features_of_constants_and_of_few_superpixels():
    rng = np.random.default_rng(0)
    x = superpixel_features(np.zeros((50, 3)), [np.ones((50, 30), np.float16)], 8)
    assert x.shape == (50, 9 + 8) and x.dtype == np.float32 and abs(x).max() < 1e-3
    few = superpixel_features(rng.normal(size=(5, 3)), [rng.normal(size=(5, 40))], 8)
    assert few.shape == (5, 9 + 5)
