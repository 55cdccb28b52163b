"""Images a second of the published network by batch, as a table: `python tests/bench/published.py [--device cuda]`.

Random weights, which cost what trained ones cost; pictures of 128x224, the size of its training."""
import argparse
import contextlib
import sys
from pathlib import Path

import torch

from gwm_nb.network import create_network

sys.path.insert(0, str(Path(__file__).parent))
from fit import in_turns  # noqa: E402


def forward(network, picture, mode):
    mixed = torch.autocast(picture.device.type, torch.bfloat16) if "bfloat16" in mode else contextlib.nullcontext()
    layout = torch.channels_last if "channels_last" in mode else torch.contiguous_format
    with torch.inference_mode(), mixed:
        network(picture.contiguous(memory_format=layout))


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    device = options.parse_args().device
    batches, rounds = ((1, 2, 4), 3) if device == "cpu" else ((1, 4, 16, 64), 9)
    modes = ["float32", "channels_last", "bfloat16"]
    network = create_network("paper", 4, pretrained=False).eval().to(device)
    last = create_network("paper", 4, pretrained=False).eval().to(device, memory_format=torch.channels_last)
    print(f"{device}, {torch.get_num_threads()} thread(s)\n\n| batch | " + " | ".join(modes) + " |\n|" + "---|" * (len(modes) + 1))
    for batch in batches:
        picture = torch.rand(batch, 3, 128, 224, device=device)
        works = {m: (lambda m=m: forward(last if m == "channels_last" else network, picture, m)) for m in modes
                 if device == "cuda" or m != "bfloat16" or batch == 1}           # on a CPU without bfloat16 units it takes minutes
        taken = in_turns(works, device, rounds)
        print(f"| {batch} | " + " | ".join(f"{batch / taken[m]:.2f}" if m in taken else "-" for m in modes) + " |", flush=True)


if __name__ == "__main__":
    main()
