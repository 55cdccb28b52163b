"""Benchmark of the loss of tracks, value and gradient: `pytest tests/bench/test_tracks.py`. Compare the lines of one run; the last
prints how many times as long the full decomposition takes (`-s` shows it)."""
from time import perf_counter

import pytest
import torch

from gwm_nb.tracks import beyond_rank


def full(P, masks): return torch.linalg.svdvals(P[:, None] * masks[:, :, None])[..., 5:].sum(-1)


def made(tracks):
    "41 frames, four masks, one picture."
    g = torch.Generator().manual_seed(0)
    return torch.randn(1, 82, tracks, generator=g).double(), torch.rand(1, 4, tracks, generator=g).double()


def value_and_gradient(f, P, masks): f(P, masks.clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize("tracks", [10_000, 70_000])
@pytest.mark.parametrize("f", [full, beyond_rank], ids=["full decomposition", "beyond_rank"])
def test_loss(benchmark, f, tracks):
    benchmark.group = f"{tracks} tracks of 41 frames, four masks"
    benchmark.pedantic(value_and_gradient, (f, *made(tracks)), rounds=3, warmup_rounds=1)


def test_ratio():
    P, masks = made(70_000)
    times = []
    for f in (full, beyond_rank):
        begin = perf_counter()
        value_and_gradient(f, P, masks)
        times.append(perf_counter() - begin)
    print(f"\n82 x 70,000, four masks: the full decomposition takes {times[0] / times[1]:.1f} times as long")
