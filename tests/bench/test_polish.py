"""Benchmarks of the polishers on frames of 480p: `pytest tests/bench/test_polish.py`. Compare lines of one run; ratios last longer
than seconds. On a machine that does other things too, `--benchmark-timer=time.process_time` counts the processor's seconds."""
import pytest
import torch
import torch.nn.functional as F

from gwm_nb.polish import Polished, get_polisher
from gwm_nb.drawing import load_photo


@pytest.fixture(scope="module")
def clip():
    "Masks of 128x224 of four frames and the frames, a photograph that moves by 4 pixels a frame: the CRF's time hangs on the colours."
    g = torch.Generator().manual_seed(0)
    masks = F.interpolate(3 * torch.randn(1, 4, 8, 14, generator=g), (128, 224), mode="bicubic").softmax(1).expand(4, -1, -1, -1)
    photo = F.interpolate(load_photo("coffee")[None], (480, 854), mode="bilinear")[0]
    return masks, [(255 * photo.roll(4 * t, -1)).round().byte() for t in range(4)]


@pytest.mark.parametrize("name", ["guided", "bilateral", "crf", "flow", "flow+guided", "flow+crf"])
def test_a_frame(benchmark, clip, name):
    "The second of four: it has one on either side."
    if "crf" in name: pytest.importorskip("pydensecrf.densecrf", reason="the crf extra is not installed")
    size = (128, 224) if name == "flow" else (480, 854)
    assert Polished(*clip, get_polisher(name))[1].shape == (4, *size)
    benchmark.group = "a frame of 480p, four masks of 128x224"
    benchmark.pedantic(lambda: Polished(*clip, get_polisher(name))[1], rounds=3, warmup_rounds=0)
