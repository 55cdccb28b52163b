"The command lines as a user meets them, with right and with wrong input."
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest
import torch

from gwm_nb import __version__
from gwm_nb.commands import command, gwm_demo, gwm_flow, gwm_segment, scene_video
from gwm_nb.files import find_clips
from gwm_nb.flow_files import write_flo
from gwm_nb.scenes import MovingScenes
from gwm_nb.show import VideoWriter
from gwm_nb.store import FlowSettings, cached_store
from inputs import frame_pixels, write_image, write_scene


def frames_of(seed):
    scene = MovingScenes(1, seed=seed, size=(64, 96)).scene(0)
    return np.stack([frame_pixels(scene, t) for t in range(8)])


FRAMES = frames_of(14)           # with the masks of `write_scene`


def folder(path, frames, first=0):
    for t, frame in enumerate(frames, first):
        write_image(path / f"{t:05d}.png", frame)
    return path


def film(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 24) as out:
        for f in frames:
            out.add(torch.from_numpy(np.ascontiguousarray(f)).permute(2, 0, 1) / 255)
    return path


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


def process(name, *argv, cwd, text=True, **options):
    "Run a command in a process of its own; returns the finished process."
    code = f"from gwm_nb.commands import {name}; {name}()"
    pipe = subprocess.PIPE
    options = dict(stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=text) | options
    return subprocess.run([sys.executable, "-c", code, *argv], cwd=cwd, **options)


def report(path): return json.loads((path / "result.json").read_text())


# ---- what is written

