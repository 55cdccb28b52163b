"The fit, one group for each size and number of threads; `python tests/bench/fit.py` prints ratios, floors and memory."
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from fit import FORMS, SIZES, inputs, step  # noqa: E402


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize("form", ["reference", "passes", "fit_error"])
def test_fit_and_gradient(benchmark, form, name, threads):
    logits, flow = inputs(SIZES[name])
    benchmark.group = f"fit, {name}, {threads} thread(s)"
    benchmark(step, FORMS[form], logits, flow)
