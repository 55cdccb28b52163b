"""The fit against the plain reference, as a table: `python tests/bench/fit.py [--device cuda]`.

Every row is one run: the reference, the fit pass by pass and `fit_error` take turns, from logits to their gradient, and the
ratios are those of their medians. On a CPU, `fit_error` goes row by row if numba is there; else, and on a GPU,
it is the fit pass by pass. The floor is what this machine's memory allows: a measured copy, times the fewest bytes that have to move
(logits in, masks out and in, flow in, error out and in, gradient out)."""
import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from gwm_nb.fast_fit import _FitError, fit_error
from gwm_nb.motion import bases
from gwm_nb.network import create_network

SIZES = {"8 x 4 x 128x224": (8, 4, 128, 224), "2 x 4 x 480x854": (2, 4, 480, 854)}
GROWTH = {"2 x 4 x 240x427": (2, 4, 240, 427), "4 x 4 x 480x854": (4, 4, 480, 854), "2 x 8 x 480x854": (2, 8, 480, 854),
          "2 x 32 x 480x854": (2, 32, 480, 854), "2 x 4 x 1080x1920": (2, 4, 1080, 1920)}


def loop_and_qr(masks, flow):
    "The fit from its formula: a loop over images and masks, each with a QR of an N x 6 matrix weighted by the mask."
    h, w = flow.shape[-2:]
    unit = (max(h, w) - 1) / 2
    x = ((torch.arange(w, device=flow.device) - (w - 1) / 2) / unit).to(flow.dtype).repeat(h)
    y = ((torch.arange(h, device=flow.device) - (h - 1) / 2) / unit).to(flow.dtype).repeat_interleave(w)
    Phi = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], -1)
    out = torch.zeros_like(flow)
    for b in range(len(masks)):
        for m in masks[b]:
            Q, R = torch.linalg.qr(m.reshape(-1, 1) * Phi)
            theta = torch.linalg.solve_triangular(R, Q.T @ (m.reshape(-1, 1) * flow[b].flatten(1).T), upper=True)
            out[b] = out[b] + m * (Phi @ theta).T.view_as(flow[b])
    return out


FORMS = {"reference": lambda m, f: (loop_and_qr(m, f) - f).square().mean(),
         "passes": lambda m, f: _FitError.apply(m, f, bases["quadratic"], 1e-7, "l2").mean(), "fit_error": lambda m, f: fit_error(m, f).mean(),
         "softmax": lambda m, f: m[:, :1].mean()}


def inputs(size, device="cpu", seed=0):
    B, K, h, w = size
    torch.manual_seed(seed)
    logits = torch.randn(B, K, h, w, device=device, requires_grad=True)
    return logits, torch.randn(B, 2, h, w, device=device)


def step(form, logits, flow):
    logits.grad = None
    loss = form(logits.softmax(1), flow)
    loss.backward()
    return loss


def seconds(work, device):
    "Of one call: of this process's one thread if it has only one (other programs don't count), else on the clock."
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    wait()
    start = clock()
    work()
    wait()
    return clock() - start


def in_turns(works, device, rounds=11):
    "{name: median seconds}, the works taking turns."
    taken = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            t = seconds(work, device)
            if i: taken[name].append(t)
    return {name: statistics.median(t) for name, t in taken.items()}


