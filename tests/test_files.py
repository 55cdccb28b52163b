"What is written is whole, what is read is right, what goes wrong is named: the cases that no chapter has room for."
import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gwm_nb.clips import clip_rate, count_frames, frame_size, read_frames
from gwm_nb.commands import command
from gwm_nb.files import (find_clips, list_images, locked, output_folder, read_image, read_mask, readable_size, whole_file, write_mask, write_whole)
from gwm_nb.show import VideoWriter, masks_to_rgb, overlay

H, W = 48, 64


def pattern(t, h=H, w=W):
    "A frame (h,w,3) that is not its own mirror image, with a bright bar that moves."
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[: h // 2] = 200, 40, 40
    pixels[:, : w // 4] = 40, 40, 200
    pixels[-12:, 3 * t : 3 * t + 8] = 250
    return pixels


def write_video(path, n=12, codec="libx264", pix_fmt="yuv420p", tags=(), container=None, frames=None, **options):
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = W, H, pix_fmt
        for name, value in dict(tags).items():
            setattr(stream.codec_context, name, value)
        for picture in frames or (av.VideoFrame.from_ndarray(pattern(t), format="rgb24") for t in range(n)):
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path


def with_matrix(source, target, a, b, c, d):
    "A copy of an .mp4 that says: show the pixel (x,y) at (ax+cy, bx+dy)."
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def images(path): return torch.stack([image for _, image in read_frames(path)])


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    "Twelve frames, some of them described by later ones."
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", bf="3", crf="5")


def everything(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# ---- whole or not at all

@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), OSError("no number")])
def test_whole_file_leaves_the_old_file_and_nothing_behind(tmp_path, error):
    target = write_whole(tmp_path / "a.txt", b"old")
    with pytest.raises(type(error)):
        with whole_file(target) as part:
            assert part.parent == tmp_path and part.suffix == ".txt" and part.name.startswith(".")
            part.write_bytes(b"ne")
            raise error
    assert target.read_bytes() == b"old" and everything(tmp_path) == ["a.txt"]
    with whole_file(target) as part:
        part.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and everything(tmp_path) == ["a.txt"]


def test_a_full_disk_says_where(tmp_path, monkeypatch):
    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as e:
        write_whole(tmp_path / "a.bin", b"data")
    assert e.value.errno == errno.ENOSPC and e.value.filename == str(tmp_path / "a.bin") and everything(tmp_path) == []


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as e:
        with whole_file(tmp_path / "a.bin"):
            open(tmp_path / "other")
    assert e.value.filename == str(tmp_path / "other")
    with pytest.raises(FileNotFoundError) as e:
        write_whole(tmp_path / "nowhere/a.bin", b"")
    assert e.value.filename == str(tmp_path / "nowhere/a.bin")


HOLD = "import sys, time; from gwm_nb.files import {0}\nwith {0}(sys.argv[1]) as out:\n    {1}print('in', flush=True); time.sleep(60)"


def hold(name, path, first=""):
    "A process that is inside of `name(path)`."
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(name, first), str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    return process


def test_locked_excludes_a_second_process_until_it_is_gone(tmp_path):
    process = hold("locked", tmp_path / "store")
    try:
        with pytest.raises(ValueError, match="another program is at work"):
            with locked(tmp_path / "store", wait=False):
                pass
        with locked(tmp_path / "another", wait=False):
            pass
    finally:
        process.kill(), process.wait()
    with locked(tmp_path / "store", wait=False):
        assert everything(tmp_path) == [".store.lock"]
    assert everything(tmp_path) == []


def test_who_waits_gets_a_lock_of_its_own(tmp_path):
    "The file of a lock is removed while others wait for it; they must notice, and never hold two at once."
    code = ("import sys; from gwm_nb.files import locked\nfrom pathlib import Path\nn = Path(sys.argv[1])\n"
            "for _ in range(20):\n    with locked(n): n.write_text(str(int(n.read_text()) + 1))")
    (tmp_path / "n").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "n")]) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    assert (tmp_path / "n").read_text() == "40" and everything(tmp_path) == ["n"]


