"""Benchmarks, not part of the tests: `pytest tests/bench`. Compare lines of one run; ratios last
longer than seconds. OMP_NUM_THREADS=1 is one thread; `--benchmark-timer=time.process_time` counts
the processor's seconds, on a machine that does other things too."""
import itertools

import numpy as np
import pytest
import torch
from inputs import frame_pixels, write_image

from gwm_nb.files import read_image
from gwm_nb.flow import resize_flow
from gwm_nb.flow_files import read_flow, write_flo
from gwm_nb.network import create_network
from gwm_nb.paper import cache_features, paper_recipe
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowSettings, make_store, shrink
from gwm_nb.tracks import beyond_rank
from gwm_nb.videos import GapSamples


@pytest.mark.parametrize("way", ["480p files", "store"])
def test_read_a_training_sample(benchmark, tmp_path, way):
    "A frame and two flows at 128x224, from JPEG and .flo of 480x854, or from a store."
    image, size, N = frame_pixels(MovingScenes(1, size=(480, 854)).scene(0), 0), (128, 224), 8
    for t in range(N):
        write_image(tmp_path / f"clip/{t:05d}.jpg", np.roll(image, 3 * t, 1))
        for gap in (1, -1):
            (tmp_path / f"gap{gap}").mkdir(exist_ok=True)
            write_flo(tmp_path / f"gap{gap}/{t:05d}.flo", torch.randn(2, 480, 854))
    store = make_store(tmp_path / "store", tmp_path / "clip", FlowSettings(size, (1, -1)))

    def from_files(t):
        flows = [read_flow(tmp_path / f"gap{gap}/{t:05d}.flo") for gap in (1, -1)]
        pixels = shrink(read_image(tmp_path / f"clip/{t:05d}.jpg"), size)
        return pixels, *(resize_flow(flow, size) for flow in flows)
    read = GapSamples(store, both=True).__getitem__ if way == "store" else from_files
    turn = itertools.cycle(range(1, N - 1))
    benchmark.group = "one training sample"
    benchmark(lambda: read(next(turn)))


@pytest.mark.parametrize("way", ["without a cache", "cached"])
def test_cached_training_step(benchmark, tmp_path, way):
    "Of the published network: batch 1, image of 128x224, flow of 480x854."
    network = create_network("paper", 4, pretrained=False).train()
    network.to(memory_format=torch.channels_last)                # as a Learner has it
    image, flow = torch.rand(1, 3, 128, 224), torch.randn(1, 2, 480, 854)
    if way == "cached":
        cache_features(network, tmp_path)
    recipe = paper_recipe()
    optimiser, loss = recipe["optimiser"](network), recipe["loss"]
    trained = [p for p in network.parameters() if p.requires_grad]

    def step():
        loss(network(image), flow).backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe["clip"])
        optimiser.step()
        optimiser.zero_grad()
    benchmark.group = "training step of the published network"
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)


def full(P, masks): return torch.linalg.svdvals(P[:, None] * masks[:, :, None])[..., 5:].sum(-1)


@pytest.mark.parametrize("tracks", [10_000, 70_000])
@pytest.mark.parametrize("f", [full, beyond_rank], ids=["full decomposition", "beyond_rank"])
def test_loss_of_tracks(benchmark, f, tracks):
    "Value and gradient: 41 frames, four masks, one image."
    P, masks = torch.randn(1, 82, tracks).double(), torch.rand(1, 4, tracks).double()
    benchmark.group = f"{tracks} tracks of 41 frames, four masks"
    run = lambda: f(P, masks.clone().requires_grad_()).sum().backward()
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
