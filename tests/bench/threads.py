"""What waiting threads cost: a training step of the small network, threads spinning or sleeping.

    python tests/bench/threads.py

Each setting runs in a process of its own, in turns, on an otherwise idle machine ("quiet") and
beside a process that computes with as many threads ("busy"). Printed are medians, in seconds.
"""
import os
import statistics
import subprocess
import sys

STEP = """
import time, torch
from gwm_nb.loss import ReconstructionLoss
from gwm_nb.network import create_network
from gwm_nb.scenes import MovingScenes
scenes = MovingScenes(8, size=(128, 192))
image, flow = (torch.stack([scenes[i][k] for i in range(8)]) for k in ('image', 'flow'))
network, loss = create_network('small', 4), ReconstructionLoss(normalise=True)
optimiser = torch.optim.AdamW(network.parameters())
def step():
    value = loss(network(image), flow)
    optimiser.zero_grad()
    value.backward()
    optimiser.step()
step(), step()
clock = time.perf_counter()
for _ in range(10): step()
print((time.perf_counter() - clock) / 10)
"""
LOAD = """
import torch
a = torch.randn(8, 32, 128, 192)
conv = torch.nn.Conv2d(32, 32, 3, padding=1)
while True: conv(a)
"""
SETTINGS = {"spin (default)": {}, "sleep at once": dict(OMP_WAIT_POLICY="PASSIVE"),
            "one thread": dict(OMP_NUM_THREADS="1")}


def measure(name):
    "Seconds of a step, on the clock."
    ours = {k: v for k, v in os.environ.items() if k[:4] not in ("OMP_", "KMP_", "GOMP")}
    argv = [sys.executable, "-c", STEP]
    return float(subprocess.check_output(argv, env=ours | SETTINGS[name], text=True))


if __name__ == "__main__":
    print("| machine | setting | seconds a step |\n|---|---|---|")
    for machine in ("quiet", "busy"):
        load = subprocess.Popen([sys.executable, "-c", LOAD if machine == "busy" else ""])
        try:
            found = [{name: measure(name) for name in SETTINGS} for _ in range(3)]
        finally:
            load.kill()
        for name in SETTINGS:
            median = statistics.median(f[name] for f in found)
            print(f"| {machine} | {name} | {median:.2f} |", flush=True)
