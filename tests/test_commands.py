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
from gwm_nb.flow import write_flo
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
    code = f"from gwm_nb.segment import {command}; {command}()"
    return subprocess.run([sys.executable, "-c", code, *map(str, argv)], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | environment, stdin=subprocess.DEVNULL)


def test_folder_of_frames(clip, tmp_path):
    done = run("gwm_segment", clip / "frames", "--out", "out", "--masks", clip / "truth", "--steps", 3, "--num-masks", 3, cwd=tmp_path)
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


def test_video_file(clip, tmp_path):
    done = run("gwm_segment", clip / "clip.mp4", "--out", tmp_path / "out", "--steps", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [f"{t:05d}.png" for t in range(6)]
    with av.open(str(tmp_path / "out/overlay.mp4")) as f:
        stream = f.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.frames, stream.average_rate) == ("h264", "yuv420p", 6, 10)
    assert "J" not in json.loads((tmp_path / "out/result.json").read_text())


def test_demo(tmp_path):
    done = run("gwm_demo", "--out", "demo", "--seeds", 1, "--steps", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == ["overlay.mp4", "result.json", "results.png"]
    assert "mean of 1 seed" in done.stdout and "results.png" in done.stdout and "one object, seed 0" in done.stderr


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
            "backbone": ([good, "--network", "resnot18"], "unknown backbone"), "basis": ([good, "--basis", "cubic"], "unknown motion basis"),
            "method": ([good, "--method", "magic"], "unknown flow method"), "option": ([good, "--setps", "3"], "unrecognized arguments"),
            "number": ([good, "--steps", "many"], "invalid int"), "zero steps": ([good, "--steps", "0"], "at least 1"), "no clip": ([], "required: clip"),
            "out is a file": ([good, "--out", "file"], "is not a folder"), "out below a file": ([good, "--out", "file/out"], "Not a directory"),
            "out is the clip": ([good, "--out", good], "overwrite"), "out is the truth": ([good, "--masks", clip / "truth", "--out", clip / "truth"], "overwrite"),
            "out not writable": ([good, "--out", "/proc/gwm"], "/proc"), "wrong annotations": ([good, "--masks", "one2"], "no such folder"),
            "offline weights": ([good, "--pretrained", "offline"], "no pretrained weights")}


@pytest.mark.parametrize("case", ["missing file", "zero length", "no video", "cut off", "one frame", "one frame video", "mixed sizes", "no images",
                                  "torn image", "backbone", "basis", "method", "option", "number", "zero steps", "no clip", "out is a file",
                                  "out below a file", "out is the clip", "out is the truth", "out not writable", "wrong annotations", "offline weights"])
def test_wrong_input_gives_one_line_and_leaves_nothing(clip, tmp_path, case, capsys, monkeypatch):
    from gwm_nb.segment import gwm_segment
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
    process = subprocess.Popen([sys.executable, "-c", "from gwm_nb.segment import gwm_segment; gwm_segment()", str(clip / "frames"), "--out", "out",
                                "--steps", "100000"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))    # a background job ignores it
    deadline = time.monotonic() + 120
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "interrupted" in errors.splitlines()[-1] and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_real_clip(shared, tmp_path):
    "A real sequence at its own size; only that it runs, quality is measured elsewhere."
    davis = shared / "data/DAVIS2016"
    short = tmp_path / "short"
    short.mkdir()
    for f in sorted((davis / "JPEGImages/480p/dog").iterdir())[:4]:
        shutil.copy(f, short)
    done = run("gwm_segment", short, "--out", "out", "--masks", davis / "Annotations/480p/dog", "--steps", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "out/00003.png"), 0).shape == (480, 854)
    assert len(json.loads((tmp_path / "out/result.json").read_text())["J"]["frames"]) == 4


def test_nan_flow_is_named(tmp_path):
    from gwm_nb.flow import read_flo
    flow = torch.zeros(2, 5, 6)
    flow[0, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="x=3, y=2"):
        read_flo(write_flo(tmp_path / "bad.flo", flow))
