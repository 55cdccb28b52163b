"The command lines as a user meets them, with right and with wrong input."
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from gwm_nb import __version__
from gwm_nb.commands import command, gwm_demo, gwm_flow, gwm_segment, scene_video
from gwm_nb.files import find_clips
from gwm_nb.scenes import MovingScenes
from gwm_nb.store import FlowSettings, cached_store
from inputs import frame_pixels, refused, write_frames, write_scene, write_video

SCENE = MovingScenes(1, seed=14, size=(64, 96)).scene(0)            # that of `write_scene`
FRAMES = np.stack([frame_pixels(SCENE, t) for t in range(8)])


def film(path, frames):
    return write_video(path, len(frames), size=(64, 96), draw=lambda t: frames[t])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "Eight frames as a folder and as a video, and their annotations."
    root = tmp_path_factory.mktemp("clip")
    write_scene(root / "frames", root / "truth", n=8)
    film(root / "clip.mp4", FRAMES)
    return root


@pytest.fixture
def segment(call, tmp_path, monkeypatch):
    "Run gwm_segment in tmp_path: what it printed, and the one line it stopped with or None."
    monkeypatch.chdir(tmp_path)
    return lambda *argv: call(gwm_segment, *argv)


SEGMENT = "from gwm_nb.commands import gwm_segment; gwm_segment()"


def process(*argv, cwd, code=SEGMENT, **options):
    "Run a command in a process of its own; returns the finished process."
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | options
    return subprocess.run([sys.executable, "-c", code, *argv], cwd=cwd, **options)


def report(path): return json.loads((path / "result.json").read_text())


def test_the_whole_demo(clip, call, tmp_path, monkeypatch):
    "In small: a few scenes of a quarter of the size, and another clip."
    small = lambda n, **options: MovingScenes(min(n, 8), size=(48, 80), **options)
    example = lambda: (clip / "frames", clip / "truth")
    monkeypatch.setattr("gwm_nb.refine.example_clip", example)
    monkeypatch.setattr("gwm_nb.scenes.MovingScenes", small)
    monkeypatch.setattr(scene_video, "__defaults__", (4,))
    argv = "--out", "demo", "--steps", 2, "--preset", "fast", "--full"
    out, end = call(gwm_demo, *argv, cwd=tmp_path)
    assert end is None and "8 frames" in out and "mean of three seeds: J" in out
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == [
        "clip.webp", "overlay.mp4", "rabbit.png", "rabbit.webm", "result.json", "results.png",
        "training.png"]
    found = report(tmp_path / "demo")
    assert len(found["rows"]) == 4 and 0 <= found["mean_J"] <= 1


def test_a_video_of_masks_gives_the_same_J(clip, segment, tmp_path):
    masks, J = [cv2.imread(str(f)) for f in sorted((clip / "truth").iterdir())], {}
    how = "--preset", "gwm", "--steps", 10, "--num-masks", 2, "--keep-network"
    for truth in (clip / "truth", film(tmp_path / "film.mp4", masks)):
        out, end = segment(clip / "frames", truth.stem, "--masks", truth, *how)
        assert end is None and "annotations are read as: " in out and ", F = " in out
        how = "--from", "truth/network.safetensors"
        J[truth.stem] = report(tmp_path / truth.stem)["J"]["mean"]
    assert J["film"] == pytest.approx(J["truth"], abs=.03) and J["truth"] > 0
    settings = report(tmp_path / "truth")["settings"]
    assert settings | dict(steps=10, num_masks=2) == settings


def test_several_clips_are_done_one_by_one(clip, segment, tmp_path):
    shutil.copytree(clip / "frames", tmp_path / "clips/c")
    shutil.copy(clip / "clip.mp4", tmp_path / "clips/b.mp4")
    (tmp_path / "clips/bad.mp4").write_text("no video")
    shutil.copytree(clip / "truth", tmp_path / "truth/c")
    film(tmp_path / "truth/b.mp4", [cv2.imread(str(f)) for f in sorted((clip / "truth").iterdir())])
    how = "clips", "--out", "clips/out", "--preset", "fast"
    out, end = segment(*how, "--masks", "truth")
    assert "3 clips (b, bad, c)" in out and end == "gwm_segment: 1 of 3 clips failed: bad"
    assert out.count("method: ") == 1
    assert all(report(tmp_path / "clips/out" / name)[m] for name in "bc" for m in "JF")
    assert not (tmp_path / "clips/out/bad").exists()
    shutil.rmtree(tmp_path / "clips/c")
    assert "2 clips (b, bad)" in segment(*how)[0]             # results of before are no clips