def test_output_folder_leaves_nothing_after_an_error(tmp_path):
    with pytest.raises(RuntimeError):
        with output_folder(tmp_path / "a/b") as out:
            (out / "x").write_text("half")
            raise RuntimeError
    assert everything(tmp_path) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyboardInterrupt):
        with output_folder(tmp_path / "a/b") as out:
            raise KeyboardInterrupt
    assert everything(tmp_path) == ["a"]


def test_output_folder_replaces_its_own_results_and_no_other_file(tmp_path):
    def write(*names):
        with output_folder(tmp_path) as out:
            for n in names:
                (out / n).write_text("mine")
            (out / "result.json").write_text(json.dumps(dict(files=[*names, "result.json", "../outside"])))

    outside = tmp_path.parent / "outside"
    outside.write_text("")
    write("0.png", "1.png")
    (tmp_path / "notes.txt").write_text("yours")
    write("0.png")
    assert everything(tmp_path) == ["0.png", "notes.txt", "result.json"] and outside.exists()
    with pytest.raises(ValueError, match="notes.txt is already there and not from an earlier run"):
        write("1.png", "notes.txt")
    assert everything(tmp_path) == ["0.png", "notes.txt", "result.json"] and (tmp_path / "notes.txt").read_text() == "yours"


@pytest.mark.parametrize("torn", ["{", "[]", '{"files": 3}', '{"files": [3]}', '{"other": []}'])
def test_a_report_that_is_none_lists_nothing(tmp_path, torn):
    (tmp_path / "result.json").write_text(torn)
    with output_folder(tmp_path) as out:
        (out / "x").write_text("")
    assert everything(tmp_path) == ["result.json", "x"]


def test_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="x exists and is not a folder"):
        with output_folder(tmp_path / "x"):
            pass


def test_a_killed_run_is_tidied_up_by_the_next_and_a_living_one_is_left_alone(tmp_path):
    process = hold("output_folder", tmp_path, "(out/'half').write_text(''); ")
    left = everything(tmp_path)
    assert len(left) == 3 and left[1].startswith(".unfinished-")
    try:
        with pytest.raises(ValueError, match="another program is at work in this folder"):
            with output_folder(tmp_path):
                pass
        assert everything(tmp_path) == left
    finally:
        process.send_signal(signal.SIGKILL), process.wait()
    with output_folder(tmp_path) as out:
        (out / "x").write_text("")
    assert everything(tmp_path) == ["x"]


def test_sizes_are_said_in_words():
    assert [readable_size(n) for n in (0, 1234567, 2.5e9)] == ["0.0 MB", "1.2 MB", "2.50 GB"]


# ---- pictures

def test_a_folder_that_can_not_be_a_clip_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no images in this folder"):
        list_images(tmp_path)
    for name in ("0.jpg", "0.png", ".1.png", "Thumbs.db"):
        cv2.imwrite(str(tmp_path / f"x{Path(name).suffix}"), pattern(0)) if name[0] == "0" else (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"several images share a name \(x\)"):
        list_images(tmp_path)


def test_numbers_are_compared_as_numbers(tmp_path):
    names = ["2.png", "10.png", "a2.png", "A10.png", "b1c9.png", "b1c10.png"]
    for n in reversed(names):
        (tmp_path / n).write_bytes(b"")
    assert [f.name for f in list_images(tmp_path)] == names


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_picture_that_is_none_is_named(tmp_path, content):
    (tmp_path / "0.png").write_bytes(content)
    for call in (read_image, read_mask):
        with pytest.raises(ValueError, match="0.png: not a readable image"):
            call(tmp_path / "0.png")
    with pytest.raises(ValueError, match="0.png: not a readable image"):
        frame_size(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_it_is_shown(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pattern(0)).save(tmp_path / "0.png", exif=exif)
    size = tuple(read_image(tmp_path / "0.png").shape[1:])
    assert frame_size(tmp_path) == size == ((W, H) if orientation > 4 else (H, W))


def test_masks_survive(tmp_path):
    mask = torch.rand(5, 7) > .5
    assert torch.equal(read_mask(write_mask(tmp_path / "m.png", mask)), mask.long())
    assert set(np.unique(cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_UNCHANGED))) <= {0, 255}


