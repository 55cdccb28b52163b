"Benchmarks of J and F on masks of 480p: `pytest tests/bench/test_evaluate.py`. DAVIS 2016's validation set has 1,376 frames."
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gwm_nb.evaluate import boundary, boundary_f, jaccard


@pytest.fixture(scope="module")
def masks():
    "32 frames of blobs with ragged outlines, and truths beside them."
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(32, 1, 8, 12, generator=g)
    fine = torch.rand(32, 1, 60, 100, generator=g)
    size = lambda x: F.interpolate(x, (480, 854), mode="bicubic")[:, 0]
    return size(coarse) + .3 * size(fine) > .7, size(coarse) > .55


def measured(masks, truth):
    "F from the distance of every pixel to the other boundary."
    r = np.ceil(.008 * np.hypot(480, 854))
    near = lambda edge: cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < r + 1e-3
    scores = []
    for a, b in zip(boundary(masks).numpy(), boundary(truth).numpy()):
        p, q = near(b)[a].mean(), near(a)[b].mean()
        scores.append(2 * p * q / (p + q))
    return torch.tensor(scores)


@pytest.mark.parametrize("way", ["a disk", "distances"])
def test_f(benchmark, masks, way):
    torch.testing.assert_close(measured(*masks), boundary_f(*masks), atol=1e-9, rtol=0)
    benchmark.group = "F of 32 frames of 480p"
    benchmark.pedantic(boundary_f if way == "a disk" else measured, masks, rounds=3, warmup_rounds=1)


def test_j_and_f_of_a_data_set(benchmark, masks):
    "As many frames as DAVIS 2016's validation set has."
    def run():
        for _ in range(1376 // 32):
            jaccard(*masks)
            boundary_f(*masks)
    benchmark.group = "J and F of 1,376 frames of 480p"
    benchmark.pedantic(run, rounds=1)
