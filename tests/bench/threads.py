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
import time
from gwm_nb.scenes import MovingScenes
from gwm_nb.train import Callback, fit
class Clock(Callback):
    def after_step(self, learn):
        if learn.step == 2: self.start = time.perf_counter()
clock, samples = Clock(), list(MovingScenes(8, size=(128, 192)))
fit(samples, steps=12, num_masks=4, progress=False, device='cpu', callbacks=[clock])
print((time.perf_counter() - clock.start) / 10)
"""
LOAD = """
import torch
a, conv = torch.randn(8, 32, 128, 192), torch.nn.Conv2d(32, 32, 3, padding=1)
while True: conv(a)
"""
SETTINGS = {"spin (default)": {}, "sleep at once": dict(OMP_WAIT_POLICY="PASSIVE"),
            "one thread": dict(OMP_NUM_THREADS="1")}
PLAIN = {k: v for k, v in os.environ.items() if k[:4] not in ("OMP_", "KMP_", "GOMP")}

print("| machine | setting | seconds a step |\n|---|---|---|")
for machine, beside in dict(quiet="", busy=LOAD).items():
    load = subprocess.Popen([sys.executable, "-c", beside])
    try:
        found = {name: [] for name in SETTINGS}
        for name, more in [*SETTINGS.items()] * 3:
            step = subprocess.check_output([sys.executable, "-c", STEP], env=PLAIN | more)
            found[name].append(float(step))
    finally:
        load.kill()
    for name, seconds in found.items():
        print(f"| {machine} | {name} | {statistics.median(seconds):.2f} |", flush=True)