@pytest.mark.parametrize("w, h", [(200, 24), (24, 200), (1200, 20), (16, 16)])
def test_thin_and_tiny_clips(segment, call, tmp_path, w, h):
    "OpenCV itself crashes on them, and would take this process with it."
    clip = write_frames(tmp_path / "clip", [cv2.resize(f, (w, h)) for f in FRAMES[:4]])
    assert segment(clip, "out", "--preset", "fast")[1] is None
    assert cv2.imread(str(tmp_path / "out/00003.png"), 0).shape == (h, w)
    for preset in ("ultrafast", "medium"):
        assert call(gwm_flow, clip, "--out", preset, "--preset", preset)[1] is None


@pytest.fixture(scope="module")
def damaged(clip, tmp_path_factory):
    "A folder of inputs that can't be used; `frames` and `truth` can."
    root = tmp_path_factory.mktemp("damaged")
    shutil.copytree(clip, root, dirs_exist_ok=True)
    write_frames(root / "mixed", [*FRAMES[:3], FRAMES[3, :40, :60]])
    masks = [cv2.imread(str(f), 0) for f in sorted((root / "truth").iterdir())]
    write_frames(root / "shifted", masks, first=1)
    write_frames(root / "half", [m[::2, ::2] for m in masks])
    film(root / "single.mp4", FRAMES[:1])
    (root / "demo").mkdir()
    for file in ("file", "demo/training.png"):
        (root / file).write_text("no video")
    return root


@pytest.mark.parametrize("argv, said", [line.split(" -> ") for line in """
single.mp4 -> 1 frame
mixed -> 60x40
frames --preset gwm --basis cubic -> quadratic
frames --out frames -> another folder
frames --masks truth --out truth -> another folder
frames --masks single.mp4 -> 1 masks
frames --masks shifted -> named 00001 to 00008, frames 00000 to 00007
frames --masks half -> half/00000.png is 48x32, its frame 96x64
frames --preset gwm --pretrained imagenet -> 'offline'
frames --features resnot18 -> did you mean
frames --preset gwm --num-masks 100000 -> from 2 to 64
frames --out mixed -> choose another folder
frames --preset gmw -> did you mean 'gwm'
frames --outputs masks mp3 -> webm
frames --objects many -> 'auto' or a number
frames --start soon -> 1:05
frames --start 50 -> none of its 8 frames
clip.mp4 --fps 5 -> its own frame rate
frames --preset gwm --polish flow -> single frames
gwm_demo --out demo -> training.png
""".strip().splitlines()])
def test_wrong_input_gives_one_line_and_leaves_nothing(damaged, call, monkeypatch, argv, said):
    def never(*args, **kwargs): raise AssertionError("work before the inputs were checked")
    for name in ("methods.fit", "methods.choose_in_clip", "methods.refine_windows"):
        monkeypatch.setattr(f"gwm_nb.{name}", never)
    before = sorted(damaged.rglob("*"))
    run = gwm_demo if argv.startswith("gwm_demo") else gwm_segment
    argv = argv.split()[run is gwm_demo:] + ["--out", "new/out"] * ("--out" not in argv)
    out, end = call(run, *argv, cwd=damaged)
    assert said in end and sorted(damaged.rglob("*")) == before
    assert out == "" or run is gwm_segment and not {"gmw", "mp3"} & set(argv)


def test_interrupt_leaves_nothing(clip, tmp_path):
    argv = clip / "frames", "out", "--preset", "gwm", "--steps", "100000"
    undo = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)       # a background job ignores it
    running = subprocess.Popen([sys.executable, "-c", SEGMENT, *argv], cwd=tmp_path, text=True,
                               stderr=subprocess.PIPE, preexec_fn=undo)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(.1)
    time.sleep(2)
    running.send_signal(signal.SIGINT)
    errors = running.communicate(timeout=60)[1]
    assert running.returncode == 1 and "interrupted" in errors.splitlines()[-1]
    assert "Traceback" not in errors and not (tmp_path / "out").exists()


HEAVY = ("timm", "kornia", "matplotlib", "accelerate", "zarr", "torchvision", "sklearn",
         "huggingface_hub.file_download")
MISTAKES = ["nowhere.mp4", "clip --preset gwm --num-masks 1", "clip --steps 3", "clip --out file",
            "clip --preset gwm --basis cubic", "clip --preset gmw", "--bad"]


