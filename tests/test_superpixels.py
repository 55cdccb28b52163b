"Superpixels, their graph and their features, on clips whose answer is known."
import numpy as np
import pytest
import torch

from gwm_nb.superpixels import lasting_motion, mean_residual, residual_flow


def test_of_two_flows_that_disagree_the_consistent_one_decides():
    "A square that moves to the right, by 1 or by 5 pixels; only the flow by 1 leads back."
    flow, home = torch.zeros(2, 2, 40, 60), torch.zeros(2, 2, 40, 60)
    flow[:, 0, 15:25, 25:35] = torch.tensor([1., 5.])[:, None, None]
    home[0, 0] = -1
    own, error = map(torch.Tensor.numpy, residual_flow(flow, home))
    found = mean_residual(own, np.concatenate([flow, error[:, None]], 1))
    assert .9 < found[20, 30] < 2 and found[5, 5] < .1 and error.shape == (2, 40, 60)


@pytest.mark.parametrize("t", [0, 3, 9])
def test_motion_lasts_where_points_can_be_followed(t):
    "Above moves at 2 pixels a frame; in the middle that turns back; below it is lost at once."
    flow, own = {}, {}
    for a in range(10):
        for b in {a - 1, a + 1} & set(range(10)):
            field = np.zeros((3, 48, 64), np.float16)
            field[0, :16], field[0, 16:32], field[0, 32:] = 2 * (b - a), 2 * (-1)**a, 2 * (b - a)
            field[2, 32:] = 3
            flow[a, b], own[a, b] = field, field[:2]
    found = lasting_motion(flow, own, reach=4)[t]
    assert found.shape == (48, 64) and np.allclose(found[4:12, 24:40], 2, atol=.01)
    assert np.allclose(found[20:28, 24:40], 2, atol=.01) and found[36:44, 24:40].max() == 0


def test_superpixels_partition_each_frame_and_links_join_neighbours(disk, disk_graph):
    window, graph = disk[0], disk_graph
    assert graph.area.sum() == window.residual.size and len(graph) == graph.label.max() + 1
    for t, label in enumerate(graph.label):
        assert set(np.unique(label)) == set(np.flatnonzero(graph.frame == t))
    mean = np.bincount(graph.label.ravel(), window.residual.ravel()) / graph.area
    assert np.allclose(graph.residual, mean, atol=1e-3)
    assert np.allclose(graph.paint(graph.residual)[graph.label == 7], mean[7], atol=1e-3)
    assert np.allclose(graph.frame_sums(np.ones(len(graph))), window.residual[0].size)
    links, along = graph.links, graph.flow_links.tocoo()
    assert abs(links - links.T).max() < 1e-6
    assert links.data.min() >= 0 and links.diagonal().max() == 0
    rows, columns = links.nonzero()
    assert set(graph.frame[rows] - graph.frame[columns]) == {-1, 0, 1}
    assert set(abs(graph.frame[along.row] - graph.frame[along.col])) == {1}
