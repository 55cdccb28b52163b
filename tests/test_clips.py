"Clips as people have them: codecs, names, times, damage, shapes, colours, folders, and videos."
import gc
import io
import json
import os
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gwm_nb.clips import (Excerpt, clip_rate, count_frames, frame_size, missing_numbers, open_clip,
                          parse_moment, read_frames)
from gwm_nb.files import (by_number, find_clips, folder_bits, image_size, list_images, read_image,
                          read_mask, write_mask)
from gwm_nb.show import VideoWriter
from inputs import pattern, write_image, write_sound, write_video

H, W, N = 48, 64, 12
TICKS = np.cumsum([0, 1, 1, 6, 1, 1, 6, 1, 1, 6, 1, 1]).tolist()
UNEVEN = dict(rate=30, pts=TICKS, tick=Fraction(1, 30))


def images(path): return torch.stack([image for _, image in read_frames(path)])


def bar(image): return int(image[:, -4:].float().sum((0, 1)).unfold(0, 8, 1).sum(-1).argmax()) // 3


def encoded(pixels, form, **options):
    return av.VideoFrame.from_ndarray(pixels, format=form).reformat(**options)


def packets(path, kind="video"):
    "Place and size of each packet of a file."
    with av.open(str(path)) as f:
        return [(p.pos, p.size) for p in f.demux(**{kind: 0}) if p.size]


def broken(path, target, first, last, kind="video"):
    "A copy in which these packets are zeros."
    data = bytearray(path.read_bytes())
    for start, size in packets(path, kind)[first:last]:
        data[start : start + size] = bytes(size)
    target.write_bytes(data)
    return target


def turned(source, target, a, b, c, d):
    "A copy of an .mp4 that says: show the pixel (x,y) at (ax+cy, bx+dy)."
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 44
    matrix = a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30
    data[start : start + 36] = struct.pack(">9i", *matrix)
    target.write_bytes(data)
    return target


# ---- videos