def copy_rate(device):
    "Bytes a second of a large copy, read and written ones counted."
    a = torch.randn(2**24 if device == "cpu" else 2**28, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() * a.element_size() / in_turns({"copy": lambda: b.copy_(a)}, device)["copy"]


def fewest_bytes(size):
    B, K, h, w = size
    masks, flow = 4 * B * K * h * w, 4 * B * 2 * h * w
    return 4 * masks + 3 * flow


def peak(size, name):
    "MB of memory that a step takes on top of its inputs and the masks, in a process of its own (Linux)."
    code = """if True:
        import sys; sys.path.insert(0, sys.argv[1]); import fit, torch; torch.set_num_threads(1)
        status = lambda key: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith(key)) / 1024
        for size in ((1, 2, 32, 32), (1, 4, 32, 1024)): fit.step(fit.FORMS[NAME], *fit.inputs(size))
        logits, flow = fit.inputs(SIZE)
        masks = logits.detach().softmax(1).requires_grad_()
        open('/proc/self/clear_refs', 'w').write('5')
        before = status('VmRSS')
        fit.FORMS[NAME](masks, flow).backward()
        print(status('VmHWM') - before)"""
    code = code.replace("NAME", repr(name)).replace("SIZE", repr(size))
    folder = str(Path(__file__).parent)
    return float(subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout)


def agreement(size, device):
    "How far values and gradients are from the reference's in float64, relative to their size."
    logits, flow = inputs(size, device)
    exact = logits.detach().double().requires_grad_()
    loss, true = step(FORMS["fit_error"], logits, flow), step(FORMS["reference"], exact, flow.double())
    return abs(loss.item() / true.item() - 1), ((logits.grad - exact.grad).norm() / exact.grad.norm()).item()


def table(device, threads):
    rate = copy_rate(device)
    print(f"\n{device}, {threads} thread(s), copy {rate / 1e9:.1f} GB/s\n")
    print("| batch x masks x size | reference | passes | ratio | fit_error | ratio | softmax alone | floor | fit_error / floor | error of value, gradient |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, size in SIZES.items():
        logits, flow = inputs(size, device)
        t = in_turns({k: (lambda f=f: step(f, logits, flow)) for k, f in FORMS.items()}, device)
        floor = fewest_bytes(size) / rate
        value, gradient = agreement(size, device)
        print(f"| {name} | {t['reference'] * 1e3:.1f} ms | {t['passes'] * 1e3:.2f} ms | {t['reference'] / t['passes']:.1f} "
              f"| {t['fit_error'] * 1e3:.2f} ms | {t['reference'] / t['fit_error']:.1f} "
              f"| {t['softmax'] * 1e3:.2f} ms | {floor * 1e3:.2f} ms | {t['fit_error'] / floor:.1f} | {value:.0e}, {gradient:.0e} |")


def growth(device):
    print("\n| batch x masks x size | passes | fit_error | ns a value of a mask |\n|---|---|---|---|")
    for name, size in {**SIZES, **GROWTH}.items():
        logits, flow = inputs(size, device)
        t = in_turns({k: (lambda k=k: step(FORMS[k], logits, flow)) for k in ("passes", "fit_error")}, device, 5)
        each = ", ".join(f"{v / logits.numel() * 1e9:.2f}" for v in t.values())
        print(f"| {name} | {t['passes'] * 1e3:.1f} ms | {t['fit_error'] * 1e3:.1f} ms | {each} |")


def memory():
    print("\n| batch x masks x size | masks | reference takes | passes take | fit_error takes |\n|---|---|---|---|---|")
    for name, size in SIZES.items():
        masks = 4 * size[0] * size[1] * size[2] * size[3] / 2**20
        taken = (peak(size, form) for form in ("reference", "passes", "fit_error"))
        print(f"| {name} | {masks:.1f} MB | " + " | ".join(f"{t:.0f} MB, {t / masks:.1f} times the masks" for t in taken) + " |")


def share(device):
    "A whole training step, and what of it is loss: the network alone is driven by the sum of its masks' first."
    print("\n| network, 8 pictures of 128x224, 4 masks | step with the reference | with passes | with fit_error | without a fit | share of the fit |")
    print("|---|---|---|---|---|---|")
    for name in ("small", "efficientnet_lite0"):
        network = create_network(name, 4, pretrained=False).to(device)
        picture, flow = torch.rand(8, 3, 128, 224, device=device), torch.randn(8, 2, 128, 224, device=device)
        def work(form):
            network.zero_grad()
            masks = torch.nn.functional.interpolate(network(picture), flow.shape[-2:], mode="bilinear").softmax(1)
            form(masks, flow).backward()
        t = in_turns({k: (lambda f=f: work(f)) for k, f in FORMS.items()}, device, 7)
        shares = ", ".join(f"{1 - t['softmax'] / t[k]:.0%}" for k in ("reference", "passes", "fit_error"))
        print(f"| {name} | " + "".join(f"{v * 1e3:.1f} ms | " for v in t.values()) + f"{shares} |")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    device = options.parse_args().device
    for threads in (1, 2) if device == "cpu" else (1,):
        torch.set_num_threads(threads)
        table(device, threads)
    torch.set_num_threads(1)
    growth(device)
    share(device)
    if device == "cpu": memory()
