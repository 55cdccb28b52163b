"""Benchmarks, not part of the tests: `pytest tests/bench`. Compare lines of one run; ratios last
longer than seconds. OMP_NUM_THREADS=1 is one thread; `--benchmark-timer=time.process_time` counts
the processor's seconds, on a machine that does other things too."""
import pytest
import torch

from gwm_nb.clips import read_frames
from gwm_nb.flow import resize
from gwm_nb.network import create_network
from gwm_nb.paper import cache_features, paper_recipe
from gwm_nb.refine import Hint, clip_refiner, example_clip, refine_clip


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


@pytest.mark.parametrize("work", ["first masks", "a click"])
def test_click(benchmark, work):
    "50 frames of 480x853: the embedded clip, forth and back. A further hint with all graphs kept."
    small = torch.stack([image for _, image in read_frames(example_clip()[0])])
    frames = resize(torch.cat([small, small.flip(0)])[:50].float(), (480, 853)).byte()
    benchmark.group = "masks of a clip"
    if work == "first masks":
        return benchmark.pedantic(refine_clip, (frames,), dict(progress=False), rounds=1)
    refiner, hints = clip_refiner(frames, keep=True), [Hint(6, 320, 380)]
    refiner.refine()

    def click():
        hints.append(Hint(10 * len(hints), 700, 100, include=False))
        refiner.refine(hints)
        refiner.result((480, 853))
    benchmark.pedantic(click, rounds=3, warmup_rounds=1)