def test_folder_of_frames(clip, tmp_path):
    argv = clip / "frames", "out", "--masks", clip / "truth", "--preset", "gwm", "--steps", "3"
    done = process("gwm_segment", *argv, "--num-masks", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [f"{t:05d}.png" for t in range(8)]
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == sorted([*names, "overlay.mp4", "result.json"])
    masks = [cv2.imread(str(tmp_path / "out" / n), cv2.IMREAD_UNCHANGED) for n in names]
    assert all(m.shape == (64, 96) and set(np.unique(m)) <= {0, 255} for m in masks)
    found = report(tmp_path / "out")
    assert found["frames"] == 8 and [f"{n}.png" for n in found["J"]["frames"]] == names
    assert found["settings"] | dict(steps=3, num_masks=3) == found["settings"]
    truth = [cv2.imread(str(clip / "truth" / n), 0) > 0 for n in names]
    J = [(t & (m > 0)).sum() / max((t | (m > 0)).sum(), 1) for t, m in zip(truth, masks)]
    assert found["J"]["mean"] == pytest.approx(np.mean(J), abs=1e-6)
    assert "J = " in done.stdout and "out/overlay.mp4" in done.stdout


def test_video_file(clip, segment, tmp_path):
    assert segment(clip / "clip.mp4", "out", "--preset", "fast")[1] is None
    names = sorted(p.stem for p in (tmp_path / "out").glob("*.png"))
    assert names == [f"{t:05d}" for t in range(8)] and "J" not in report(tmp_path / "out")
    with av.open(str(tmp_path / "out/overlay.mp4")) as file:
        s = file.streams.video[0]
        kind = s.codec_context.name, s.codec_context.pix_fmt, s.frames, s.average_rate
        assert kind == ("h264", "yuv420p", 8, 24)


@pytest.mark.parametrize("full", [False, True])
def test_demo(clip, call, tmp_path, monkeypatch, full):
    "In small: a few scenes of a quarter of the size, and another clip."
    small = lambda n, **options: MovingScenes(min(n, 8), size=(48, 80), **options)
    example = lambda: (clip / "frames", clip / "truth")
    monkeypatch.setattr("gwm_nb.refine.example_clip", example)
    monkeypatch.setattr("gwm_nb.scenes.MovingScenes", small)
    monkeypatch.setattr(scene_video, "__defaults__", (4,))
    argv = "--out", "demo", "--steps", 2, "--preset", "fast", *["--full"] * full
    out, end = call(gwm_demo, *argv, cwd=tmp_path)
    files = ["clip.webp", "rabbit.png", "rabbit.webm", "result.json", "training.png"]
    files = sorted(files + ["overlay.mp4", "results.png"] * full)
    assert end is None and sorted(p.name for p in (tmp_path / "demo").iterdir()) == files
    assert "8 frames" in out and ("mean of three seeds: J" in out) == full
    assert "gwm_segment my_clip.mp4" in out.split("next:")[1] and "annotations" not in out
    found = report(tmp_path / "demo")
    assert len(found["rows"]) == (4 if full else 1) and 0 <= found["mean_J"] <= 1


def test_all_kinds_of_annotations_give_the_same_J(clip, segment, tmp_path):
    masks, J = [cv2.imread(str(f), 0) for f in sorted((clip / "truth").iterdir())], {}
    kinds = {"plain": masks, "ids of 16 bits": [(m > 0) * np.uint16(3) for m in masks],
             "alpha": [np.dstack([m, f]) for f, m in zip(FRAMES, masks)]}
    how = "--preset", "gwm", "--steps", 10, "--num-masks", 2, "--keep-network"
    for name, kind in kinds.items():
        truth = folder(tmp_path / f"truth {name}", kind)
        out, end = segment(clip / "frames", name, "--masks", truth, *how)
        assert end is None and "annotations are read as: " in out
        how = "--from", "plain/network.safetensors"
        J[name] = report(tmp_path / name)["J"]["mean"]
    assert len(set(J.values())) == 1 and J["plain"] > 0, J
    truth = film(tmp_path / "truth.mp4", [np.dstack([m] * 3) for m in masks])
    assert segment(clip / "frames", "film", "--masks", truth, *how)[1] is None
    assert report(tmp_path / "film")["J"]["mean"] == pytest.approx(J["plain"], abs=.03)


def test_several_clips_are_done_one_by_one(clip, segment, tmp_path):
    film(tmp_path / "clips/b.mp4", FRAMES), folder(tmp_path / "clips/c", FRAMES)
    (tmp_path / "clips/bad.mp4").write_text("no video")
    for name in "bc":
        shutil.copytree(clip / "truth", tmp_path / "truth" / name)
    how = "clips", "--out", "clips/out", "--preset", "fast"
    out, end = segment(*how, "--masks", "truth")
    assert "3 clips (b, bad, c)" in out and end == "gwm_segment: 1 of 3 clips failed: bad"
    assert out.count("method: ") == 1
    assert all(report(tmp_path / "clips/out" / name)["J"] for name in "bc")
    assert not (tmp_path / "clips/out/bad").exists()
    shutil.rmtree(tmp_path / "clips/c")
    assert "2 clips (b, bad)" in segment(*how)[0]             # results of before are no clips


FADING = np.stack([f * (1 - t / 8) for t, f in enumerate(FRAMES)]).astype(np.uint8)
CUT = np.concatenate([FRAMES[:4], frames_of(9)[:4]])


@pytest.mark.parametrize("frames, says", [
    (np.repeat(FRAMES[:1], 8, 0), "no motion"), (FRAMES * 0, "black"), (FADING, "brightness"),
    (np.repeat(FRAMES, 2, 0), "8 of 16 frames repeat"), (CUT, "cut before frame 00004"),
    (FRAMES, None)], ids=["still", "black", "fading", "doubled", "cut", "good"])
def test_what_spoils_a_clip_is_printed_and_noted(segment, tmp_path, frames, says):
    out, end = segment(folder(tmp_path / "clip", frames), "out", "--preset", "fast")
    notes = report(tmp_path / "out")["notes"]
    assert end is None and [says in note for note in notes[:1]] == [True] * bool(says)
    assert all(f"clip: {note}" in out for note in notes)


@pytest.mark.parametrize("w, h", [(200, 24), (24, 200), (1200, 20), (16, 16)])
def test_thin_and_tiny_clips(segment, tmp_path, w, h):
    clip = folder(tmp_path / "clip", [cv2.resize(f, (w, h)) for f in FRAMES[:4]])
    assert segment(clip, "out", "--preset", "fast")[1] is None
    assert cv2.imread(str(tmp_path / "out/00003.png"), 0).shape == (h, w)


# ---- wrong input

@pytest.fixture(scope="module")
def damaged(clip, tmp_path_factory):
    "A folder of inputs that can't be used; `frames` and `truth` can."
    root = tmp_path_factory.mktemp("damaged")
    for name in ("one", "mixed", "torn", "frames"):
        shutil.copytree(clip / "frames", root / name)
    for file in sorted((root / "one").iterdir())[1:]:
        file.unlink()
    write_image(root / "mixed/00003.png", np.zeros((40, 60, 3), np.uint8))
    (root / "torn/00002.png").write_bytes((root / "torn/00002.png").read_bytes()[:300])
    shutil.copytree(clip / "truth", root / "truth")
    masks = [cv2.imread(str(f), 0) for f in sorted((root / "truth").iterdir())]
    folder(root / "shifted", masks, first=1), folder(root / "half", [m[::2, ::2] for m in masks])
    (root / "empty").mkdir(), (root / "file").write_text(""), (root / "zero.mp4").write_text("")
    (root / "text.mp4").write_text("no video"), film(root / "single.mp4", FRAMES[:1])
    shutil.copy(clip / "clip.mp4", root / "clip.mp4")
    (root / "cut.mp4").write_bytes((clip / "clip.mp4").read_bytes()[:200])
    return root


@pytest.mark.parametrize("argv, said", [line.split(" -> ") for line in """
nowhere.mp4 -> nowhere.mp4
zero.mp4 -> zero.mp4
text.mp4 -> text.mp4
cut.mp4 -> cut.mp4
one -> 1 frame
single.mp4 -> 1 frame
mixed -> 60x40
empty -> no images
torn -> 00002.png
--seed 1 -> required: clip
frames --preset gwm --network resnot18 -> resnot18
frames --preset gwm --basis cubic -> quadratic
frames --method magic -> raft
frames --setps 3 -> --setps
frames --preset gwm --steps many -> many
frames --preset gwm --steps 0 -> at least 1 (got 0)
frames --preset gwm --steps -5 -> at least 1 (got -5)
frames --out file -> file exists
frames --out file/out -> Not a directory
frames --out frames -> another folder
frames --masks truth --out truth -> another folder
frames --out /proc/gwm -> /proc
frames --masks one2 -> one2
frames --masks empty -> no images
frames --masks single.mp4 -> 1 masks
frames --masks shifted -> named 00001 to 00008, frames 00000 to 00007
frames --masks half -> half/00000.png is 48x32, its frame 96x64
frames --preset gwm --pretrained offline -> 'small' has no
frames --preset gwm --pretrained imagenet -> 'offline'
frames --preset gwm --num-masks 100000 -> from 2 to 64
frames one --out two -> given twice
frames --out mixed -> choose another folder
frames --preset gmw -> did you mean 'gwm'
frames --steps 60 -> or use preset 'gwm'
frames --outputs masks mp3 -> webm
frames --objects many -> 'auto' or a number
frames --start soon -> 1:05
frames --start 50 -> none of its 8 frames
frames --every 0 -> at least 1 (got 0)
clip.mp4 --fps 5 -> its own frame rate
frames --polish guided -> or use preset 'gwm'
frames --preset gwm --polish flow -> single frames
frames --features resnot18 -> did you mean
frames --keep-network -> or use preset 'gwm'
frames --from DAVIS17 -> DAVIS17
""".strip().splitlines()])
def test_wrong_input_gives_one_line_and_leaves_nothing(damaged, call, monkeypatch, argv, said):
    def never(*args, **kwargs): raise AssertionError("work before the inputs were checked")
    for name in ("methods.fit", "methods.choose_in_clip", "methods.refine_windows"):
        monkeypatch.setattr(f"gwm_nb.{name}", never)
    before = sorted(damaged.rglob("*"))
    argv = argv.split() + ["--out", "new/out"] * ("--out" not in argv)
    assert said in call(gwm_segment, *argv, cwd=damaged)[1]
    assert sorted(damaged.rglob("*")) == before


def test_a_full_disk_is_found_before_any_work(segment, tmp_path, monkeypatch):
    full = lambda path: type("Full", (), dict(free=1000))
    monkeypatch.setattr("gwm_nb.store.shutil.disk_usage", full)
    assert "free" in segment(folder(tmp_path / "clip", FRAMES), "out")[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("run, argv, said", [
    (gwm_segment, "frames --preset gmw", "'gmw'"), (gwm_segment, "frames --outputs gif", "'gif'"),
    (gwm_segment, ". --preset gmw", "'gmw'"), (gwm_demo, "--out demo --preset gmw", "'gmw'"),
    (gwm_demo, "--out truth --steps 0", "at least 1")])
def test_names_are_checked_before_anything_is_printed(damaged, call, run, argv, said):
    out, end = call(run, *argv.split(), cwd=damaged)
    assert out == "" and end.count(said) == 1 and not (damaged / "gwm_out").exists()


def test_demo_refuses_foreign_files_before_the_work(call, tmp_path):
    (tmp_path / "demo").mkdir(), (tmp_path / "demo/training.png").write_text("mine")
    out, end = call(gwm_demo, "--out", "demo", "--steps", 2, cwd=tmp_path)
    assert out == "" and "training.png" in end


@pytest.mark.parametrize("argv", ["nowhere.mp4", "--bad"])
def test_exit_code_and_stderr_of_the_process(tmp_path, argv):
    done = process("gwm_segment", argv, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_interrupt_leaves_nothing(clip, tmp_path):
    code = "from gwm_nb.commands import gwm_segment; gwm_segment()"
    argv = clip / "frames", "out", "--preset", "gwm", "--steps", "100000"
    undo = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)       # a background job ignores it
    running = subprocess.Popen([sys.executable, "-c", code, *argv], cwd=tmp_path, text=True,
                               stderr=subprocess.PIPE, preexec_fn=undo)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(.1)
    time.sleep(2)
    running.send_signal(signal.SIGINT)
    errors = running.communicate(timeout=60)[1]
    assert running.returncode == 1 and "interrupted" in errors.splitlines()[-1]
    assert "Traceback" not in errors and not (tmp_path / "out").exists()


# ---- the language of the shell, and how fast it answers

HEAVY = ("timm", "kornia", "matplotlib", "accelerate", "zarr", "torchvision", "sklearn",
         "huggingface_hub.file_download")
MISTAKES = ["nowhere.mp4", "clip --preset gwm --num-masks 1", "clip --steps 3", "clip --out file",
            "clip --preset gwm --basis cubic", "clip --preset gmw", "--bad"]


def test_a_mistake_is_told_before_anything_heavy_is_imported(tmp_path):
    "In one process, which would remember the first import of something heavy."
    folder(tmp_path / "clip", FRAMES), (tmp_path / "file").write_text("")
    names = "gwm_segment", "gwm_demo", "gwm_flow", "gwm_train", "gwm_evaluate"
    light = [*((name, argv) for name in names for argv in ("--help", "--version", "--outt")),
             ("gwm_segment", "nowhere.mp4")]
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
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    for name, argv in calls:
        assert f"END {name} {argv} {argv not in ('--help', '--version')}\n" in done.stdout
        assert argv != "--version" or f"{name} {__version__}\n" in done.stdout


def test_a_word_comes_before_the_first_bar(tmp_path):
    folder(tmp_path / "clip", FRAMES)
    argv = "clip", "out", "--preset", "fast"
    done = process("gwm_segment", *argv, cwd=tmp_path, stderr=subprocess.STDOUT)
    first, second, *_ = done.stdout.splitlines()
    assert done.returncode == 0 and first.startswith("method: ")
    assert second == "segmenting clip into out"


def test_places_and_names_of_options(call):
    @command(trained=dict(option_strings=["--from"]), out=dict(place=True))
    def tool(clip: str, # what
             out: str = "there", # where
             num_masks: int = 2, # how many
             trained: str = ""): # by what
        "A tool."
        if num_masks == 2:
            return print(clip, out, trained)
        raise ValueError("num_masks must be at least 2\nand odd bytes \x1b[31m are not printed")
    for argv in (("a", "b"), ("a", "--out", "b"), ("--out=b", "a")):
        assert call(tool, *argv) == ("a b \n", None)
    assert call(tool, "a", "--from", "x.pth") == ("a there x.pth\n", None)
    for option in ("--num-masks", "--num_masks"):
        assert "at least 2 and odd bytes \\x1b[31m" in call(tool, "a", option, 1)[1]
    assert call(tool, "a", "--out=~/b")[0] == f"a {os.path.expanduser('~')}/b \n"
    for argv in ("a b --out c", "a --out=", "a --outt b"):
        assert "see tool --help" in call(tool, *argv.split())[1]
    assert "empty" in call(tool, "", "b")[1] and "empty" in call(tool, "a", "--out", "")[1]


def test_names_that_are_no_text(tmp_path):
    "The name of a file is bytes; a terminal that can't show it is no reason to stop."
    film(tmp_path / "cafe.mp4", FRAMES)
    os.rename(os.fsencode(tmp_path / "cafe.mp4"), os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    argv = b"caf\xe9.mp4", b"out", b"--preset", b"fast"
    done = process("gwm_segment", *argv, cwd=tmp_path, text=False)
    assert done.returncode == 0, done.stderr
    assert report(tmp_path / "out")["frames"] == 8


@pytest.mark.parametrize("room, name", [
    ("segment", "gwm_segment"), ("videos", "gwm_flow"),
    ("runs", "gwm_train"), ("benchmarks", "gwm_evaluate")])
def test_rooms_run_as_programs(room, name):
    argv = [sys.executable, "-m", f"gwm_nb.{room}", "x", "--outt"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1 and "--outt" in done.stderr
    assert done.stderr.startswith(f"{name}: ")


def test_a_closed_stderr_is_no_reason_to_stop(clip, tmp_path):
    code = "from gwm_nb.commands import gwm_segment; gwm_segment()"
    shell = f'{sys.executable} -c "{code}" {clip / "frames"} out --preset fast --end 3 2>&-'
    done = subprocess.run(shell, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and report(tmp_path / "out")["frames"] == 3


# ---- gwm_flow

@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_takes_thin_frames(call, tmp_path, preset):
    "OpenCV itself crashes on them, and would take this process with it."
    folder(tmp_path / "clip", [cv2.resize(f, (200, 24)) for f in FRAMES[:4]])
    out, end = call(gwm_flow, "clip", "--preset", preset, cwd=tmp_path)
    assert end is None and "complete" in out


@pytest.mark.parametrize("size, same", [((64, 104), False), ((30, 50), True), ((60, 100), True)])
def test_flow_files_of_other_proportions_are_refused_by_name(call, tmp_path, size, same):
    folder(tmp_path / "set/JPEGImages/a", [cv2.resize(f, (100, 60)) for f in FRAMES[:5]])
    for gap in (1, -1):
        place = tmp_path / f"set/Flows_gap{gap}/a"
        place.mkdir(parents=True)
        for t in range(max(0, -gap), 5 - max(0, gap)):
            write_flo(place / f"{t:05d}.flo", torch.zeros(2, *size))
    end = call(gwm_flow, "set", "--method", "files", "--gaps", "1", "-1", cwd=tmp_path)[1]
    assert end is None if same else ".flo: this flow is 104x64, its frames are 100x60" in end


# ---- the cache

def test_the_cache_has_a_limit_and_can_be_cleared(call, tmp_path, monkeypatch):
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
    assert "1 flow stores removed" in call(gwm_flow, "--clear-cache")[0]
    assert stores() == {third.folder.name} and third.image(0).any()         # still in use
    del third
    gc.collect()
    call(gwm_flow, "--clear-cache")
    assert stores() == set()
    monkeypatch.setenv("GWM_CACHE_LIMIT", "much")
    with pytest.raises(ValueError, match="GWM_CACHE_LIMIT .*'much'"):
        cached_store(clips, FlowSettings((32, 48)))


def test_what_killed_runs_leave_is_removed_by_the_next(clip, segment, tmp_path):
    (tmp_path / "out/.unfinished-xyz/soft-abc").mkdir(parents=True)
    assert segment(clip / "frames", "out", "--preset", "fast")[1] is None
    assert not [f for f in (tmp_path / "out").iterdir() if f.is_dir()]


# ---- memory

@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gwm", "fast", "default"])
def test_memory_does_not_grow_with_length(tmp_path, preset):
    steps = ", steps=20" if preset == "gwm" else ""
    code = ("import resource, sys\nfrom gwm_nb.segment import segment\n"
            f"segment(sys.argv[1], 'out', preset={preset!r}{steps})\n"
            "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)")
    peaks = []
    for name, n in (("short.mp4", 50), ("long.mp4", 5000)):
        film(tmp_path / name, (np.roll(FRAMES[t % 8], t, 1) for t in range(n)))
        done = subprocess.run([sys.executable, "-c", code, name], cwd=tmp_path, text=True,
                              capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(float(done.stdout.rsplit("PEAK", 1)[1]))
    print("peak of 50 and of 5,000 frames: {:.0f}, {:.0f} MB".format(*peaks))
    assert peaks[1] < peaks[0] + 200
