"The command lines as a user meets them: in a process of their own, with right and with wrong input."
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from gwm_nb.show import VideoWriter
from gwm_nb.flow_files import write_flo
from gwm_nb.scenes import MovingScenes


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "Six frames of a scene as a folder, as a video, and their annotations."
    root = tmp_path_factory.mktemp("clip")
    scene = MovingScenes(1, seed=14, size=(90, 151)).scene(0)
    (root / "frames").mkdir(), (root / "truth").mkdir()
    with VideoWriter(root / "clip.mp4", 10) as video:
        for t in range(6):
            image = (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy()
            cv2.imwrite(str(root / "frames" / f"shot{t + 8}.png"), image[..., ::-1])
            cv2.imwrite(str(root / "truth" / f"shot{t + 8}.png"), scene.labels(t).numpy().astype(np.uint8) * 255)
            video.add(scene.frame(t))
    return root


def run(command, *argv, cwd, **environment):
    "Run a command of the package; returns the finished process."
    code = f"from gwm_nb.commands import {command}; {command}()"
    return subprocess.run([sys.executable, "-c", code, *map(str, argv)], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | environment, stdin=subprocess.DEVNULL)


def test_folder_of_frames(clip, tmp_path):
    done = run("gwm_segment", clip / "frames", "--out", "out", "--masks", clip / "truth", "--preset", "gwm", "--steps", 3, "--num-masks", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [f"shot{t + 8}.png" for t in range(6)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*names, "overlay.mp4", "result.json"])
    masks = [cv2.imread(str(tmp_path / "out" / n), cv2.IMREAD_UNCHANGED) for n in names]
    assert all(m.shape == (90, 151) and set(np.unique(m)) <= {0, 255} for m in masks)
    report = json.loads((tmp_path / "out/result.json").read_text())
    assert report["frames"] == 6 and set(report["J"]["frames"]) == {Path(n).stem for n in names}
    assert report["settings"]["steps"] == 3 and report["settings"]["num_masks"] == 3 and report["seconds"]["total"] > 0
    truth = [cv2.imread(str(clip / "truth" / n), 0) > 0 for n in names]
    J = np.mean([(t & (m > 0)).sum() / max((t | (m > 0)).sum(), 1) for t, m in zip(truth, masks)])
    assert report["J"]["mean"] == pytest.approx(J, abs=1e-6)
    assert "J = " in done.stdout and "overlay" in done.stdout


def test_video_file(clip, segment, tmp_path):
    assert segment(clip / "clip.mp4", "--out", tmp_path / "out", "--preset", "fast")[1] is None
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [f"{t:05d}.png" for t in range(6)]
    with av.open(str(tmp_path / "out/overlay.mp4")) as f:
        stream = f.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.frames, stream.average_rate) == ("h264", "yuv420p", 6, 10)
    assert "J" not in json.loads((tmp_path / "out/result.json").read_text())


@pytest.mark.parametrize("full", [False, True])
def test_demo(clip, tmp_path, monkeypatch, capsys, full):
    "In small: a few scenes of a quarter of the size, and another clip."
    from gwm_nb.commands import _scene_video, gwm_demo
    small = lambda n, **options: MovingScenes(min(n, 8), size=(48, 80), **options)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gwm_nb.refine.example_clip", lambda: (clip / "frames", clip / "truth"))
    monkeypatch.setattr("gwm_nb.scenes.MovingScenes", small)
    monkeypatch.setattr(_scene_video, "__defaults__", (4,))
    argv = "--out", "demo", "--steps", 2, "--preset", "fast", *["--full"] * full
    out, end = call(gwm_demo, capsys, monkeypatch, *argv)
    files = ["clip.webp", "rabbit.png", "rabbit.webm", "result.json", "training.png"]
    if full: files = sorted([*files, "overlay.mp4", "results.png"])
    assert end is None and sorted(p.name for p in (tmp_path / "demo").iterdir()) == files
    assert "real clip, 6 frames" in out and ("mean of three seeds: J" in out) == full
    assert "gwm_segment my_clip.mp4" in out.split("next:")[1] and "are read as" not in out
    found = report(tmp_path / "demo")
    assert len(found["rows"]) == (4 if full else 1) and 0 <= found["mean_J"] <= 1


