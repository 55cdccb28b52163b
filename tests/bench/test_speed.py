"""Benchmarks, not part of the tests: `pytest tests/bench`. Compare lines of one run; ratios last
longer than seconds. OMP_NUM_THREADS=1 is one thread; `--benchmark-timer=time.process_time` counts
the processor's seconds, on a machine that does other things too."""
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gwm_nb.evaluate import boundary, boundary_f, jaccard
from gwm_nb.flow import DIS, DIS_PRESETS, estimate_flow
from gwm_nb.images import ImageScores, f_beta, image_measures, precision_recall
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.network import create_network
from gwm_nb.paper import cache_features, paper_recipe
from gwm_nb.polish import Polished, get_polisher
from gwm_nb.drawing import load_photo
from gwm_nb.scenes import MovingScenes
from gwm_nb.tracks import beyond_rank
from gwm_nb.superpixels import fold_batch_norm

sys.path.insert(0, str(Path(__file__).parent))
from fit import FORMS, SIZES, inputs, step  # noqa: E402


def smooth(*coarse, size=(480, 854), seed=0):
    "Random maps that are smooth over some pixels."
    maps = torch.rand(coarse, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(maps, size, mode="bicubic")


# ---- flow, fit, training

@pytest.mark.parametrize("preset", list(DIS_PRESETS))
def test_dis(benchmark, preset):
    scene = MovingScenes(1, size=(256, 448)).scene(0)
    benchmark.group = "DIS flow of a pair at 448x256"
    benchmark(estimate_flow, scene.frame(0), scene.frame(1), DIS(preset))


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize("form", ["reference", "passes", "fit_error"])
def test_fit_and_gradient(benchmark, form, name):
    "`python tests/bench/fit.py` prints ratios, floors and memory."
    logits, flow = inputs(SIZES[name])
    benchmark.group = f"fit, {name}"
    benchmark(step, FORMS[form], logits, flow)


@pytest.mark.parametrize("name", ["small", "efficientnet_lite0", "resnet18"])
def test_training_step(benchmark, name):
    network, loss = create_network(name, pretrained=False), ReconstructionLoss(normalise=True)
    network.to(memory_format=torch.channels_last)
    image = torch.rand(8, 3, 96, 160).contiguous(memory_format=torch.channels_last)
    flow = torch.randn(8, 2, 96, 160)
    benchmark.group = "training step, 8 images of 96x160"
    benchmark(lambda: loss(network(image), flow).backward())


@pytest.mark.parametrize("form", ["as it is", "folded", "folded, float16", "folded, bfloat16"])
def test_features_of_an_image(benchmark, form):
    network = create_network("efficientnet_lite0", pretrained=False).backbone.eval()
    network.requires_grad_(False)
    number = getattr(torch, form.split(", ")[1]) if ", " in form else torch.float32
    network = network if form == "as it is" else fold_batch_norm(network)
    network = network.to(number, memory_format=torch.channels_last)
    image = torch.rand(1, 3, 720, 1281).to(number, memory_format=torch.channels_last)
    benchmark.group = "features of an image of 1281x720"
    with torch.inference_mode():
        benchmark(network, image)


def test_scene(benchmark):
    benchmark(lambda: MovingScenes(1, seed=0)[0])


# ---- the published network

@pytest.fixture(scope="module")
def paper(): return create_network("paper", 4, pretrained=False)


@pytest.mark.parametrize("part", ["whole", "backbone", "head", "head as published"])
def test_forward(benchmark, paper, part):
    image = torch.rand(1, 3, 128, 224)
    paper.eval()
    with torch.inference_mode():
        maps = paper.features(image)
        run = {"whole": lambda: paper(image), "backbone": lambda: paper.features(image),
               "head": lambda: paper.sem_seg_head(maps),
               "head as published": lambda: paper.sem_seg_head.plain(maps)}[part]
        benchmark.group = "forward of the published network, one image of 128x224"
        benchmark.pedantic(run, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("way", ["without a cache", "cached"])
def test_cached_training_step(benchmark, tmp_path, way):
    "Batch 1, image of 128x224, flow of 480x854."
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


# ---- measures, against loops and distances

def f_by_distances(masks, truth):
    "F from the distance of every pixel to the other boundary."
    radius = np.ceil(.008 * np.hypot(480, 854)) + 1e-3

    def near(edge):
        outside = (~edge).astype(np.uint8)
        return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < radius
    edges = zip(boundary(masks).numpy(), boundary(truth).numpy())
    scores = [(near(b)[a].mean(), near(a)[b].mean()) for a, b in edges]
    return torch.tensor([2 * p * q / (p + q) for p, q in scores])


@pytest.mark.parametrize("measure", [boundary_f, f_by_distances, jaccard])
def test_j_and_f(benchmark, measure):
    "DAVIS 2016's validation set has 1,376 frames."
    coarse = smooth(32, 1, 8, 12)[:, 0]
    masks = coarse + .3 * smooth(32, 1, 60, 100)[:, 0] > .7, coarse > .55
    if measure is f_by_distances:
        torch.testing.assert_close(measure(*masks), boundary_f(*masks), atol=1e-9, rtol=0)
    benchmark.group = "J and F of 32 frames of 480p"
    benchmark.pedantic(measure, masks, rounds=3, warmup_rounds=1)


def f_by_a_loop(soft, truth):
    "F at 254 thresholds, one after the other."
    found = []
    for level in torch.arange(1, 255) / 255:
        mask = soft > level
        right = (mask & truth).sum()
        found.append(torch.stack([right / mask.sum(), right / truth.sum()]))
    return f_beta(torch.stack(found, 1).nan_to_num(1.))


def f_by_counts(soft, truth): return f_beta(precision_recall(soft, truth, "published"))


@pytest.mark.parametrize("size", [(300, 400), (480, 854)], ids=str)
@pytest.mark.parametrize("measure", [f_by_a_loop, f_by_counts, image_measures])
def test_measures_of_an_image(benchmark, measure, size):
    truth = smooth(1, 1, 6, 8, size=size)[0, 0] > .5
    image = (.5 * truth + .5 * torch.rand(size)).clamp(0, 1), truth
    loop, counts = f_by_a_loop(*image).double(), f_by_counts(*image)
    torch.testing.assert_close(loop, counts, atol=1e-6, rtol=0)
    benchmark.group = f"measures of an image of {size}"
    benchmark(measure, *image)


def test_a_hundred_images(benchmark):
    "Of 300x400; their sums are all that is kept."
    images, scores = [(torch.rand(300, 400), torch.rand(300, 400) > .7)] * 100, ImageScores()
    benchmark.pedantic(lambda: [scores.add(*image) for image in images], rounds=2)


# ---- polishers, tracks

@pytest.mark.parametrize("name", ["guided", "bilateral", "crf", "flow", "flow+guided", "flow+crf"])
def test_polisher(benchmark, name):
    "The second of four frames, a photograph that moves: the CRF's time hangs on the colours."
    if "crf" in name:
        pytest.importorskip("pydensecrf.densecrf", reason="the crf extra is not installed")
    masks = (6 * smooth(1, 4, 8, 14, size=(128, 224))).softmax(1).expand(4, -1, -1, -1)
    photo = F.interpolate(load_photo("coffee")[None], (480, 854), mode="bilinear")[0]
    frames = [(255 * photo.roll(4 * t, -1)).round().byte() for t in range(4)]
    run = lambda: Polished(masks, frames, get_polisher(name))[1]
    assert run().shape == (4, *((128, 224) if name == "flow" else (480, 854)))
    benchmark.group = "a frame of 480p, four masks of 128x224"
    benchmark.pedantic(run, rounds=3)


def full(P, masks): return torch.linalg.svdvals(P[:, None] * masks[:, :, None])[..., 5:].sum(-1)


@pytest.mark.parametrize("tracks", [10_000, 70_000])
@pytest.mark.parametrize("f", [full, beyond_rank], ids=["full decomposition", "beyond_rank"])
def test_loss_of_tracks(benchmark, f, tracks):
    "Value and gradient: 41 frames, four masks, one image."
    P, masks = torch.randn(1, 82, tracks).double(), torch.rand(1, 4, tracks).double()
    benchmark.group = f"{tracks} tracks of 41 frames, four masks"
    run = lambda: f(P, masks.clone().requires_grad_()).sum().backward()
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