def test_a_frame_of_another_size_is_named(tmp_path):
    for t in range(3):
        cv2.imwrite(str(tmp_path / f"{t:05d}.png"), pattern(t)[: H - (t == 2)])
    for call in (lambda: list(read_frames(tmp_path)), lambda: frame_size(tmp_path)):
        with pytest.raises(ValueError, match="frame 00002 is 64x47, but frame 00000 is 64x48; all frames of a clip need the same size"):
            call()


# ---- videos

def test_frames_come_in_the_order_of_showing(video):
    with av.open(str(video)) as f:
        kept = [p.pts for p in f.demux(video=0) if p.pts is not None]
    assert kept != sorted(kept)                                     # else this video tests nothing
    wanted = torch.stack([torch.from_numpy(pattern(t)).permute(2, 0, 1) for t in range(12)]).float()
    distance = (images(video).float()[:, None] - wanted[None]).abs().mean((2, 3, 4))
    assert distance.argmin(1).tolist() == list(range(12)) and distance.diagonal().max() < 4
    assert [name for name, _ in read_frames(video)] == [f"{t:05d}" for t in range(12)]


TURNS = {"as it is": ((1, 0, 0, 1), lambda x: x), "clockwise": ((0, 1, -1, 0), lambda x: x.rot90(-1, (2, 3))),
         "counter-clockwise": ((0, -1, 1, 0), lambda x: x.rot90(1, (2, 3))), "upside down": ((-1, 0, 0, -1), lambda x: x.rot90(2, (2, 3))),
         "mirrored": ((-1, 0, 0, 1), lambda x: x.flip(3)), "flipped": ((1, 0, 0, -1), lambda x: x.flip(2)),
         "transposed": ((0, 1, 1, 0), lambda x: x.mT), "the other diagonal": ((0, -1, -1, 0), lambda x: x.mT.flip(2, 3))}


@pytest.mark.parametrize("turn", TURNS)
def test_a_video_is_read_as_it_is_shown(video, tmp_path, turn):
    "All frames, not only the first, by the matrix in the file."
    matrix, wanted = TURNS[turn]
    turned = with_matrix(video, tmp_path / "t.mp4", *matrix)
    assert torch.equal(images(turned), wanted(images(video)))
    assert frame_size(turned) == tuple(images(turned).shape[2:]) and count_frames(turned) == 12


def test_a_turned_video_is_what_opencv_shows(video, tmp_path):
    turned = with_matrix(video, tmp_path / "t.mp4", 0, 1, -1, 0)
    _, pixels = cv2.VideoCapture(str(turned)).read()
    assert torch.equal(images(turned)[0], torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1))


@pytest.mark.parametrize("codec, options", [("libx264", dict(qp="0")), ("libvpx-vp9", dict(crf="4", b="0"))])
@pytest.mark.parametrize("range_, levels", [(1, {16: 0, 126: 128, 235: 255}), (2, {0: 0, 128: 128, 255: 255})])
def test_black_and_white_of_both_ranges(tmp_path, range_, levels, codec, options):
    "Limited range keeps black as 16 and white as 235, full range as 0 and 255; read, both are 0 and 255."
    def frame(level):
        picture = av.VideoFrame(W, H, "yuv420p")
        for plane, value in zip(picture.planes, (level, 128, 128)):
            plane.update(bytes([value]) * plane.buffer_size)
        picture.color_range = range_
        return picture

    path = write_video(tmp_path / "grey.mkv", codec=codec, tags=dict(color_range=range_), frames=map(frame, levels), **options)
    for image, wanted in zip(images(path), levels.values()):
        assert (image.float() - wanted).abs().max() <= 1


