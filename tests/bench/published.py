"""Images a second of the published network by batch.

    python tests/bench/published.py [--device cuda]

Random weights, which cost what trained ones cost; images of 128x224, the size of its training."""
import argparse
import sys
from pathlib import Path

import torch

from gwm_nb.network import create_network

sys.path.insert(0, str(Path(__file__).parent))
from fit import head, in_turns, row  # noqa: E402

MODES = {"float32": torch.contiguous_format, "channels_last": torch.channels_last,
         "bfloat16": torch.contiguous_format}


@torch.inference_mode()
def forward(network, image, mode):
    with torch.autocast(image.device.type, torch.bfloat16, enabled=mode == "bfloat16"):
        network(image.contiguous(memory_format=MODES[mode]))


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    device = options.parse_args().device
    batches, rounds = ((1, 2, 4), 3) if device == "cpu" else ((1, 4, 16, 64), 9)
    network = create_network("paper", 4, pretrained=False).eval().to(device)
    last = create_network("paper", 4, pretrained=False).eval()
    last.to(device, memory_format=torch.channels_last)
    print(f"{device}, {torch.get_num_threads()} thread(s)")
    head("batch", *MODES)
    for batch in batches:
        image = torch.rand(batch, 3, 128, 224, device=device)
        slow = device == "cpu" and batch > 1          # bfloat16 takes minutes without units for it
        works = {m: (lambda m=m: forward(last if m == "channels_last" else network, image, m))
                 for m in MODES if not (slow and m == "bfloat16")}
        taken = in_turns(works, device, rounds)
        row(batch, *(f"{batch / taken[m]:.2f}" if m in taken else "-" for m in MODES))


if __name__ == "__main__":
    main()
