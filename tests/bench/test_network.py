"Benchmarks of the published network: `pytest tests/bench`; set OMP_NUM_THREADS=1 for one thread. Compare lines of one run."
import pytest
import torch

from gwm_nb.network import create_network
from gwm_nb.paper import cache_features, paper_recipe

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def paper(): return create_network("paper", 4, pretrained=False)


@pytest.mark.parametrize("part", ["whole", "backbone", "head", "head as published"])
def test_forward(benchmark, paper, part):
    image = torch.rand(1, 3, 128, 224)
    paper.eval()
    with torch.inference_mode():
        maps = paper.features(image)
        run = {"whole": lambda: paper(image), "backbone": lambda: paper.features(image), "head": lambda: paper.sem_seg_head(maps),
               "head as published": lambda: paper.sem_seg_head.plain(maps)}[part]
        benchmark.group = "forward of the published network, one picture of 128x224"
        benchmark.pedantic(run, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("way", ["without a cache", "cached"])
def test_cached_training_step(benchmark, tmp_path, way):
    "Batch 1, picture of 128x224, flow of 480x854."
    network, image, flow = create_network("paper", 4, pretrained=False).train(), torch.rand(1, 3, 128, 224), torch.randn(1, 2, 480, 854)
    network.to(memory_format=torch.channels_last)                # as a Learner has it
    if way == "cached":
        cache_features(network, tmp_path)
    recipe = paper_recipe()
    optimiser, loss, trained = recipe["optimiser"](network), recipe["loss"], [p for p in network.parameters() if p.requires_grad]

    def step():
        loss(network(image), flow).backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe["clip"])
        optimiser.step(), optimiser.zero_grad()

    benchmark.group = "training step of the published network"
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)


@gpu
@pytest.mark.parametrize("mode", ["float32", "bfloat16", "compiled"])
def test_images_a_second_on_a_gpu(benchmark, paper, mode):
    "16 pictures of 128x224; images/s = 16 / seconds."
    network, image = paper.eval().cuda(), torch.rand(16, 3, 128, 224, device="cuda")
    run = torch.compile(network) if mode == "compiled" else network

    @torch.inference_mode()
    def forward():
        with torch.autocast("cuda", torch.bfloat16, enabled=mode != "float32"):
            run(image)
        torch.cuda.synchronize()

    benchmark.group = f"16 pictures on {torch.cuda.get_device_name()}"
    benchmark.pedantic(forward, rounds=10, warmup_rounds=3)