def test_demo_refuses_foreign_files_before_the_work(tmp_path):
    (tmp_path / "demo").mkdir(), (tmp_path / "demo/training.png").write_text("mine")
    done = run("gwm_demo", "--out", "demo", "--steps", 2, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == "" and "training.png" in done.stderr


def test_names_are_checked_before_anything_is_said(clip, segment, tmp_path, capsys, monkeypatch):
    from gwm_nb.commands import gwm_demo
    for argv, says in ((["--preset", "gmw"], "unknown preset 'gmw'; choose from default"), (["--outputs", "masks", "gif"], "unknown output 'gif'; choose one of masks")):
        for source in (clip / "frames", clip):
            out, end = segment(source, "--out", "out", *argv)
            assert out == "" and end.count(says) == 1
    out, end = call(gwm_demo, capsys, monkeypatch, "--out", "demo", "--preset", "gmw")
    assert out == "" and "'gmw'" in end and list(tmp_path.iterdir()) == []


def damaged(clip, root):
    "Wrong inputs: {name: (arguments, what the one line must say)}."
    frames = sorted((clip / "frames").iterdir())
    for name in ("one", "mixed", "empty", "torn"):
        (root / name).mkdir()
    shutil.copy(frames[0], root / "one")
    for f in frames:
        shutil.copy(f, root / "mixed"), shutil.copy(f, root / "torn")
    cv2.imwrite(str(root / "mixed" / frames[3].name), np.zeros((40, 60, 3), np.uint8))
    (root / "torn" / frames[2].name).write_bytes(frames[2].read_bytes()[:300])
    (root / "zero.mp4").write_bytes(b""), (root / "text.mp4").write_text("no video"), (root / "file").write_text("")
    (root / "cut.mp4").write_bytes((clip / "clip.mp4").read_bytes()[:200])
    with VideoWriter(root / "single.mp4") as video:
        video.add(torch.rand(3, 64, 64))
    good = clip / "frames"
    return {"missing file": (["nowhere.mp4"], "no such clip"), "zero length": (["zero.mp4"], "empty"), "no video": (["text.mp4"], "not a readable video"),
            "cut off": (["cut.mp4"], "not a readable video"), "one frame": (["one"], "1 frame"), "one frame video": (["single.mp4"], "1 frame"),
            "mixed sizes": (["mixed"], "60x40"), "no images": (["empty"], "no images"), "torn image": (["torn"], "not a readable image"),
            "backbone": ([good, "--preset", "gwm", "--network", "resnot18"], "unknown backbone"), "basis": ([good, "--preset", "gwm", "--basis", "cubic"], "unknown motion basis"),
            "method": ([good, "--method", "magic"], "unknown flow method"), "option": ([good, "--setps", "3"], "unrecognized arguments"),
            "number": ([good, "--preset", "gwm", "--steps", "many"], "invalid int"), "zero steps": ([good, "--preset", "gwm", "--steps", "0"], "at least 1"), "no clip": ([], "required: clip"),
            "out is a file": ([good, "--out", "file"], "is not a folder"), "out below a file": ([good, "--out", "file/out"], "Not a directory"),
            "out is the clip": ([good, "--out", good], "overwrite"), "out is the truth": ([good, "--masks", clip / "truth", "--out", clip / "truth"], "overwrite"),
            "out not writable": ([good, "--out", "/proc/gwm"], "/proc"), "wrong annotations": ([good, "--masks", "one2"], "no such folder"),
            "offline weights": ([good, "--preset", "gwm", "--pretrained", "offline"], "no pretrained weights"), "many masks": ([good, "--preset", "gwm", "--num-masks", "100000"], "num_masks must be at least 2 (object and background) and at most 64"),
            "steps alone": ([good, "--preset", "gwm", "--steps", "-5"], "steps must be at least 1, not -5"), "weights": ([good, "--preset", "gwm", "--pretrained", "imagenet"], "pretrained must be 'timm', 'offline', 'random' or a file of weights, not 'imagenet'"),
            "out twice": ([good, "one", "--out", "two"], "out is given twice"), "foreign files": ([good, "--out", "mixed"], "is already there and not from an earlier run"),
            "annotations": ([good, "--masks", "empty"], "no images"), "film of masks": ([good, "--masks", "single.mp4"], "this film has 1 masks, the clip has 6 frames"),
            "preset": ([good, "--preset", "gmw"], "unknown preset 'gmw'; choose from default, fast, best, gwm, published, trained"),
            "option of another preset": ([good, "--steps", "60"], "steps must be left out with preset='default'; it belongs to"),
            "output": ([good, "--outputs", "masks", "mp3"], "mp3"), "objects": ([good, "--objects", "many"], "objects must be 'auto' or a number from 1 to 20, not 'many'"),
            "moment": ([good, "--start", "soon"], "invalid time 'soon'"), "empty excerpt": ([good, "--start", "50"], "none of its 6 frames is in this excerpt"),
            "every": ([good, "--every", "0"], "every must be"), "rate of a video": ([clip / "clip.mp4", "--fps", "5"], "a video has its own frame rate"),
            "polish": ([good, "--polish", "guided"], "polish must be left out with preset='default'; it belongs to"), "polish over time": ([good, "--preset", "gwm", "--polish", "flow"], "polish must be something that looks at frames one by one"),
            "features": ([good, "--features", "resnot18"], "resnot18"), "flow": ([good, "--method", "raft2"], "unknown flow method"),
            "no network": ([good, "--keep-network"], "keep"), "published": ([good, "--from", "DAVIS17"], "DAVIS17")}


@pytest.mark.parametrize("case", ["missing file", "zero length", "no video", "cut off", "one frame", "one frame video", "mixed sizes", "no images",
                                  "torn image", "backbone", "basis", "method", "option", "number", "zero steps", "no clip", "out is a file",
                                  "out below a file", "out is the clip", "out is the truth", "out not writable", "wrong annotations", "offline weights", "many masks",
                                  "steps alone", "weights", "out twice", "foreign files", "annotations", "film of masks", "preset", "option of another preset",
                                  "output", "objects", "moment", "empty excerpt", "every", "rate of a video", "polish", "polish over time", "features", "flow", "no network", "published"])
def test_wrong_input_gives_one_line_and_leaves_nothing(clip, tmp_path, case, capsys, monkeypatch):
    from gwm_nb.commands import gwm_segment
    argv, message = damaged(clip, tmp_path)[case]
    before = sorted(p for p in tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gwm_segment", *map(str, argv), *([] if "--out" in argv else ["--out", "new/out"])])
    with pytest.raises(SystemExit) as stop:
        gwm_segment()
    line = str(stop.value)
    assert isinstance(stop.value.code, str) and message in line and "\n" not in line and line.startswith("gwm_segment: "), line
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("argv", [["nowhere.mp4"], ["--bad"]])
def test_exit_code_and_stderr_of_the_process(tmp_path, argv):
    done = run("gwm_segment", *argv, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_interrupt_leaves_nothing(clip, tmp_path):
    import signal
    import time
    process = subprocess.Popen([sys.executable, "-c", "from gwm_nb.commands import gwm_segment; gwm_segment()", str(clip / "frames"), "--out", "out",
                                "--preset", "gwm", "--steps", "100000"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))    # a background job ignores it
    deadline = time.monotonic() + 120
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "interrupted" in errors.splitlines()[-1] and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_real_clip(shared, segment, tmp_path):
    "A real sequence at its own size; only that it runs, quality is measured elsewhere."
    davis = shared / "data/DAVIS2016"
    short = tmp_path / "short"
    short.mkdir()
    for f in sorted((davis / "JPEGImages/480p/dog").iterdir())[:4]:
        shutil.copy(f, short)
    masks = davis / "Annotations/480p/dog"
    assert segment(short, "--out", "out", "--masks", masks, "--preset", "gwm", "--steps", 1)[1] is None
    assert cv2.imread(str(tmp_path / "out/00003.png"), 0).shape == (480, 854)
    assert len(json.loads((tmp_path / "out/result.json").read_text())["J"]["frames"]) == 4


def test_nan_flow_is_named(tmp_path):
    from gwm_nb.flow_files import read_flo
    flow = torch.zeros(2, 5, 6)
    flow[0, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="x=3, y=2"):
        read_flo(write_flo(tmp_path / "bad.flo", flow))


# ---- every kind of clip and annotation that went wrong once

def texture(h, w, seed):
    cells = np.random.default_rng(seed).integers(0, 256, (max(2, h // 4), max(2, w // 4), 3)).astype(np.uint8)
    return cv2.resize(cells, (w, h), interpolation=cv2.INTER_CUBIC)


def disc(n=8, w=96, h=64):
    "Frames (n,h,w,3) of a disc that moves over a ground, and its masks (n,h,w)."
    ground, skin = texture(h, w, 0) // 2 + 30, texture(h, w, 1) // 2 + 120
    yy, xx = np.mgrid[:h, :w]
    masks = np.stack([(xx - w * .3 - 3 * t)**2 + (yy - h / 2)**2 < (min(h, w) // 4)**2 for t in range(n)])
    return np.stack([np.where(m[..., None], np.roll(skin, 3 * t, 1), ground) for t, m in enumerate(masks)]), masks


def folder(path, frames, first=0):
    path.mkdir(parents=True)
    for t, f in enumerate(frames): cv2.imwrite(str(path / f"{t + first:05d}.png"), f[..., [2, 1, 0, 3][:f.shape[2]]] if f.ndim == 3 else f)
    return path


def film(path, frames):
    with VideoWriter(path, 24) as out:
        for f in frames: out.add(torch.from_numpy(np.ascontiguousarray(f)).permute(2, 0, 1) / 255)
    return path


def call(command, capsys, monkeypatch, *argv):
    "A command in this process: (what it printed, its last line or None)."
    monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, argv)])
    try: end = command()
    except SystemExit as e: end = str(e)
    out = capsys.readouterr()
    return out.out, end if end is None else str(end)


@pytest.fixture
def segment(capsys, monkeypatch, tmp_path):
    from gwm_nb.commands import gwm_segment
    monkeypatch.chdir(tmp_path)
    return lambda *argv: call(gwm_segment, capsys, monkeypatch, *argv)


def report(path): return json.loads((path / "result.json").read_text())


FRAMES, MASKS = disc()


def test_all_kinds_of_annotations_give_the_same_J(segment, tmp_path):
    clip = folder(tmp_path / "clip", FRAMES)
    kinds = {"plain": MASKS.astype(np.uint8) * 255, "ids of 16 bits": MASKS.astype(np.uint16) * 3, "alpha": [np.dstack([f, m.astype(np.uint8) * 255]) for f, m in zip(FRAMES, MASKS)]}
    J, how = {}, ["--preset", "gwm", "--steps", 10, "--num-masks", 2, "--keep-network"]
    for name, masks in kinds.items():
        out, end = segment(clip, name, "--masks", folder(tmp_path / f"truth {name}", masks), *how)
        assert end is None and "annotations are read as: " in out
        how = ["--from", "plain/network.safetensors"]
        J[name] = report(tmp_path / name)["J"]["mean"]
    assert len(set(J.values())) == 1 and J["plain"] > 0, J
    film(tmp_path / "truth.mp4", np.repeat(MASKS[..., None], 3, 3).astype(np.uint8) * 255)
    assert segment(clip, "film", "--masks", tmp_path / "truth.mp4", "--from", "plain/network.safetensors")[1] is None
    assert report(tmp_path / "film")["J"]["mean"] == pytest.approx(J["plain"], abs=.03)


def no_work(monkeypatch):
    def never(*args, **kwargs): raise AssertionError("work before the inputs were checked")
    for name in ("segment.fit", "segment.keep_masks", "refine.refine_windows"): monkeypatch.setattr(f"gwm_nb.{name}", never)


def test_what_is_wrong_is_found_before_any_work(segment, tmp_path, monkeypatch):
    no_work(monkeypatch)
    clip, video = folder(tmp_path / "clip", FRAMES), film(tmp_path / "clip.mp4", FRAMES)
    from_one = folder(tmp_path / "from one", MASKS.astype(np.uint8) * 255, first=1)
    half = folder(tmp_path / "half", MASKS[:, ::2, ::2].astype(np.uint8) * 255)
    for source in (clip, video):
        assert "annotation 00008 has no frame: annotations are named 00001 to 00008, frames 00000 to 00007" in segment(source, "out", "--masks", from_one)[1]
        assert "half/00000.png is 48x32, its frame 96x64" in segment(source, "out", "--masks", half)[1]
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir(), (tmp_path / "out/00003.png").write_text("mine")
    assert "00003.png is already there and not from an earlier run" in segment(clip, "out")[1]
    monkeypatch.setattr("gwm_nb.store.shutil.disk_usage", lambda path: type("Full", (), dict(free=1000)))
    assert "only 0.0 MB are free" in segment(clip, "other")[1] and not (tmp_path / "other").exists()


def test_annotations_that_have_no_frame_are_announced(segment, tmp_path):
    clip, truth = folder(tmp_path / "clip", FRAMES[:5]), folder(tmp_path / "truth", MASKS.astype(np.uint8) * 255)
    out, end = segment(clip, "out", "--masks", truth, "--preset", "fast")
    assert end is None and "annotation 00005 has no frame (3 of 8 have none)" in out and len(report(tmp_path / "out")["J"]["frames"]) == 5


def test_a_folder_with_one_clip_is_that_clip(segment, tmp_path):
    film(tmp_path / "a.mp4", FRAMES)
    (tmp_path / "one").mkdir(), (tmp_path / "a.mp4").rename(tmp_path / "one/a.mp4")
    out, end = segment("one", "out", "--preset", "fast")
    assert end is None and "one: one clip, a" in out and report(tmp_path / "out")["frames"] == 8


def test_several_clips_are_done_one_by_one(segment, tmp_path):
    (tmp_path / "clips").mkdir()
    film(tmp_path / "clips/b.mp4", FRAMES), (tmp_path / "clips/bad.mp4").write_text("no film"), folder(tmp_path / "clips/c", FRAMES)
    folder(tmp_path / "truth/c", MASKS.astype(np.uint8) * 255), folder(tmp_path / "truth/b", MASKS.astype(np.uint8) * 255)
    out, end = segment("clips", "--out", "clips/out", "--masks", "truth", "--preset", "fast")
    assert "clips: 3 clips (b, bad, c), one by one into clips/out/NAME" in out and end == "gwm_segment: 1 of 3 clips failed: bad"
    assert all(report(tmp_path / "clips/out" / name)["J"] for name in "bc") and not (tmp_path / "clips/out/bad").exists()
    assert "clips: 3 clips (b, bad, c)" in segment("clips", "--out", "clips/out", "--preset", "fast")[0]       # not the results of before


@pytest.mark.parametrize("name, frames, says", [
    ("still", np.repeat(FRAMES[:1], 8, 0), "nothing moves"), ("black", FRAMES * 0, "all frames are black"), ("doubled", np.repeat(FRAMES, 2, 0), "8 of 16 frames repeat the one before"),
    ("fading", np.stack([f * (1 - t / 8) for t, f in enumerate(FRAMES)]).astype(np.uint8), "the light changes"),
    ("cut", np.concatenate([FRAMES[:4], texture(64, 96, 7)[None].repeat(4, 0)]), "a cut before frame 00004"), ("good", FRAMES, None)])
def test_what_spoils_a_clip_is_said_and_noted(segment, tmp_path, name, frames, says):
    out, end = segment(folder(tmp_path / name, frames), "out", "--preset", "fast")
    notes = report(tmp_path / "out")["notes"]
    assert end is None and (any(says in n for n in notes) and f": {notes[0]}" in out if says else notes == []), notes


@pytest.mark.parametrize("w, h", [(200, 24), (24, 200), (1200, 20), (16, 16)])
def test_thin_and_tiny_clips(segment, tmp_path, w, h):
    from gwm_nb.store import working_size
    assert max(working_size((h, w))) <= 512
    assert segment(folder(tmp_path / "clip", disc(4, w, h)[0]), "out", "--preset", "fast")[1] is None
    assert cv2.imread(str(tmp_path / "out/00003.png"), 0).shape == (h, w)


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_takes_thin_frames(tmp_path, capsys, monkeypatch, preset):
    "OpenCV itself crashes on them, and would take this process with it."
    from gwm_nb.commands import gwm_flow
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "clip", disc(4, 200, 24)[0])
    out, end = call(gwm_flow, capsys, monkeypatch, "clip", "--preset", preset)
    assert end is None and "every row verified" in out


def test_flow_files_of_other_proportions_are_refused_by_name(tmp_path, capsys, monkeypatch):
    from gwm_nb.commands import gwm_flow
    monkeypatch.chdir(tmp_path)
    frames = disc(5, 100, 60)[0]
    for name, size in (("padded", (64, 104)), ("resized", (30, 50)), ("same", (60, 100))):
        folder(tmp_path / name / "JPEGImages/a", frames)
        for gap in (1, -1):
            (tmp_path / name / f"Flows_gap{gap}/a").mkdir(parents=True)
            for t in range(5):
                if 0 <= t + gap < 5: write_flo(tmp_path / name / f"Flows_gap{gap}/a/{t:05d}.flo", torch.zeros(2, *size))
        end = call(gwm_flow, capsys, monkeypatch, name, "--method", "files", "--gaps", "1", "-1")[1]
        if name == "padded": assert "Flows_gap1/a/00000.flo: this flow is 104x64, its frames are 100x60" in end.replace("Flows_gap-1", "Flows_gap1")
        else: assert end is None


# ---- the language of the shell, and how fast it speaks

HEAVY = ("timm", "kornia", "matplotlib", "accelerate", "zarr", "torchvision", "sklearn", "huggingface_hub.file_download")
COMMANDS = ("gwm_segment", "gwm_demo", "gwm_flow", "gwm_train", "gwm_evaluate")


MISTAKES = ["nowhere.mp4", "clip --preset gwm --num-masks 1", "clip --steps 3", "clip --preset gwm --basis cubic",
            "clip --out file", "--bad"]


def test_a_mistake_is_told_before_anything_heavy_is_imported(tmp_path):
    "In one process, which would remember the first import of something heavy."
    from gwm_nb import __version__
    folder(tmp_path / "clip", FRAMES), (tmp_path / "file").write_text("")
    calls = [*((c, "--help") for c in COMMANDS), *((c, "--version") for c in COMMANDS),
             *(("gwm_segment", argv) for argv in MISTAKES), ("gwm_flow", "nowhere"), ("gwm_flow", "clip --preset slow")]
    code = f"""if True:
        import importlib, sys
        for command, argv in {calls}:
            sys.argv = [command, *argv.split()]
            try: getattr(importlib.import_module("gwm_nb.commands"), command)()
            except SystemExit as stop: print("END", command, argv, bool(stop.code))
            heavy = [m for m in {HEAVY} if m in sys.modules]
            if heavy: sys.exit(f"{{command}} {{argv}} imports {{heavy}}")"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    for command, argv in calls:
        assert f"END {command} {argv} {argv not in ('--help', '--version')}\n" in done.stdout
        assert argv != "--version" or f"{command} {__version__}\n" in done.stdout


def test_a_word_comes_before_the_first_bar(tmp_path):
    folder(tmp_path / "clip", FRAMES)
    code = "from gwm_nb.commands import gwm_segment; gwm_segment()"
    done = subprocess.run([sys.executable, "-c", code, "clip", "out", "--preset", "fast"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    assert done.returncode == 0 and done.stdout.startswith("segmenting clip into out\n")


def test_places_and_names_of_options(capsys, monkeypatch):
    from gwm_nb.commands import command

    @command(trained=dict(option_strings=["--from"]), out=dict(place=True))
    def tool(clip: str, # what
             out: str = "there", # where
             num_masks: int = 2, # how many
             trained: str = ""): # by what
        "A tool."
        if num_masks == 2: return print(clip, out, trained)
        raise ValueError(f"num_masks must be at least 2\nand odd bytes \x1b[31m are not printed")
    go = lambda *argv: call(tool, capsys, monkeypatch, *argv)
    for argv in (("a", "b"), ("a", "--out", "b"), ("--out=b", "a")): assert go(*argv) == ("a b \n", None)
    assert go("a", "--from", "x.pth") == ("a there x.pth\n", None)
    for option in ("--num-masks", "--num_masks"):
        assert go("a", option, 1)[1] == "tool: num_masks must be at least 2 and odd bytes \\x1b[31m are not printed"
    assert go("a", "--out=~/b")[0] == f"a {os.path.expanduser('~')}/b \n"
    for argv in (("a", "b", "--out", "c"), ("a", "--out", ""), ("a", "--out="), ("", "b"), ("a", "--outt", "b")):
        out, end = go(*argv)
        assert out == "" and end.startswith("tool: ") and "see tool --help" in end


def test_names_that_are_no_text(tmp_path):
    "The name of a file is bytes; a terminal that can't show it is no reason to stop."
    film(tmp_path / "cafe.mp4", FRAMES)
    os.rename(os.fsencode(tmp_path / "cafe.mp4"), os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    code = "from gwm_nb.commands import gwm_segment; gwm_segment()"
    done = subprocess.run([sys.executable.encode(), b"-c", code.encode(), b"caf\xe9.mp4", b"out", b"--preset", b"fast"], cwd=tmp_path, capture_output=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert report(tmp_path / "out")["frames"] == 8


# ---- the cache

def test_the_cache_has_a_limit_and_can_be_cleared(tmp_path, capsys, monkeypatch):
    import gc
    from gwm_nb.commands import gwm_flow
    from gwm_nb.files import find_clips
    from gwm_nb.store import FlowSettings, cached_store
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    clips = find_clips(folder(tmp_path / "clip", FRAMES))
    def stores(): return {f.name for f in (tmp_path / "cache/flow").iterdir() if f.is_dir()}
    def store(width): return cached_store(clips, FlowSettings((32, width)))
    oldest, second = store(48), store(64)
    name = oldest.folder.name
    os.utime(oldest.folder, (1, 1))
    size = sum(f.stat().st_size for f in second.folder.rglob("*") if f.is_file())
    monkeypatch.setenv("GWM_CACHE_LIMIT", str(2.5 * size / 1e9))
    third = store(80)
    assert name in stores() and len(stores()) == 3          # over the limit, but all are in use
    del oldest
    gc.collect()
    third = store(80)
    assert stores() == {second.folder.name, third.folder.name}
    del second
    gc.collect()
    assert "1 flow stores removed" in call(gwm_flow, capsys, monkeypatch, "--clear-cache")[0]
    assert stores() == {third.folder.name} and third.image(0).any()         # still in use
    del third
    gc.collect()
    call(gwm_flow, capsys, monkeypatch, "--clear-cache")
    assert not any((tmp_path / "cache/flow").iterdir())
    monkeypatch.setenv("GWM_CACHE_LIMIT", "much")
    with pytest.raises(ValueError, match="GWM_CACHE_LIMIT must be .*'much'"): store(48)


def test_flow_in_use_by_a_program_that_was_killed_can_be_removed(tmp_path, monkeypatch):
    from gwm_nb.store import clear_cached_stores
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    code = ("import os, signal, sys\nfrom gwm_nb.files import find_clips\n"
            "from gwm_nb.store import FlowSettings, cached_store\n"
            "store = cached_store(find_clips(sys.argv[1]), FlowSettings((32, 48)))\n"
            "print(flush=True), sys.stdin.readline(), os.kill(os.getpid(), signal.SIGKILL)")
    argv = [sys.executable, "-c", code, folder(tmp_path / "clip", FRAMES)]
    user = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    user.stdout.readline()
    assert clear_cached_stores() == (0, 0)                  # another program uses it
    user.communicate(b"\n")
    assert clear_cached_stores()[0] == 1 and not any((tmp_path / "cache/flow").iterdir())


def test_what_killed_runs_leave_is_removed_by_the_next(segment, tmp_path):
    (tmp_path / "out/.unfinished-xyz/soft-abc").mkdir(parents=True)
    assert segment(folder(tmp_path / "clip", FRAMES), "out", "--preset", "gwm", "--steps", 1)[1] is None
    assert not [f for f in (tmp_path / "out").iterdir() if f.is_dir()]


# ---- memory

def peak(clip, out, cwd, preset):
    "Peak memory in MB of gwm_segment on a clip, in a process of its own."
    code = ("import resource\nfrom gwm_nb.segment import segment_clip\nimport sys\nsegment_clip(sys.argv[1], sys.argv[2], preset=sys.argv[3], **(dict(steps=20) if sys.argv[3] == 'gwm' else {}))\n"
            "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)")
    done = subprocess.run([sys.executable, "-c", code, clip, out, preset], cwd=cwd, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.rsplit("PEAK", 1)[1])


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gwm", "fast", "default"])
def test_memory_does_not_grow_with_length(tmp_path, preset):
    with VideoWriter(tmp_path / "long.mp4", 24) as long, VideoWriter(tmp_path / "short.mp4", 24) as short:
        for t in range(5000):
            frame = torch.from_numpy(np.roll(FRAMES[t % 8], t, 1)).permute(2, 0, 1) / 255
            long.add(frame)
            if t < 50: short.add(frame)
    few, many = (peak(f"{name}.mp4", name, tmp_path, preset) for name in ("short", "long"))
    print(f"peak of 50 frames {few:.0f} MB, of 5,000 frames {many:.0f} MB")
    assert many < few + 200


@pytest.mark.parametrize("room, command", [("segment", "gwm_segment"), ("videos", "gwm_flow"), ("train", "gwm_train"),
                                           ("runs", "gwm_train"), ("benchmarks", "gwm_evaluate")])
def test_rooms_run_as_programs(tmp_path, room, command):
    done = subprocess.run([sys.executable, "-m", f"gwm_nb.{room}", "x", "--outt"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"{command}: ") and "--outt" in done.stderr


def test_a_closed_stderr_is_no_reason_to_stop(clip, tmp_path):
    code = "from gwm_nb.commands import gwm_segment; gwm_segment()"
    shell = f'{sys.executable} -c "{code}" {clip / "frames"} out --preset fast --end 3 2>&-'
    done = subprocess.run(shell, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and report(tmp_path / "out")["frames"] == 3