H265 = {"x265-params": "log-level=none"}
KINDS = [
    ("a.mp4", "libsvtav1", "yuv420p", dict(preset="12")), ("a.webm", "libvpx-vp9", "yuv420p", {}),
    ("b.webm", "libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
    ("h10.mov", "libx265", "yuv420p10le", H265), ("p.mov", "prores_ks", "yuv422p10le", {}),
    ("m.mov", "mjpeg", "yuvj420p", {}), ("f.mkv", "ffv1", "yuv444p12le", {}),
    ("g.gif", "gif", "rgb8", {}), ("t.m2ts", "libx264", "yuv420p", {}),
    ("g.3gp", "libx264", "yuv420p", {}), ("f.flv", "libx264", "yuv420p", {}),
    ("w.wmv", "wmv2", "yuv420p", {}), ("x.mxf", "mpeg2video", "yuv420p", {}),
    ("r.h264", "libx264", "yuv420p", {}), ("b.avi", "libx264", "yuv420p", dict(bf="3")),
    ("x.avi", "mpeg4", "yuv420p", dict(bf="2")), ("q.mov", "qtrle", "rgb24", {}),
    ("i.ivf", "libvpx-vp9", "yuv420p", {}), ("n.mpg", "mpeg2video", "yuv420p", dict(bf="2"))]


@pytest.mark.parametrize("name, codec, pix, options", KINDS, ids=[k[0] for k in KINDS])
def test_all_kinds_of_videos_are_found_and_read(tmp_path, name, codec, pix, options):
    size = (96, 128) if codec == "libsvtav1" else (H, W)
    write_video(tmp_path / name, codec=codec, pix=pix, size=size, **options)
    clip, = find_clips(tmp_path)
    frames = open_clip(clip.path)
    assert [bar(image) for _, image in frames] == list(range(N)) and frames.size == size
    assert list(frames.numbers) == list(range(N)) and frames.missing == frames.warnings == []
    assert frames.names() == [f"{t:05d}" for t in range(N)]
    assert np.allclose(frames.times, np.arange(N) / frames.rate, atol=.03)


DAMAGED = [("a.mp4", "libx264", {}), ("a.mkv", "libx264", {}), ("a.ts", "libx264", {}),
           ("a.avi", "mjpeg", {}), ("a.webm", "libvpx-vp9", {}),
           ("b.mp4", "libx265", {"x265-params": "keyint=5:bframes=0:log-level=none"})]


@pytest.mark.parametrize("name, codec, options", DAMAGED, ids=[d[0] for d in DAMAGED])
def test_frames_keep_their_numbers_when_others_are_damaged(tmp_path, capsys, name, codec, options):
    mux = dict(cluster_time_limit="200") if codec != "mjpeg" else {}       # for mkv and webm
    options = options or dict(g="5") | (dict(bf="0") if codec == "libx264" else {})
    pix = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = write_video(tmp_path / name, 20, codec, pix, mux=mux, **options)
    path = broken(whole, tmp_path / f"broken_{name}", 11, 15)
    clip, wanted = open_clip(path), dict(read_frames(whole))
    got = dict(clip)
    assert list(got) == [f"{t:05d}" for t in range(20) if not 11 <= t < 15]
    assert clip.missing == [11, 12, 13, 14] and list(clip.numbers) == [int(n) for n in got]
    assert all(torch.equal(got[n], wanted[n]) for n in got)
    line, = clip.warnings
    assert str(path) in line and "4 of 20 frames" in line and "11-14" in line
    assert count_frames(path) == 16 and capsys.readouterr().out == line + "\n"
    assert np.allclose(clip.times, np.array(clip.numbers) / 24, atol=.002)


@pytest.mark.parametrize("name, codec, pix", [("x.mp4", "libx264", "yuv420p"),
                                              ("x.avi", "mjpeg", "yuvj420p"),
                                              ("x.mpg", "mpeg1video", "yuv420p")])
def test_a_video_that_is_cut_off_gives_what_is_there(tmp_path, capfd, name, codec, pix):
    rng = np.random.default_rng(0)
    noisy = [pattern(t) // 2 + rng.integers(0, 60, (H, W, 3), np.uint8) for t in range(40)]
    mux = dict(movflags="faststart") if name.endswith("mp4") else {}
    whole = write_video(tmp_path / name, 40, codec, pix, 25, draw=noisy.__getitem__, mux=mux)
    assert count_frames(whole) == 40 and capfd.readouterr() == ("", "")
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    n, told = count_frames(cut), capfd.readouterr()
    assert 3 < n < 32 and len(images(cut)) == n and told.err == capfd.readouterr().err == ""
    if name == "x.mpg":                         # it has no index that could claim anything
        assert torch.equal(images(cut), images(whole)[:n])
    else:
        assert f"{cut}: only {n} of 40 frames" in told.out
        assert torch.equal(images(cut)[:n - 3], images(whole)[:n - 3])


def test_variable_and_high_rates(tmp_path, capsys):
    for name in ("a.mkv", "a.mp4"):
        clip = open_clip(write_video(tmp_path / name, **UNEVEN, audio=("aac", 3)))
        assert len(clip.names()) == N and np.allclose(clip.times, np.array(TICKS) / 30, atol=.001)
        assert list(clip.numbers) == list(range(N)) and clip.warnings == clip.missing == []
    for rate in (480, 1, Fraction(1, 2), Fraction(30000, 1001)):
        clip = open_clip(write_video(tmp_path / "r.mp4", rate=rate))
        assert clip.rate == pytest.approx(float(rate)) == clip_rate(tmp_path / "r.mp4")
        assert len(clip.names()) == N
        assert clip.times[-1] == pytest.approx(11 / float(rate), rel=1e-3)
    pause = dict(pts=[0, 24, 24 * 3600], tick=Fraction(1, 24))
    clip = open_clip(write_video(tmp_path / "p.mkv", 3, **pause))
    assert len(clip.names()) == 3 and clip.warnings == []
    assert clip.times == pytest.approx([0, 1, 3600])
    assert clip_rate(tmp_path) == 24 and capsys.readouterr().out == ""


def test_a_cover_is_not_the_clip(tmp_path):
    source = write_video(tmp_path / "a.mp4")
    with av.open(str(source)) as file, av.open(str(tmp_path / "cover.mp4"), "w") as out:
        cover = out.add_stream("mjpeg", rate=1, height=96, width=96, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        stream = out.add_stream_from_template(file.streams.video[0])
        out.mux(cover.encode(encoded(pattern(0, 96, 96), "rgb24", format="yuvj420p")))
        out.mux(cover.encode())
        for packet in file.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    clip = open_clip(tmp_path / "cover.mp4")
    assert clip.size == (H, W) and len(clip.names()) == N and clip.warnings == []


def test_of_several_videos_one_is_taken_with_a_word(tmp_path):
    with av.open(str(tmp_path / "two.mkv"), "w") as out:
        for h, w in ((24, 32), (H, W)):
            out.add_stream("ffv1", rate=24, height=h, width=w, pix_fmt="yuv444p")
        for s in out.streams.video:
            out.mux(s.encode(encoded(pattern(0, s.height, s.width), "rgb24", format="yuv444p")))
            out.mux(s.encode())
    clip = open_clip(tmp_path / "two.mkv")
    assert clip.names() == ["00000"] and clip.size == (24, 32)
    line, = clip.warnings
    assert "two.mkv: 2 videos" in line and "32x24" in line


def test_a_rotation_among_notes_that_nobody_knows_is_obeyed(tmp_path):
    "Images in a video that carry EXIF, as cameras write them."
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x010F], exif[0x0112] = "Camera", 6
    Image.fromarray(pattern(3)).save(data, "jpeg", quality=95, exif=exif)
    with av.open(str(tmp_path / "a.avi"), "w") as out:
        stream = out.add_stream("mjpeg", rate=24, height=H, width=W, pix_fmt="yuvj420p")
        out.start_encoding()
        packet = av.Packet(data.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
        out.mux(packet)
    with av.open(str(tmp_path / "a.avi")) as f:
        rotated = next(f.decode(video=0)).rotation
    wanted = torch.from_numpy(pattern(3)).permute(2, 0, 1).rot90(-1, (1, 2)).float()
    seen = images(tmp_path / "a.avi")[0].float()
    assert not rotated or (seen - wanted).abs().mean() < 6


def test_what_is_no_clip_is_one_line(tmp_path, capfd):
    whole = write_video(tmp_path / "whole.mp4")
    key = dict(encryption_key="0" * 32, encryption_kid="1" * 32)
    write_video(tmp_path / "secret.mp4", mux=key | dict(encryption_scheme="cenc-aes-ctr"))
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        out.mux(list(write_sound(out, "aac", 1)()))
    bare = bytearray(write_video(tmp_path / "bare.avi", 5, "mjpeg", "yuvj420p").read_bytes())
    start = bare.index(b"movi") + 4
    bare[start:] = bytes(b if i % 4096 < 8 else 0 for i, b in enumerate(bare[start:]))
    contents = {"empty.mp4": b"", "text.mp4": b"no video", "bare.avi": bare,
                "cut.mp4": whole.read_bytes()[:-300],                      # its index is at the end
                "list.txt": b"ffconcat version 1.0\nfile whole.mp4\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, says in {"sound.mp4": "not a readable video", "secret.mp4": "encrypted",
                       "list.txt": "not a readable|no frames", "empty.mp4": "empty",
                       "text.mp4": "not a readable video", "cut.mp4": "not a readable video",
                       "bare.avi": "no frames", "pipe.mp4": "neither a file nor a folder"}.items():
        with pytest.raises(ValueError, match=f"{name}: .*({says})") as e:
            count_frames(tmp_path / name)
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="pipe.mp4"):
        find_clips(tmp_path / "pipe.mp4")
    with pytest.raises(FileNotFoundError, match="missing.mp4"):
        list(read_frames(tmp_path / "missing.mp4"))
    assert capfd.readouterr() == ("", "")


def test_a_size_that_changes_is_named(tmp_path):
    first = write_video(tmp_path / "1.ts", 6, form="mpegts")
    second = write_video(tmp_path / "2.ts", 6, form="mpegts", size=(24, 32))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    for t in range(3):
        write_image(tmp_path / f"folder/{t:05d}.png", pattern(t)[: H - (t == 2)])
    for name, sizes in (("both.ts", "32x24.*64x48"), ("folder", "64x47.*64x48")):
        with pytest.raises(ValueError, match=f"{name}.*frame 0000.*{sizes}"):
            images(tmp_path / name)


TURNS = {"clockwise": ((0, 1, -1, 0), lambda x: x.rot90(-1, (2, 3))),
         "upside down": ((-1, 0, 0, -1), lambda x: x.rot90(2, (2, 3))),
         "mirrored": ((-1, 0, 0, 1), lambda x: x.flip(3)),
         "the other diagonal": ((0, -1, -1, 0), lambda x: x.mT.flip(2, 3))}


@pytest.mark.parametrize("turn", TURNS)
def test_a_video_is_read_as_it_is_shown(tmp_path, turn):
    "By the matrix in the file; a video like it is not turned again, and has its colours and shape."
    matrix, wanted = TURNS[turn]
    tags = dict(colorspace=9, color_range=1, color_primaries=9, color_trc=14)
    video = write_video(tmp_path / "a.mp4", bf="3", aspect=Fraction(4, 3), tags=tags)
    path = turned(video, tmp_path / "t.mp4", *matrix)
    shown = wanted(images(video))
    assert torch.equal(images(path), shown) and frame_size(path) == tuple(shown.shape[2:])
    clip, film = again(path, tmp_path / "film.mp4")
    assert clip.aspect == film.aspect == Fraction(4, 3)**(1 if matrix[0] else -1)
    assert film.size == clip.size and film.colour == clip.colour == tags
    assert (images(film.path).float() - shown).abs().mean() < 4


RECIPES = [(1, "itu709"), (5, "itu601"), (7, "smpte240m"), (9, av.video.reformatter.Colorspace(9))]


@pytest.mark.parametrize("matrix, recipe", RECIPES)
@pytest.mark.parametrize("range_, target, pix", [(1, "MPEG", "yuv444p"), (2, "JPEG", "yuv444p"),
                                                 (1, "MPEG", "yuv444p10le")])
def test_colours_come_back(tmp_path, matrix, recipe, range_, target, pix):
    colours = np.zeros((H, W, 3), np.uint8)
    colours[:, :20], colours[:, 20:40], colours[:, 40:] = (230, 30, 30), (20, 200, 60), 128
    frame = encoded(colours, "rgb24", format=pix, dst_colorspace=recipe, dst_color_range=target)
    write_video(tmp_path / "a.mkv", 1, "ffv1", pix, draw=lambda t: frame,
                tags=dict(colorspace=matrix, color_range=range_))
    found = images(tmp_path / "a.mkv")[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - colours).max() <= 2


@pytest.mark.parametrize("transfer, white, grey", [(16, .5807, .3816), (18, .75, .38)])
def test_bright_films_are_read_as_a_screen_shows_them(tmp_path, transfer, white, grey):
    "Paper white and a grey of a tenth of its light, as PQ and HLG keep them."
    pixels = np.zeros((H, W, 3))
    pixels[:, :20], pixels[:, 20:40] = white, grey
    frame = encoded((pixels * 65535).round().astype(np.uint16), "rgb48le", format="yuv444p10le",
                    dst_colorspace=av.video.reformatter.Colorspace(9), dst_color_range="MPEG")
    tags = dict(colorspace=9, color_primaries=9, color_trc=transfer, color_range=1)
    write_video(tmp_path / "a.mkv", 1, "ffv1", "yuv444p10le", draw=lambda t: frame, tags=tags)
    clip = open_clip(tmp_path / "a.mkv")
    (_, image), = clip
    assert image[:, 5, 5].float().std() < 2 and 225 < image[0, 5, 5] < 255
    assert 85 < image[0, 5, 30] < 110 and image[:, 5, 50].max() < 5
    assert set(clip.colour.values()) == {1} and "HDR" in clip.warnings[0]
    with VideoWriter(tmp_path / "film.mp4", like=clip) as out:
        out.add(torch.tensor([0, 177 / 255, 64 / 255])[:, None, None].expand(3, H, W))
    found = images(tmp_path / "film.mp4")[0, :, 5, 5]
    assert (found - torch.tensor([0, 177, 64])).abs().max() <= 4
    assert set(open_clip(tmp_path / "film.mp4").colour.values()) == {1}


def disc(t):
    y, x = np.mgrid[:96, :128]
    pixels = np.full((96, 128, 3), (60, 110, 60), np.uint8)
    pixels[(y - 48)**2 + (x - 24 - 6 * t)**2 < 400] = 210, 90, 50
    return pixels


def test_interlaced_films_show_one_moment_a_frame(tmp_path):
    "Each frame shows two moments: its even lines that of t, its odd lines that of t + 0.5."
    graph = av.filter.Graph()
    source = graph.add_buffer(width=128, height=96, format="yuv420p", time_base=Fraction(1, 25))
    parts = source, graph.add("setfield", "tff"), graph.add("buffersink")
    graph.link_nodes(*parts).configure()

    def woven(t):
        pixels = disc(t)
        pixels[1::2] = disc(t + .5)[1::2]
        graph.push(encoded(pixels, "rgb24", format="yuv420p"))
        return graph.pull()
    path = write_video(tmp_path / "a.ts", N, "mpeg2video", rate=25, size=(96, 128), draw=woven,
                       flags="+ilme+ildct", qscale="2")
    clip = open_clip(path)
    comb = lambda pixels, axis: np.abs(np.diff(np.asarray(pixels, float), 2, axis)).mean()
    combs = [comb(image, 1) for _, image in clip]
    with av.open(str(path)) as f:
        before = [comb(frame.to_ndarray(format="rgb24"), 0) for frame in f.decode(video=0)]
    assert max(combs) < .7 * min(before) and "interlaced" in clip.warnings[0]
    for n, image in clip:
        assert np.abs(image.permute(1, 2, 0).numpy() - disc(int(n)).astype(float)).mean() < 8
    assert clip.times == pytest.approx(np.arange(N) / 25, abs=1e-3)
    shown = [n for n, _ in Excerpt(path, start=3, end=8, every=2)]
    assert shown == ["00003", "00005", "00007"]


# ---- folders

ORDERS = [["1", "2", "10"], ["001", "002", "010"], ["frame1", "frame2", "frame10"],
          ["-10", "-1", "0", "2", "11"], ["f-1", "f-2", "f-10"], ["a_-1.5", "a_-0.5", "a_0.25"],
          ["0.25", "0.5", "2.75", "10.0"], ["1.9", "1.10", "1.11"], ["0.033", "0.067", "0.100"],
          ["2023-12-01", "2024-01-02", "2024-01-10"], ["img (1)", "img (2)", "img (10)"],
          ["2", "10", "a2", "A10", "b1c9", "b1c10"]]


@pytest.mark.parametrize("names", ORDERS, ids=lambda n: n[-1])
def test_numbers_in_names_are_numbers(tmp_path, names):
    for n in ("._5", *sorted(names)):
        (tmp_path / f"{n}.png").touch()
    (tmp_path / "3.png").mkdir()
    assert [f.stem for f in list_images(tmp_path)] == names
    assert [f.stem for f in by_number([Path(f"{n}.png") for n in reversed(names)])] == names


@pytest.mark.parametrize("names, gaps", [
    (["0", "1", "2", "5", "6"], [3, 4]), (["f007", "f008", "f010"], [9]),
    (["0", "5", "10", "20"], [15]), (["a_1_x", "a_2_x", "a_4_x"], [3]), (["a", "b"], []),
    (["1.5", "1.7", "2.1"], []), (["0", "33", "67", "100"], []), (["3"], []),
    (["1", "2", "3", "9" * 30], []), (["1", "1b"], [])], ids=str)
def test_gaps_in_numbers(names, gaps): assert missing_numbers(names) == gaps


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("form", ["png", "tif"])
def test_16_bit_pictures_have_the_scale_of_their_folder(tmp_path, form, bits):
    scale = (2**bits - 1) / 250
    for t, light in enumerate((.2, 1.)):
        pixels = (pattern(t) * light * scale).round().astype(np.uint16)
        write_image(tmp_path / f"{t}.{form}", pixels)
    read = images(tmp_path).float()
    for t, light in enumerate((.2, 1.)):
        wanted = pattern(t) * light * 255 / 250
        assert np.abs(read[t].permute(1, 2, 0).numpy() - wanted).max() <= 1
    assert folder_bits(list_images(tmp_path)) == bits


EXACT = dict(quality=100, subsampling=0)


@pytest.mark.parametrize("name, mode, options", [
    ("a.png", "L", {}), ("a.png", "LA", {}), ("a.png", "RGBA", {}), ("a.png", "P", {}),
    ("a.png", "1", {}), ("a.jpg", "CMYK", dict(quality=100)), ("a.tif", "CMYK", {}),
    ("a.bmp", "P", {}), ("a.webp", "RGB", dict(lossless=True)), ("a.gif", "P", {}),
    ("a.jpg", "RGB", EXACT | dict(progressive=True)), ("a.jp2", "RGB", {}), ("a.tga", "RGB", {}),
    ("a.avif", "RGB", dict(quality=100, subsampling="4:4:4")), ("a.qoi", "RGB", {})])
def test_what_pillow_reads_is_a_frame(tmp_path, name, mode, options):
    image = Image.fromarray(pattern(3))
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(tmp_path / name, **options)
    assert [f.name for f in list_images(tmp_path)] == [name]
    assert image_size(tmp_path / name) == (H, W)
    wanted = np.array(image.convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / name).permute(1, 2, 0).numpy() - wanted).mean() <= 2


@pytest.mark.parametrize("form", ["png", "tif", "jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_picture_is_read_as_it_is_shown(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{form}"
    Image.fromarray(pattern(0)).save(path, exif=exif)
    size = (W, H) if orientation > 4 else (H, W)
    assert image_size(path) == tuple(read_image(path).shape[1:]) == frame_size(tmp_path) == size


def test_pictures_that_can_not_be_read_are_refused_by_name(tmp_path, capfd):
    for name, kind in (("f.tif", np.float32), ("i.tif", np.int32)):
        Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: .*32-bit"):
            read_image(tmp_path / name)
    (tmp_path / "0.png").write_bytes(b"no image")
    for call in (read_image, read_mask):
        with pytest.raises(ValueError, match="0.png"):
            call(tmp_path / "0.png")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays/00000.npy", np.zeros(3))
    for call in (list_images, find_clips, frame_size, count_frames):
        with pytest.raises(ValueError, match="arrays: .*00000.npy"):
            call(tmp_path / "arrays")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", [".heic", ".npy"])
def test_frames_of_other_formats_are_named(tmp_path, ending):
    for t in range(8):
        write_image(tmp_path / f"f{t:03d}.png", pattern(t))
    for t in (2, 5):
        (tmp_path / f"f{t:03d}.png").rename(tmp_path / f"f{t:03d}{ending}")
    for name in ("notes.txt", "f003.txt", "Thumbs.db"):
        (tmp_path / name).write_text("")
    clip = open_clip(tmp_path)
    assert len(list(clip)) == 6 and len(clip.warnings) == 2
    assert f"2 files are left out (f002{ending}, f005{ending})" in clip.warnings[0]
    assert "2 of 8 frames are missing (2, 5)" in clip.warnings[1]
    part = Excerpt(tmp_path, start=3, end=5)
    assert len(list(part)) == 2 and not any("missing" in line for line in part.warnings)


@pytest.mark.parametrize("kind", ["png", "webp", "palette", "grey"])
def test_transparent_pixels_are_put_on_plain_grey(tmp_path, kind):
    hidden = np.random.default_rng(0).integers(0, 256, (H, W, 4), dtype=np.uint8)
    hidden[..., 3], hidden[:20, :20] = 0, (200, 40, 40, 255)
    image, path = Image.fromarray(hidden), tmp_path / f"0.{'webp' if kind == 'webp' else 'png'}"
    if kind == "palette":
        indices = np.where(hidden[..., 3] > 0, 1, hidden[..., 0] % 5 + 2)
        image = Image.fromarray(indices.astype(np.uint8))
        image.putpalette([0, 0, 0, 200, 40, 40, *range(15)])
        image.info["transparency"] = bytes([255, 255, 0, 0, 0, 0, 0])
    image = image.convert("LA") if kind == "grey" else image
    image.save(path, **(dict(lossless=True, exact=True) if kind == "webp" else {}))
    seen, colour = read_image(path), [88.] * 3 if kind == "grey" else [200., 40., 40.]
    assert (seen[:, 20:] == 128).all()
    assert (seen[:, :20, :20].float().mean((1, 2)) - torch.tensor(colour)).abs().max() < 2
    assert not read_mask(path)[20:].any()                         # hidden colours are no object


def test_half_transparent_pixels_mix_and_empty_opacity_is_none(tmp_path):
    for alpha, wanted in ((128, [164, 63, 114]), (0, [200, 0, 100])):
        Image.new("RGBA", (4, 4), (200, 0, 100, alpha)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == pytest.approx(wanted, abs=1)


# ---- animations, and files of several pages

def animation(path, **options):
    first, *others = [Image.fromarray(pattern(t)) for t in range(N)]
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize("name, options", [
    ("a.webp", dict(duration=40, lossless=True)), ("a.png", dict(duration=40)), ("a.tif", {}),
    ("a.avif", dict(duration=40, quality=95))])
def test_animations_are_clips(tmp_path, name, options):
    path = animation(tmp_path / name, **options)
    clip, = find_clips(tmp_path)
    frames = open_clip(path)
    assert clip.path == path and [bar(image) for _, image in frames] == list(range(N))
    assert frames.warnings == [] and frames.size == (H, W)
    assert frames.rate == (25 if "duration" in options else 24)
    assert frames.times == pytest.approx(np.arange(N) / frames.rate, abs=1e-6)
    assert [n for n, _ in Excerpt(path, start=2, end=8, every=3)] == ["00002", "00005"]
    _, film = again(path, tmp_path / "film.mp4")
    assert len(film.names()) == N and np.allclose(film.times, frames.times, atol=1e-3)


# ---- videos like a clip

def tracks(path):
    "Codec, bytes and seconds of the sound."
    with av.open(str(path)) as f:
        return [(s.codec_context.name, sum(p.size for p in f.demux(s)),
                 float((s.duration or 0) * s.time_base)) for s in f.streams.audio[:1]]


def again(source, target, **options):
    "A clip, and a video like it."
    clip = open_clip(source)
    with VideoWriter(target, like=clip, **options) as out:
        for _, image in clip:
            out.add(image / 255)
    film = open_clip(target)
    film.path = target
    film.names()                                       # which reads its times
    return clip, film


def same_times(film, clip, n=N):
    return len(film.names()) == n and np.allclose(film.times, clip.times, atol=1e-3)


@pytest.mark.parametrize("name, timing", [
    ("a.mkv", UNEVEN), ("a.mp4", UNEVEN), ("a.ts", UNEVEN), ("a.mp4", dict(rate=480)),
    ("a.mp4", dict(rate=1)), ("a.mp4", dict(rate=Fraction(24000, 1001)))])
def test_a_film_has_the_times_of_its_clip(tmp_path, name, timing):
    clip, film = again(write_video(tmp_path / name, **timing), tmp_path / "film.mp4")
    assert same_times(film, clip)
    with VideoWriter(tmp_path / "by_name.mp4", like=tmp_path / name) as out:
        for t in range(N):
            out.add(torch.zeros(3, H, W))
    assert same_times(open_clip(tmp_path / "by_name.mp4"), clip)


@pytest.mark.parametrize("name, codec, wanted", [
    ("a.mp4", "aac", "aac"), ("a.ts", "aac", "aac"), ("a.mkv", "libopus", "opus"),
    ("a.mkv", "libmp3lame", "mp3"), ("a.mov", "pcm_s16le", "aac"), ("a.mkv", "flac", "flac")])
def test_a_film_has_the_sound_of_its_clip(tmp_path, name, codec, wanted):
    source = write_video(tmp_path / name, audio=(codec, 2))
    again(source, tmp_path / "film.mp4")
    (kind, size, seconds), (_, before, _) = tracks(tmp_path / "film.mp4")[0], tracks(source)[0]
    assert kind.startswith(wanted) and seconds == pytest.approx(2, abs=.1)
    if wanted in codec:
        assert size == pytest.approx(before, abs=7 * 110)     # the packets, without ADTS's heads
    _, film = again(source, tmp_path / "silent.mp4", sound=False)
    assert tracks(tmp_path / "silent.mp4") == [] and len(film.names()) == N


def test_a_film_of_a_folder_of_odd_size(tmp_path):
    for t in range(3):
        write_image(tmp_path / f"{t}.png", pattern(t)[:47, :63])
    clip, film = again(tmp_path, tmp_path / "film.mp4")
    assert film.size == (48, 64) and np.allclose(film.times, [0, 1 / 24, 2 / 24], atol=1e-4)
    with VideoWriter(tmp_path / "more.mp4", like=clip) as out:
        for t in range(5):
            out.add(torch.zeros(3, 8, 8))
    assert count_frames(tmp_path / "more.mp4") == 5


@pytest.mark.parametrize("starts", [(0, 10 / 24), (7200, 0), (95443, 95443 + 10 / 24), (5, 5, 5)],
                         ids=str)
def test_joined_broadcasts_are_one_clip(tmp_path, starts):
    "Parts of ten frames whose clocks begin at some second; one of them wraps after 26.5 hours."
    whole = b""
    for start in starts:
        sound = ("mp2", 10 / 24, start) if max(starts) < 90000 else None
        part = write_video(tmp_path / "part.ts", 10, pts=[round(start * 24) + t for t in range(10)],
                           tick=Fraction(1, 24), audio=sound, g="5")
        whole += part.read_bytes()
    (tmp_path / "joined.ts").write_bytes(whole)
    clip, n = open_clip(tmp_path / "joined.ts"), 10 * len(starts)
    assert [bar(image) for _, image in clip] == list(range(10)) * len(starts)
    assert clip.names() == [f"{t:05d}" for t in range(n)] and clip.missing == []
    assert np.diff(clip.times) == pytest.approx(np.full(n - 1, 1 / 24), abs=.03)
    if max(starts) < 90000:
        line, = clip.warnings
        assert "restart" in line
    clip, film = again(tmp_path / "joined.ts", tmp_path / "film.mp4")
    assert len(film.names()) == n and np.allclose(film.times, clip.times, atol=.002)
    if max(starts) < 90000:
        seconds = n / 24 if starts[0] < starts[-1] else film.times[-1]
        assert tracks(film.path)[0][2] == pytest.approx(seconds, abs=.3)


def test_no_fault_of_the_sound_costs_the_film(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", audio=("aac", 1))

    def fails(*_): raise av.error.InvalidDataError(1, "broken")
    for name in ("open_sound", "copied_sound"):
        with monkeypatch.context() as m:
            m.setattr(f"gwm_nb.show.{name}", fails)
            with VideoWriter(tmp_path / "film.mp4", like=path) as out:
                for t in range(N):
                    out.add(torch.zeros(3, H, W))
        assert count_frames(tmp_path / "film.mp4") == N
        assert "a.mp4" in out.warnings[0] and "broken" in out.warnings[0]


# ---- clips among other things

def test_results_are_no_clips(tmp_path):
    "In the folder of their video, below it, and of several runs."
    write_video(tmp_path / "my_clip.mp4")
    for folder in (tmp_path, tmp_path / "my_clip", tmp_path / "more/deep"):
        folder.mkdir(exist_ok=True, parents=True)
        for t in range(3):
            write_mask(folder / f"{t:05d}.png", torch.ones(4, 4))
        shutil.copy(tmp_path / "my_clip.mp4", folder / "overlay.mp4")
        files = [f"{t:05d}.png" for t in range(3)] + ["overlay.mp4", "result.json"]
        (folder / "result.json").write_text(json.dumps(dict(names=[], settings={}, files=files)))
    assert [c.path for c in find_clips(tmp_path)] == [tmp_path / "my_clip.mp4"]


def test_links_are_followed_once_and_a_folder_that_can_not_be_read_is_told(tmp_path, monkeypatch,
                                                                           capsys):
    for folder in ("a", "b/c", "locked"):
        for t in range(3):
            write_image(tmp_path / folder / f"{t}.png", pattern(t))
    for target, link in ((".", "zz"), ("..", "b/up"), ("a", "d"), ("self", "self")):
        (tmp_path / link).symlink_to(target)
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert [c.name for c in find_clips(tmp_path)] == ["a", "b/c"]
    out = capsys.readouterr().out
    assert "locked" in out and "Permission denied" in out and out.count("\n") == 1
    with pytest.raises(PermissionError):
        find_clips(tmp_path / "locked")


def test_clips_have_names_of_their_own(tmp_path):
    "Also beside posters, and where only their endings differ."
    for call in (find_clips, list_images):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            call(tmp_path / "nowhere")
        with pytest.raises(ValueError, match=str(tmp_path)):
            call(tmp_path)
    write_video(tmp_path / "a2.mp4")
    for name in ("a10.mov", "b.mp4", "b.avi"):
        shutil.copy(tmp_path / "a2.mp4", tmp_path / name)
    for name in ("a2.jpg", "b.jpg"):
        write_image(tmp_path / name, pattern(0))
    assert [c.name for c in find_clips(tmp_path)] == ["a2", "a10", "b.avi", "b.mp4"]
    assert [c.path.name for c in find_clips(tmp_path, ["b.avi"])] == ["b.avi"]
    with pytest.raises(ValueError, match="'c'.*a2, a10, b"):
        find_clips(tmp_path, ["a2", "c"])
    write_image(tmp_path / "b.png", pattern(0))
    with pytest.raises(ValueError, match=r"\(b\)"):
        list_images(tmp_path)


def test_flows_of_the_published_layout(tmp_path):
    for folder in ("JPEGImages/480p/dog", "JPEGImages/1080p/dog", "Annotations/480p/dog",
                   "Flows_gap1/1080p/dog", "Flows_gap-2/dog", "Flows_gapx/dog"):
        for t in range(2):
            write_image(tmp_path / "D" / folder / f"{t}.png", pattern(t))
    clip, = find_clips(tmp_path)
    assert clip.name == "D/dog" and clip.path == tmp_path / "D/JPEGImages/480p/dog"
    assert clip.masks == tmp_path / "D/Annotations/480p/dog"
    flows = {1: tmp_path / "D/Flows_gap1/1080p/dog", -2: tmp_path / "D/Flows_gap-2/dog"}
    assert clip.flows == flows


# ---- parts of a clip

def click(samples): return np.where(abs(samples - 120500) < 500, np.sin(.3 * samples), 0)


def loudest(path):
    "Second at which the sound of a video is loudest."
    with av.open(str(path)) as f:
        parts = [(np.abs(a.to_ndarray()).max(), a.time) for a in f.decode(audio=0)]
    return max(parts)[1]


def test_a_film_of_an_excerpt_has_its_part_of_the_sound(tmp_path):
    "Of 4 s with a click at 2.5 s."
    source = write_video(tmp_path / "a.mp4", 40, rate=10, audio=("aac", 4, 0, click))
    clip = Excerpt(source, start="2s", end=35, every=5)
    with VideoWriter(tmp_path / "film.mp4", like=clip) as out:
        for _, image in clip:
            out.add(image / 255)
    film = open_clip(tmp_path / "film.mp4")
    assert list(clip.numbers) == [20, 25, 30] and len(film.names()) == 3
    assert np.allclose(film.times, [0, .5, 1], atol=1e-3)
    assert loudest(source) == pytest.approx(2.5, abs=.05)
    assert loudest(tmp_path / "film.mp4") == pytest.approx(.5, abs=.08)
    assert tracks(tmp_path / "film.mp4")[0][2] == pytest.approx(1.5, abs=.1)


def test_excerpts_of_videos_and_folders(tmp_path):
    video, folder = write_video(tmp_path / "a.mp4"), tmp_path / "folder"
    for t in range(N):
        write_image(folder / f"f{t:02d}.png", pattern(t))
    for path in (video, folder):
        clip = Excerpt(path, start=2, end=9, every=3, max_side=32)
        shown = dict(clip)
        assert list(clip.numbers) == [2, 5, 8] and clip.size == (24, 32) and clip.warnings == []
        assert all(i.shape == (3, 24, 32) for i in shown.values()) and clip.names() == list(shown)
        assert clip.rate == 8 and np.allclose(clip.times, [0, 3 / 24, 6 / 24], atol=1e-3)
        assert [n for n, _ in Excerpt(path)] == [n for n, _ in open_clip(path)]
        assert Excerpt(path, max_side=999).size == (H, W)
        for options, says in ((dict(start=50), "12 frames.* 0.5 s"),
                              (dict(start="1:05", every=2), "12 frames.* 0.5 s"),
                              (dict(start=6, end=3), "no frame")):
            with pytest.raises(ValueError, match=says):
                list(Excerpt(path, **options))
    slow = Excerpt(folder, fps=6, start="0.5s")
    assert len(dict(slow)) == N - 3 and slow.rate == 6 and slow.times[1] == pytest.approx(1 / 6)
    for options, says in ((dict(fps=6), "its own frame rate"), (dict(every=0), "every.*0"),
                          (dict(fps=float("nan")), "fps.*nan"), (dict(fps=0), "fps.*0"),
                          (dict(fps=1e300), "fps.*e.300")):
        with pytest.raises(ValueError, match=says):
            Excerpt(video, **options)


def test_damage_outside_of_an_excerpt_is_not_its_own(tmp_path):
    "And a video of a damaged clip has its true length."
    whole = write_video(tmp_path / "a.mp4", 24, g="5", bf="0")
    path = broken(whole, tmp_path / "b.mp4", 11, 15)
    _, film = again(path, tmp_path / "film.mp4")
    assert len(film.names()) == 20 and film.times[-1] == pytest.approx(23 / 24, abs=1e-3)
    torn = Excerpt(path, start=8, end=20)
    assert [int(n) for n, _ in torn] == [8, 9, 10, 15, 16, 17, 18, 19]
    assert "4 of" in torn.warnings[0] and torn.missing == [11, 12, 13, 14]
    torn.end = 11
    assert len(list(torn)) == 3 and torn.warnings == []


@pytest.mark.parametrize("text, moment", [("90", 90), (90, 90), ("3s", 3), ("2.5s", Fraction(5, 2)),
                                          ("1:05", 65), ("1:00:01.5", Fraction(7203, 2))])
def test_moments(text, moment):
    assert parse_moment(text) == moment and isinstance(parse_moment(text), int) == (moment == 90)


@pytest.mark.parametrize("text", ["", "soon", "-3", "1:-2", "1:2:3:4", "1/0s", "3.5"])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(ValueError, match=f"{text}.*90, 3s or 1:05"):
        parse_moment(text)


# ---- memory

def test_frames_go_when_nobody_wants_them(tmp_path):
    alive = lambda: sum(isinstance(o, av.VideoFrame) for o in gc.get_objects())
    frames = iter(open_clip(write_video(tmp_path / "a.mp4", n=40)))
    next(frames)
    open_files = len(os.listdir("/proc/self/fd"))
    gc.collect()
    gc.disable()                        # what lies in circles would stay
    try:
        for _ in frames:
            assert alive() <= 16        # the decoder may hand out a few at once
        with VideoWriter(tmp_path / "film.mp4") as film:
            for t in range(40):
                film.add(torch.from_numpy(pattern(t)).permute(2, 0, 1) / 255)
                assert alive() <= 16
        for _ in range(9):
            next(read_frames(tmp_path / "a.mp4"))          # a reader that stops early
        assert len(os.listdir("/proc/self/fd")) <= open_files
    finally:
        gc.enable()
