"""The fit against the plain reference, as a table: `python tests/bench/fit.py [--device cuda]`.

Every row is one run: the reference, the fit pass by pass and `fit_error` take turns, from logits to
their gradient, and the ratios are those of their medians. On a CPU, `fit_error` goes row by row if
numba is there; else, and on a GPU, it is the fit pass by pass. The floor is what this machine's
memory allows: a measured copy, times the fewest bytes that have to move."""
import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from gwm_nb.fast_fit import _FitError, fit_error
from gwm_nb.motion import bases, monomials, motion_grid

SIZES = {"8 x 4 x 128x224": (8, 4, 128, 224), "2 x 4 x 480x854": (2, 4, 480, 854)}


def loop_and_qr(masks, flow):
    "The fit from its formula: for each image and mask a QR of an N x 6 matrix weighted by it."
    grid = motion_grid(flow.shape[-2:], flow.device, flow.dtype)
    Phi = monomials(grid, bases["quadratic"].powers)
    out = torch.zeros_like(flow)
    for b in range(len(masks)):
        for m in masks[b]:
            weights = m.reshape(-1, 1)
            Q, R = torch.linalg.qr(weights * Phi)
            right = Q.T @ (weights * flow[b].flatten(1).T)
            theta = torch.linalg.solve_triangular(R, right, upper=True)
            out[b] = out[b] + m * (Phi @ theta).T.view_as(flow[b])
    return out


FORMS = {"reference": lambda m, f: (loop_and_qr(m, f) - f).square().mean(),
         "passes": lambda m, f: _FitError.apply(m, f, bases["quadratic"], 1e-7, "l2").mean(),
         "fit_error": lambda m, f: fit_error(m, f).mean(), "softmax": lambda m, f: m[:, :1].mean()}


def inputs(size, device="cpu"):
    B, K, h, w = size
    torch.manual_seed(0)
    logits = torch.randn(B, K, h, w, device=device, requires_grad=True)
    return logits, torch.randn(B, 2, h, w, device=device)


def step(form, logits, flow):
    logits.grad = None
    form(logits.softmax(1), flow).backward()


def in_turns(works, device, rounds=11):
    """{name: median seconds}, the works taking turns: of the processor if there is one thread
    (others don't count), else on the clock."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock, taken = time.process_time if alone else time.perf_counter, {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            wait()
            start = clock()
            work()
            wait()
            taken[name].append(clock() - start)
    return {name: statistics.median(t[1:]) for name, t in taken.items()}


def floor(size, device):
    "Seconds to move the fewest bytes (logits in, masks out and in, flow in, error, gradient)."
    a = torch.randn(2**24 if device == "cpu" else 2**28, device=device)
    b = torch.empty_like(a)
    taken = in_turns({"copy": lambda: b.copy_(a)}, device)["copy"]
    B, K, h, w = size
    return taken * (4 * B * K * h * w + 3 * B * 2 * h * w) / (2 * a.numel())


def peak(size, name):
    "MB that a step takes on top of its inputs and the masks, in a process of its own (Linux)."
    code = f"""if True:
        import re, sys, torch
        sys.path.insert(0, sys.argv[1])
        import fit
        torch.set_num_threads(1)
        status, form = (lambda: open('/proc/self/status').read()), fit.FORMS[{name!r}]
        kept = lambda key: int(re.search(key + r':\\s+(\\d+)', status())[1]) / 1024
        for size in ((1, 2, 32, 32), (1, 4, 32, 1024)): fit.step(form, *fit.inputs(size))
        logits, flow = fit.inputs({size})
        masks = logits.detach().softmax(1).requires_grad_()
        open('/proc/self/clear_refs', 'w').write('5')
        before = kept('VmRSS')
        form(masks, flow).backward()
        print(kept('VmHWM') - before)"""
    argv = [sys.executable, "-c", code, str(Path(__file__).parent)]
    return float(subprocess.check_output(argv, text=True))


def row(*cells): print(f"| {' | '.join(map(str, cells))} |", flush=True)


def head(*cells):
    print()
    row(*cells)
    row(*["---"] * len(cells))


def ms(t): return f"{t * 1e3:.4g} ms"


def table(device, threads):
    print(f"\n{device}, {threads} thread(s)")
    head("batch x masks x size", "reference", "passes", "ratio", "fit_error", "ratio",
         "softmax alone", "floor")
    for name, size in SIZES.items():
        logits, flow = inputs(size, device)
        t = in_turns({k: (lambda f=f: step(f, logits, flow)) for k, f in FORMS.items()}, device)
        ratio = lambda k: f"{t['reference'] / t[k]:.1f}"
        row(name, ms(t["reference"]), ms(t["passes"]), ratio("passes"), ms(t["fit_error"]),
            ratio("fit_error"), ms(t["softmax"]), ms(floor(size, device)))


def memory():
    head("batch x masks x size", "masks", "reference takes", "passes take", "fit_error takes")
    for name, (B, K, h, w) in SIZES.items():
        masks = 4 * B * K * h * w / 2**20
        taken = [peak((B, K, h, w), form) for form in ("reference", "passes", "fit_error")]
        row(name, f"{masks:.1f} MB", *(f"{t:.0f} MB, {t / masks:.1f} times" for t in taken))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    device = options.parse_args().device
    for threads in (2, 1) if device == "cpu" else (1,):
        torch.set_num_threads(threads)
        table(device, threads)
    if device == "cpu":
        memory()