def test_a_mistake_is_told_before_anything_heavy_is_imported(tmp_path):
    "In one process, which would remember the first import of something heavy."
    write_frames(tmp_path / "clip", FRAMES)
    (tmp_path / "file").write_text("")
    names = "gwm_segment", "gwm_demo", "gwm_flow", "gwm_train", "gwm_evaluate"
    light = [*((name, argv) for name in names for argv in ("--help", "--version", "--outt")),
             ("gwm_segment", "nowhere.mp4"), ("gwm_train", "--set optim.lrr=1")]
    calls = [*light, *(("gwm_segment", argv) for argv in MISTAKES), ("gwm_flow", "nowhere"),
             ("gwm_flow", "clip --preset slow")]
    code = f"""if True:
        import sys
        from gwm_nb import commands
        for n, (name, argv) in enumerate({calls}):
            sys.argv = [name, *argv.split()]
            try: getattr(commands, name)()
            except SystemExit as stop: print("END", name, argv, bool(stop.code))
            heavy = [m for m in {HEAVY} + ("torch",) * (n < {len(light)}) if m in sys.modules]
            if heavy: sys.exit(f"{{name}} {{argv}} imports {{heavy}}")"""
    done = process(code=code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, argv in calls:
        assert f"END {name} {argv} {argv not in ('--help', '--version')}\n" in done.stdout
        assert argv != "--version" or f"{name} {__version__}\n" in done.stdout


def test_places_and_names_of_options(call):
    @command(trained=dict(option_strings=["--from"]), out=dict(place=True))
    def tool(clip: str, # what
             out: str = "there", # where
             trained: str = "", # by what
             num_masks: int = 4): # how many
        "A tool."
        if clip == "disk": raise OSError(28, "No space left on device", "file.bin")
        print(clip, out, trained, *[num_masks] * (num_masks != 4))
    assert call(tool, "disk")[1].endswith("file.bin: No space left on device")
    assert call(tool, "--num_masks=3", "a_b")[0] == call(tool, "a_b", "--num", "3")[0]
    assert "--num-masks" in call(tool, "a", "--num-masks", "x")[1]
    told = call(tool, "--help")[0]
    assert all(w in told for w in ("--num-masks", "by what", "A tool.", "4)"))
    assert "num_masks " not in told and told.count("(default") == 2     # an empty one is not told
    for argv in (("a", "b"), ("a", "--out", "b"), ("--out=b", "a")):
        assert call(tool, *argv) == ("a b \n", None)
    assert call(tool, "a", "--from", "x.pth") == ("a there x.pth\n", None)
    assert call(tool, "a", "--out=~/b")[0] == f"a {os.path.expanduser('~')}/b \n"
    for argv in ("a b --out c", "a --out=", "a --outt b"):
        assert "see tool --help" in call(tool, *argv.split())[1]
    assert "empty" in call(tool, "", "b")[1] and "empty" in call(tool, "a", "--out", "")[1]


def test_names_that_are_no_text_and_what_comes_before_the_first_bar(tmp_path):
    "A file's name is bytes; what a terminal can't show is no reason to stop. Nothing moves here."
    film(tmp_path / "cafe.mp4", FRAMES[:1].repeat(8, 0))
    os.rename(os.fsencode(tmp_path / "cafe.mp4"), os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    argv = b"caf\xe9.mp4", b"out", b"--preset", b"fast"
    done = process(*argv, cwd=tmp_path, text=False, stderr=subprocess.STDOUT)
    method, place, *rest = done.stdout.splitlines()
    assert done.returncode == 0 and method.startswith(b"method: ")
    assert place.startswith(b"segmenting caf") and place.endswith(b" into out")
    note, = report(tmp_path / "out")["notes"]
    assert "no motion" in note and any(line.endswith(note.encode()) for line in rest)


def test_a_closed_stderr_is_no_reason_to_stop(clip, tmp_path):
    shell = f'{sys.executable} -c "{SEGMENT}" {clip / "frames"} out --preset fast --end 3 2>&-'
    done = subprocess.run(shell, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and report(tmp_path / "out")["frames"] == 3


@pytest.mark.parametrize("room", ["segment", "videos", "runs", "benchmarks"])
def test_rooms_run_as_programs(room):
    argv = [sys.executable, "-m", f"gwm_nb.{room}", "x", "--outt"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1 and "--outt" in done.stderr and done.stderr.count("\n") == 1


def test_the_cache_has_a_limit_and_can_be_cleared(clip, call, tmp_path, monkeypatch):
    monkeypatch.setenv("GWM_CACHE", str(tmp_path / "cache"))
    clips = find_clips(clip / "frames")
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
    assert "0 flow stores removed" in call(gwm_flow, "--clear-cache")[0]     # still in use
    monkeypatch.setenv("GWM_CACHE_LIMIT", "much")
    refused(lambda: cached_store(clips, FlowSettings((32, 48))), says="GWM_CACHE_LIMIT .*'much'")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gwm", "fast", "default"])
def test_memory_does_not_grow_with_length(tmp_path, preset):
    steps = ", steps=20" if preset == "gwm" else ""
    code = ("import resource, sys\nfrom gwm_nb.segment import segment\n"
            f"segment(sys.argv[1], 'out', preset={preset!r}{steps})\n"
            "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)")
    peaks = []
    for name, n in (("short.mp4", 50), ("long.mp4", 5000)):
        write_video(tmp_path / name, n, size=(64, 96), draw=lambda t: np.roll(FRAMES[t % 8], t, 1))
        done = process(name, cwd=tmp_path, code=code)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(float(done.stdout.rsplit("PEAK", 1)[1]))
    assert peaks[1] < peaks[0] + 200
