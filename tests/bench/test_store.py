"Reading and writing flow: `pytest tests/bench`. Compare lines of one run."
import itertools

import numpy as np
import pytest
import torch
from inputs import frame_pixels, write_image
from torch.utils.data import DataLoader

from gwm_nb.files import read_image
from gwm_nb.flow import resize_flow
from gwm_nb.flow_files import read_flow, write_flo
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowSettings, FlowStore, make_store, shrink
from gwm_nb.datasets import GapSamples

SIZE, GAPS, N = (128, 224), (1, 2, -1, -2), 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "Frames of 480x854 as JPEG, and flow of both directions as .flo files of that size."
    root = tmp_path_factory.mktemp("bench")
    image = frame_pixels(MovingScenes(1, seed=14, size=(480, 854)).scene(0), 0)
    for t in range(N):
        write_image(root / f"clip/{t:05d}.jpg", np.roll(image, 3 * t, 1))
        for gap in (1, -1):
            (root / f"gap{gap}").mkdir(exist_ok=True)
            flow = np.random.default_rng(t).standard_normal((2, 480, 854), np.float32)
            write_flo(root / f"gap{gap}/{t:05d}.flo", torch.from_numpy(flow))
    return root


@pytest.fixture(scope="module")
def store(clip): return make_store(clip / "store", clip / "clip", FlowSettings(SIZE, GAPS))


def from_files(clip, t):
    flows = [resize_flow(read_flow(clip / f"gap{g}/{t:05d}.flo"), SIZE) for g in (1, -1)]
    return shrink(read_image(clip / f"clip/{t:05d}.jpg"), SIZE), *flows


@pytest.mark.parametrize("way", ["480p files", "store"])
def test_read_a_training_sample(benchmark, clip, store, way):
    "A frame and two flows at 128x224."
    samples, turn = GapSamples(store, both=True), itertools.cycle(range(1, N - 1))
    benchmark.group = "one training sample"
    read = samples.__getitem__ if way == "store" else lambda t: from_files(clip, t)
    benchmark(lambda: read(next(turn)))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader(benchmark, store, workers):
    "800 samples in batches of 8; samples/s = 800 / seconds."
    class Many(GapSamples):
        def __len__(self): return 800
        def __getitem__(self, i): return super().__getitem__(i % N)

    loader = DataLoader(Many(store, both=True), 8, num_workers=workers,
                        persistent_workers=workers > 0)
    benchmark.group = "800 samples through a loader"
    benchmark.pedantic(lambda: sum(1 for _ in loader), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("verify", [False, True])
def test_open(benchmark, store, verify):
    "Found by its folder, or every chunk read."
    benchmark.group = "opening a store of 24 frames and 90 flows"
    benchmark(lambda: FlowStore(store.folder, verify))


@pytest.mark.parametrize("workers", [1, 2])
def test_make_store(benchmark, clip, tmp_path, workers):
    "24 frames of 480x854, 4 gaps: 90 flows."
    places = (tmp_path / str(i) for i in itertools.count())
    benchmark.group = "90 DIS flows, estimated at 640 px, kept at 256x448"
    settings = FlowSettings((256, 448), GAPS)
    benchmark.pedantic(lambda: make_store(next(places), clip / "clip", settings, workers), rounds=2)