def test_the_recipe_of_a_video_is_followed(tmp_path):
    "The same red by BT.601 and BT.709 are other numbers in the file, and the same colour when read."
    red = np.full((H, W, 3), (230, 30, 30), np.uint8)
    read = []
    for recipe, tag in (("itu601", 6), ("itu709", 1)):
        picture = av.VideoFrame.from_ndarray(red, format="rgb24").reformat(format="yuv420p", dst_colorspace=recipe)
        read.append(images(write_video(tmp_path / f"{recipe}.mp4", tags=dict(colorspace=tag), frames=[picture], qp="0"))[0, :, 20, 20])
    for colour in read:
        assert (colour - torch.tensor([230, 30, 30])).float().abs().max() <= 3


@pytest.mark.parametrize("name, codec, pix_fmt", [("x.mp4", "libx264", "yuv420p"), ("x.mkv", "libx264", "yuv420p"), ("x.avi", "mjpeg", "yuvj420p"),
                                                  ("x.mov", "mjpeg", "yuvj420p"), ("x.webm", "libvpx-vp9", "yuv420p"), ("x.mpg", "mpeg1video", "yuv420p")])
def test_a_video_that_is_cut_off_gives_what_is_there(tmp_path, capfd, name, codec, pix_fmt):
    rng = np.random.default_rng(0)
    noisy = [pattern(t) // 2 + rng.integers(0, 60, (H, W, 3), np.uint8) for t in range(40)]
    whole = write_video(tmp_path / name, codec=codec, pix_fmt=pix_fmt, container=dict(movflags="faststart") if name[-3:] in ("mp4", "mov") else {},
                        frames=[av.VideoFrame.from_ndarray(f, format="rgb24") for f in noisy])
    assert count_frames(whole) == len(images(whole)) == 40 and capfd.readouterr() == ("", "")
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    n = count_frames(cut)
    told = capfd.readouterr()
    assert 3 < n < 32 and len(images(cut)) == n and told.err == capfd.readouterr().err == ""
    if name != "x.mpg":                                                       # it has no index that could claim anything
        assert told.out == f"{cut}: only {n} of 40 frames can be decoded, the file seems to be cut off\n"
    known = n if name == "x.mpg" else n - 3                # else the last ones may be half there, or rest upon one that is, and nobody says so
    assert torch.equal(images(cut)[:known], images(whole)[:known])


def test_damage_in_the_middle_does_not_end_a_video(tmp_path):
    data = bytearray(write_video(tmp_path / "x.avi", 30, "mjpeg", "yuvj420p").read_bytes())
    start = data.index(b"\xff\xd8", len(data) // 2)
    end = data.index(b"\xff\xd9", start)
    data[start:end] = bytes(end - start)
    (tmp_path / "x.avi").write_bytes(data)
    assert count_frames(tmp_path / "x.avi") == len(images(tmp_path / "x.avi")) == 29


def test_what_is_no_video_is_named(tmp_path, video, capfd):
    (tmp_path / "text.mp4").write_text("no video"), (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-300])             # the index is at its end
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound)), out.mux(stream.encode())
    for name, message in {"text.mp4": "not a readable video", "empty.mp4": r"not a readable video \(the file is empty\)",
                          "cut.mp4": "not a readable video", "sound.mp4": "not a readable video"}.items():
        for call in (lambda p: list(read_frames(p)), count_frames, frame_size, clip_rate):
            with pytest.raises(ValueError, match=f"{name}: {message}"):
                call(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing.mp4: no such clip"):
        list(read_frames(tmp_path / "missing.mp4"))
    assert capfd.readouterr() == ("", "")


def test_a_video_without_a_frame_is_named(tmp_path):
    data = bytearray(write_video(tmp_path / "x.avi", 5, "mjpeg", "yuvj420p").read_bytes())
    start = data.index(b"movi") + 4
    data[start:] = bytes(b if i % 4096 < 8 else 0 for i, b in enumerate(data[start:]))
    (tmp_path / "x.avi").write_bytes(data)
    for call in (lambda p: list(read_frames(p)), count_frames):
        with pytest.raises(ValueError, match="x.avi: this video has no frames that can be decoded"):
            call(tmp_path / "x.avi")


def test_odd_names_are_files(tmp_path, video, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pipe:12:30.mp4", "100%d.mp4", "Ünïcode [1].mp4"):
        assert count_frames(shutil.copy(video, name)) == 12


def test_rate_of_a_clip(tmp_path, video):
    with VideoWriter(tmp_path / "film.mp4", 30000 / 1001) as out:
        for t in range(4):
            out.add(torch.rand(3, 32, 32))
    assert clip_rate(video) == 25 and clip_rate(tmp_path / "film.mp4") == pytest.approx(30000 / 1001, abs=1e-9) and clip_rate(tmp_path) == 24


def test_a_reader_that_stops_early_lets_go_of_the_file(video):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        next(read_frames(video))
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# ---- clips

def test_clips_that_are_missing_or_not_unique_are_named(tmp_path, video):
    with pytest.raises(FileNotFoundError, match="nowhere: no such clip"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no images in this folder, and no clips below it"):
        find_clips(tmp_path)
    for name in ("b.mp4", "a2.mp4", "a10.mov"):
        shutil.copy(video, tmp_path / name)
    assert [c.name for c in find_clips(tmp_path)] == ["a2", "a10", "b"] and [c.name for c in find_clips(tmp_path, ["b"])] == ["b"]
    with pytest.raises(ValueError, match="no clip 'c'; it has a2, a10, b"):
        find_clips(tmp_path, ["b", "c"])
    shutil.copy(video, tmp_path / "b.avi")
    assert [c.name for c in find_clips(tmp_path)][2:] == ["b.avi", "b.mp4"]


def test_flows_of_the_published_layout(tmp_path):
    for folder in ("JPEGImages/480p/dog", "JPEGImages/1080p/dog", "Annotations/480p/dog", "Flows_gap1/1080p/dog", "Flows_gap-2/dog", "Flows_gapx/dog"):
        (tmp_path / "D" / folder).mkdir(parents=True)
        for t in range(2):
            cv2.imwrite(str(tmp_path / "D" / folder / f"{t}.png"), pattern(t))
    clip, = find_clips(tmp_path)
    assert clip.name == "D/dog" and clip.path == tmp_path / "D/JPEGImages/480p/dog" and clip.masks == tmp_path / "D/Annotations/480p/dog"
    assert clip.flows == {1: tmp_path / "D/Flows_gap1/1080p/dog", -2: tmp_path / "D/Flows_gap-2/dog"}


def test_a_lock_where_nothing_can_be_written_is_an_error_at_once():
    with pytest.raises(OSError):
        with locked("/proc/gwm"):
            pass


# ---- commands

@command(pair=dict(nargs=2))
def tool(name: str, # whom
         num_masks: int = 4, # how many
         word: str = "", # anything
         pair: int = None): # two numbers
    "Does something."
    if num_masks < 2: raise ValueError("num_masks must be\nat least 2")
    if name == "disk": raise OSError(errno.ENOSPC, "No space left on device", "file.bin")
    if name == "stop": raise KeyboardInterrupt
    print(name, num_masks, pair)


@pytest.mark.parametrize("argv, printed", [("Ada", "Ada 4 None"), ("Ada --num-masks 3", "Ada 3 None"), ("--num_masks=3 a_b", "a_b 3 None"),
                                           ("Ada --num 3 --pair 1 2", "Ada 3 [1, 2]"), ("a --num_ma 5", "a 5 None")])
def test_a_command_takes_both_spellings(monkeypatch, capsys, argv, printed):
    monkeypatch.setattr(sys, "argv", ["tool", *argv.split()])
    tool()
    assert capsys.readouterr().out == printed + "\n"


@pytest.mark.parametrize("argv, line", [("", "tool: the following arguments are required: name (see tool --help)"), ("a --bad", "unrecognized arguments: --bad"),
                                        ("a --num_masks x", "--num-masks: invalid int value: 'x'"), ("a --num-masks 1", "tool: num_masks must be at least 2"),
                                        ("disk", "tool: file.bin: No space left on device"), ("stop", "tool: interrupted")])
def test_a_command_fails_in_one_line(monkeypatch, capfd, argv, line):
    monkeypatch.setattr(sys, "argv", ["tool", *argv.split()])
    with pytest.raises(SystemExit) as stop:
        tool()
    assert isinstance(stop.value.code, str) and line in stop.value.code and "\n" not in stop.value.code
    assert capfd.readouterr() == ("", "")


def test_a_command_helps_and_is_still_a_function(monkeypatch, capsys):
    tool("Ada", num_masks=2)
    assert capsys.readouterr().out == "Ada 2 None\n" and tool.__doc__ == "Does something."
    with pytest.raises(ValueError, match="at least 2"):
        tool("Ada", num_masks=1)
    monkeypatch.setattr(sys, "argv", ["tool", "--help"])
    with pytest.raises(SystemExit) as stop:
        tool()
    told = capsys.readouterr().out
    assert stop.value.code == 0 and "--num-masks" in told and "whom" in told and "Does something." in told and "num_masks " not in told
    assert "(default: 4)" in told and told.count("(default") == 1              # nothing is said of a default that is nothing


# ---- pictures and films to look at

def test_a_film_in_the_colours_that_were_meant(tmp_path):
    colours = torch.tensor([[1., 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1], [.5, .5, .5]])
    with VideoWriter(tmp_path / "c.mp4") as out:
        for colour in colours:
            out.add(colour[:, None, None].expand(3, 31, 33))
    assert (images(tmp_path / "c.mp4")[:, :, 16, 16] - colours * 255).abs().max() <= 2
    with av.open(str(tmp_path / "c.mp4")) as f:
        c = f.streams.video[0].codec_context
        assert (c.pix_fmt, c.colorspace, c.color_range, c.color_primaries, c.color_trc) == ("yuv420p", 1, 1, 1, 1) and (c.width, c.height) == (34, 32)


def test_a_film_that_fails_leaves_the_old_one(tmp_path):
    write_whole(tmp_path / "c.mp4", b"old")
    with pytest.raises(ValueError, match=r"a frame of \(40, 32\) after others of \(32, 32\)"):
        with VideoWriter(tmp_path / "c.mp4") as out:
            out.add(torch.rand(3, 32, 32)), out.add(torch.rand(3, 40, 32))
    assert everything(tmp_path) == ["c.mp4"] and (tmp_path / "c.mp4").read_bytes() == b"old"
    with pytest.raises(FileNotFoundError) as e:
        with VideoWriter(tmp_path / "nowhere/c.mp4"):
            pass
    assert e.value.filename == str(tmp_path / "nowhere/c.mp4")


@pytest.mark.parametrize("size", [(40, 60), (480, 700)])
def test_the_outline_runs_around_the_object(size):
    image, mask = torch.rand(3, *size), torch.zeros(size, dtype=torch.bool)
    mask[: size[0] // 2, size[1] // 4 : size[1] // 2] = True
    width = max(1, min(size) // 160)
    grown = torch.nn.functional.max_pool2d(mask[None].float(), 2 * width + 1, 1, width)[0] > 0
    result = overlay(image, mask, (0., 1., 0.))
    assert torch.equal(result[:, mask], image[:, mask]) and (result[:, grown & ~mask] == torch.tensor([[0.], [1.], [0.]])).all()
    torch.testing.assert_close(result[:, ~grown], image.mean(0)[~grown].expand(3, -1) * .45)


def test_masks_mix_their_colours():
    hard = torch.eye(12)[:, :, None]
    palette = masks_to_rgb(hard)
    assert torch.equal(palette[:, 0], palette[:, 10]) and not torch.equal(palette[:, 0], palette[:, 1])
    torch.testing.assert_close(masks_to_rgb(torch.full((2, 1, 1), .5))[:, 0, 0], (palette[:, 0, 0] + palette[:, 1, 0]) / 2)
