"Benchmarks of the measures of still images: `pytest tests/bench`. Compare lines of one run; ratios last longer than seconds."
import pytest
import torch
import torch.nn.functional as F

from gwm_nb.images import ImageScores, f_beta, image_measures, precision_recall

LEVELS = torch.arange(1, 255) / 255


@pytest.fixture(scope="module", params=[(300, 400), (480, 854)], ids=["300x400", "480x854"])
def picture(request):
    "A soft map and its truth, (300,400) as in ECSSD, and a frame of 480p."
    g = torch.Generator().manual_seed(0)
    truth = F.interpolate(torch.rand(1, 1, 6, 8, generator=g), request.param, mode="bicubic")[0, 0] > .5
    soft = (.5 * truth + .5 * torch.rand(request.param, generator=g)).clamp(0, 1)
    return soft, truth


def looped(soft, truth):
    "F at 254 thresholds, one after the other."
    found = []
    for level in LEVELS:
        mask = soft > level
        right = (mask & truth).sum()
        found.append(torch.stack([right / mask.sum(), right / truth.sum()]))
    return f_beta(torch.stack(found, 1).nan_to_num(1.))


def counted(soft, truth): return f_beta(precision_recall(soft, truth, "published"))


@pytest.mark.parametrize("way", ["loop over thresholds", "histograms"])
def test_f_at_all_thresholds(benchmark, picture, way):
    torch.testing.assert_close(looped(*picture).double(), counted(*picture), atol=1e-6, rtol=0)
    benchmark.group = f"F at 254 thresholds, {picture[1].shape[1]}x{picture[1].shape[0]}"
    benchmark(looped if way.startswith("loop") else counted, *picture)


def test_all_measures(benchmark, picture):
    "Accuracy, IoU, F by both protocols, MAE, S and E."
    benchmark.group = f"all measures of one picture, {picture[1].shape[1]}x{picture[1].shape[0]}"
    benchmark(image_measures, *picture)


def test_a_hundred_pictures(benchmark):
    "Of 300x400; their sums are all that is kept."
    pictures = [(torch.rand(300, 400), torch.rand(300, 400) > .7) for _ in range(100)]

    def run():
        scores = ImageScores()
        for soft, truth in pictures:
            scores.add(soft, truth)
        return scores.result()

    benchmark.group = "all measures of 100 pictures"
    benchmark.pedantic(run, rounds=2, warmup_rounds=1)
