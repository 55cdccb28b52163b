"Every clip that people have: codecs, names, times, damage, shapes, colours, folders of every depth, and films written like them."
import gc
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gwm_nb.clips import (Excerpt, count_frames, frame_size, missing_numbers, open_clip, open_media, parse_moment,
                          read_frames)
from gwm_nb.files import (by_number, find_clips, folder_bits, image_size, list_images, read_image, read_mask, readable_name,
                          write_mask)
from gwm_nb.show import VideoWriter

H, W, N = 48, 64, 12


def pattern(t, h=H, w=W):
    "A frame (h,w,3) with a bright bar that moves."
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[: h // 2], pixels[:, : w // 4] = (200, 40, 40), (40, 40, 200)
    pixels[-h // 4 :, 3 * t % w : 3 * t % w + 8] = 250
    return pixels


def sound(file, codec, seconds, start=0):
    "A stream of sound, and its packets."
    stream = file.add_stream(codec, rate=48000, layout="mono")
    def packets():
        for k in range(int(start * 48000), int((start + seconds) * 48000), 960):
            form, kind = ("s16", np.int16) if codec.startswith("pcm") else ("fltp", np.float32)
            wave = np.sin(np.arange(k, k + 960) * 0.05) * (8000 if kind == np.int16 else 0.2)
            frame = av.AudioFrame.from_ndarray(wave.astype(kind)[None], format=form, layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, k, Fraction(1, 48000)
            yield from stream.encode(frame)
        yield from stream.encode()
    return packets


def write(path, n=N, codec="libx264", pix="yuv420p", rate=24, pts=None, tick=None, audio=None, container=None, tags=(), aspect=None, mux=None, size=(H, W), **options):
    "A video; `pts` in units of `tick`; `audio` is (codec, seconds)."
    with av.open(str(path), "w", format=container, options=mux or {}) as file:
        stream = file.add_stream(codec, rate=Fraction(rate).limit_denominator(100000), options=options)
        stream.height, stream.width = size
        stream.pix_fmt = pix
        if aspect: stream.codec_context.sample_aspect_ratio = aspect
        for name, value in dict(tags).items(): setattr(stream.codec_context, name, value)
        if tick: stream.codec_context.time_base = tick
        packets = sound(file, *audio) if audio else None
        for t in range(n):
            frame = av.VideoFrame.from_ndarray(pattern(t, *size), format="rgb24").reformat(format=pix)
            frame.pts, frame.time_base = (pts[t] if pts else t), tick or 1 / Fraction(rate).limit_denominator(100000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if packets: file.mux(list(packets()))
    return path


def images(path): return torch.stack([image for _, image in read_frames(path)])


def bar(image): return int(image[:, -4:].float().sum((0, 1)).unfold(0, 8, 1).sum(-1).argmax()) // 3


def broken(path, target, first, last):
    "A copy in which these packets are zeros."
    with av.open(str(path)) as f:
        places = [(p.pos, p.size) for p in f.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for start, size in places[first:last]: data[start : start + size] = bytes(size)
    target.write_bytes(data)
    return target


# ---- videos

KINDS = [("a.mp4", "libsvtav1", "yuv420p", dict(preset="12")), ("a.webm", "libvpx-vp9", "yuv420p", {}), ("b.webm", "libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
         ("h.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}), ("h10.mov", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}), ("p.mov", "prores_ks", "yuv422p10le", {}),
         ("m.mov", "mjpeg", "yuvj420p", {}), ("f.mkv", "ffv1", "yuv444p12le", {}), ("g.gif", "gif", "rgb8", {}), ("t.ts", "libx264", "yuv420p", {}), ("t.m2ts", "libx264", "yuv420p", {}),
         ("g.3gp", "libx264", "yuv420p", {}), ("f.flv", "libx264", "yuv420p", {}), ("w.wmv", "wmv2", "yuv420p", {}), ("x.mxf", "mpeg2video", "yuv420p", {}), ("r.h264", "libx264", "yuv420p", {}),
         ("b.avi", "libx264", "yuv420p", dict(bf="3")), ("x.avi", "mpeg4", "yuv420p", dict(bf="2")), ("q.mov", "qtrle", "rgb24", {}), ("i.ivf", "libvpx-vp9", "yuv420p", {}), ("n.mpg", "mpeg2video", "yuv420p", dict(bf="2"))]


@pytest.mark.parametrize("name, codec, pix, options", KINDS, ids=lambda v: v if isinstance(v, str) else "")
def test_all_kinds_of_videos_are_found_and_read(tmp_path, name, codec, pix, options):
    size = (96, 128) if codec == "libsvtav1" else (H, W)
    write(tmp_path / name, codec=codec, pix=pix, size=size, **options)
    clip, = find_clips(tmp_path)
    frames = open_clip(clip.path)
    assert [bar(image) for _, image in frames] == list(range(N)) and frames.size == size
    assert list(frames.numbers) == list(range(N)) and frames.missing == frames.warnings == [] and frames.names() == [f"{t:05d}" for t in range(N)]
    assert np.allclose(frames.times, np.arange(N) / frames.rate, atol=0.03)


@pytest.mark.parametrize("name", ["rec-12:30:05.mp4", "http:x.mp4", "100%d.mp4", "it's \"so\".mp4", "-rf.mp4", "x" * 200 + ".mp4", "caf\udce9.mp4", " .mp4", "новый [1]*?.mp4", "concat:a|b.mp4", "#1 & 2;.mp4"])
def test_any_name_is_a_file(tmp_path, name, monkeypatch):
    write(tmp_path / "plain.mp4")
    shutil.move(tmp_path / "plain.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (Path(name), tmp_path / name): assert count_frames(path) == N
    assert find_clips(tmp_path)[0].path == tmp_path / name and readable_name(name).encode()


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.avi", "libx264"), ("a.ts", "libx264"), ("a.flv", "libx264"), ("a.mp4", "libx265"), ("a.webm", "libvpx-vp9"), ("a.avi", "mjpeg")])
def test_frames_keep_their_numbers_when_others_are_damaged(tmp_path, capsys, name, codec):
    options = {"x265-params": "keyint=5:bframes=0:log-level=none"} if codec == "libx265" else dict(g="5") if codec == "mjpeg" else dict(g="5", bf="0")
    mux = dict(cluster_time_limit="200") if name[-3:] in ("mkv", "ebm") else {}          # after damage FFmpeg goes on with the next cluster
    whole = write(tmp_path / name, n=20, mux=mux, codec=codec, pix="yuvj420p" if codec == "mjpeg" else "yuv420p", **({"g": "5"} if "vp9" in codec else options))
    path = broken(whole, tmp_path / f"broken_{name}", 11, 15)
    clip, wanted = open_clip(path), dict(read_frames(whole))
    got = dict(clip)
    assert list(got) == [f"{t:05d}" for t in range(20) if not 11 <= t < 15] and clip.missing == [11, 12, 13, 14] and list(clip.numbers) == [int(n) for n in got]
    assert all(torch.equal(got[n], wanted[n]) for n in got)
    assert clip.warnings == [f"{path}: damaged, 4 of 20 frames are missing (11-14); the others keep their numbers"]
    assert count_frames(path) == 16 and capsys.readouterr().out == clip.warnings[0] + "\n"
    assert np.allclose(clip.times, np.array(clip.numbers) / 24, atol=0.002)


def test_damage_among_frames_that_rest_on_later_ones(tmp_path):
    "With b-frames the packets 6 to 9 are those of other numbers, which are the ones that are missing."
    whole = write(tmp_path / "a.mp4", n=30, g="10", bf="2")
    with av.open(str(whole)) as f: order = [round(float(p.pts * p.time_base) * 24) for p in f.demux(video=0) if p.size]
    clip = open_clip(broken(whole, tmp_path / "b.mp4", 17, 20))
    got = dict(clip)
    assert set(order[17:20]) <= set(clip.missing) and len(got) + len(clip.missing) == 30 and got.keys() <= dict(read_frames(whole)).keys()
    wanted = dict(read_frames(whole))
    assert all(torch.equal(got[f"{t:05d}"], wanted[f"{t:05d}"]) for t in (*range(16), *range(20, 30)))


def test_variable_and_high_rates(tmp_path, capsys):
    ticks = np.cumsum([0, 1, 1, 6, 1, 1, 6, 1, 1, 6, 1, 1]).tolist()
    for name in ("a.mkv", "a.mp4"):
        clip = open_clip(write(tmp_path / name, rate=30, pts=ticks, tick=Fraction(1, 30), audio=("aac", 3)))
        assert len(clip.names()) == N and np.allclose(clip.times, np.array(ticks) / 30, atol=0.001) and clip.warnings == clip.missing == []
        assert list(clip.numbers) == list(range(N))
    for rate in (480, 1, Fraction(1, 2), Fraction(30000, 1001)):
        clip = open_clip(write(tmp_path / "r.mp4", rate=rate))
        assert clip.rate == pytest.approx(float(rate)) and len(clip.names()) == N and clip.times[-1] == pytest.approx(11 / float(rate), rel=1e-3)
    assert count_frames(write(tmp_path / "s.mkv", audio=("aac", 5))) == N and capsys.readouterr().out == ""


def test_an_edit_list_is_obeyed(tmp_path):
    "A file that says: begin with the fifth frame."
    write(tmp_path / "a.mp4", g="1", bf="0")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"elst") + 12
    length, begin, _ = struct.unpack(">IiI", data[start : start + 12])
    data[start : start + 8] = struct.pack(">Ii", length * 8 // 12, begin + 4 * 512)
    (tmp_path / "b.mp4").write_bytes(data)
    clip = open_clip(tmp_path / "b.mp4")
    assert [bar(image) for _, image in clip] == list(range(4, 12)) and clip.warnings == [] and list(clip.numbers) == list(range(8))


def with_cover(path, target):
    "A copy with a picture attached, in front of the video."
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        cover = out.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 96, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = out.add_stream_from_template(source.streams.video[0])
        out.mux(cover.encode(av.VideoFrame.from_ndarray(pattern(0, 96, 96), format="rgb24").reformat(format="yuvj420p"))), out.mux(cover.encode())
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return target


def test_a_cover_is_not_the_clip(tmp_path):
    path = with_cover(write(tmp_path / "a.mp4"), tmp_path / "cover.mp4")
    with av.open(str(path)) as f: assert any(s.disposition & av.stream.Disposition.attached_pic for s in f.streams.video)
    clip = open_clip(path)
    assert clip.size == (H, W) and len(clip.names()) == N and clip.warnings == []


def test_of_several_videos_one_is_taken_with_a_word(tmp_path):
    with av.open(str(tmp_path / "two.mkv"), "w") as out:
        streams = [out.add_stream("libx264", rate=24) for _ in range(2)]
        for s, (h, w) in zip(streams, ((24, 32), (H, W))): s.height, s.width, s.pix_fmt = h, w, "yuv420p"
        for t in range(N):
            for s in streams: out.mux(s.encode(av.VideoFrame.from_ndarray(pattern(t, s.height, s.width), format="rgb24")))
        for s in streams: out.mux(s.encode())
    clip = open_clip(tmp_path / "two.mkv")
    assert len(clip.names()) == N and clip.size == (24, 32)
    assert clip.warnings == [f"{tmp_path}/two.mkv: 2 videos in one file; the one of 32x24 is taken"]


def test_what_is_no_clip_is_one_line(tmp_path, capfd):
    with av.open(str(tmp_path / "sound.mp4"), "w") as out: out.mux(list(sound(out, "aac", 1)()))
    write(tmp_path / "secret.mp4", mux=dict(encryption_scheme="cenc-aes-ctr", encryption_key="0" * 32, encryption_kid="1" * 32))
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile other.mp4\n")
    (tmp_path / "empty.mp4").write_bytes(b""), os.mkfifo(tmp_path / "pipe.mp4")
    for name, line in {"sound.mp4": "not a readable video .it has no video stream", "secret.mp4": "this video is encrypted", "list.m3u8": "not a readable", "list.txt": "not a readable|no frames",
                       "empty.mp4": "the file is empty", "pipe.mp4": "neither a file nor a folder"}.items():
        with pytest.raises(ValueError, match=f"{name}: .*({line})") as e: count_frames(tmp_path / name)
        assert "\n" not in str(e.value)
    assert capfd.readouterr() == ("", "")


def test_a_size_that_changes_is_named(tmp_path):
    first, second = write(tmp_path / "1.ts", 6, container="mpegts"), write(tmp_path / "2.ts", 6, container="mpegts", size=(24, 32))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(ValueError, match=r"both.ts: frame 0000\d is 32x24, but frame 00000 is 64x48; all frames"): images(tmp_path / "both.ts")


def test_pixels_that_are_not_square_and_tags(tmp_path):
    path = write(tmp_path / "a.mp4", aspect=Fraction(4, 3), tags=dict(colorspace=9, color_range=2, color_primaries=9, color_trc=14))
    clip = open_clip(path)
    assert clip.aspect == Fraction(4, 3) and clip.colour == dict(colorspace=9, color_range=2, color_primaries=9, color_trc=14)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    turned = open_clip(tmp_path / "turned.mp4")
    assert turned.aspect == Fraction(3, 4) and turned.size == (W, H) and frame_size(tmp_path / "turned.mp4") == (W, H)


@pytest.mark.parametrize("matrix, recipe", [(1, "itu709"), (5, "itu601"), (6, "itu601"), (7, "smpte240m"), (9, 9)])
@pytest.mark.parametrize("range_, target, pix", [(1, "MPEG", "yuv444p"), (2, "JPEG", "yuv444p"), (1, "MPEG", "yuv444p10le")])
def test_colours_come_back(tmp_path, matrix, recipe, range_, target, pix):
    colours = np.zeros((H, W, 3), np.uint8)
    colours[:, :20], colours[:, 20:40], colours[:, 40:] = (230, 30, 30), (20, 200, 60), (128, 128, 128)
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = H, W, pix
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, range_
        frame = av.VideoFrame.from_ndarray(colours, format="rgb24").reformat(format=pix, dst_colorspace=av.video.reformatter.Colorspace(recipe) if recipe == 9 else recipe, dst_color_range=target)
        out.mux(stream.encode(frame)), out.mux(stream.encode())
    assert (images(tmp_path / "a.mkv")[0].permute(1, 2, 0).numpy().astype(int) - colours).__abs__().max() <= 2


def test_memory_does_not_grow_with_length(tmp_path):
    "Peak of a process that reads 1000 frames of 320x240 (230 MB if kept), beside that of one that reads 50."
    peaks = []
    for n in (50, 1000):
        write(tmp_path / f"{n}.mp4", n, size=(240, 320), preset="ultrafast")
        code = f"import resource; from gwm_nb.clips import open_clip\nfor _ in open_clip({str(tmp_path / f'{n}.mp4')!r}): pass\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        peaks.append(int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 50_000, peaks


# ---- folders

ORDERS = [["1", "2", "10"], ["001", "002", "010"], ["frame1", "frame2", "frame10"], ["-10", "-1", "0", "2", "11"], ["f-1", "f-2", "f-10"], ["t-2", "t-1", "t0", "t10"], ["a_-1.5", "a_-0.5", "a_0.25"],
          ["0.25", "0.5", "2.75", "10.0"], ["1.9", "1.10", "1.11"], ["0.033", "0.067", "0.100"], ["shot1.00009", "shot1.00010"], ["2023-12-01", "2024-01-02", "2024-01-10"], ["img (1)", "img (2)", "img (10)"]]


@pytest.mark.parametrize("names", ORDERS, ids=lambda n: n[-1])
def test_numbers_in_names_are_numbers(tmp_path, names):
    for n in sorted(names): (tmp_path / f"{n}.png").touch()
    (tmp_path / "._5.png").touch(), (tmp_path / "3.png").mkdir()
    assert [f.stem for f in list_images(tmp_path)] == names
    assert [f.stem for f in by_number([Path(f"{n}.png") for n in reversed(names)])] == names


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["png", "tif", "ppm"])
def test_16_bit_pictures_have_the_scale_of_their_folder(tmp_path, form, bits):
    for t, light in enumerate((0.2, 1.0)):
        cv2.imwrite(str(tmp_path / f"{t}.{form}"), (pattern(t)[..., ::-1] * (light * (2**bits - 1) / 250)).round().astype(np.uint16))
    read = images(tmp_path).float()
    for t, light in enumerate((0.2, 1.0)): assert (read[t].permute(1, 2, 0).numpy() - pattern(t) * light * 255 / 250).__abs__().max() <= 1
    assert folder_bits(list_images(tmp_path)) == bits


def saved(path, **options):
    "A picture and what Pillow sees in it, in each way it can be kept."
    mode = options.pop("mode", "RGB")
    image = Image.fromarray(pattern(3)).convert(mode) if mode != "P" else Image.fromarray(pattern(3)).quantize(16)
    image.save(path, **options)
    return np.array(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("name, options", [("a.png", dict(mode="L")), ("a.png", dict(mode="LA")), ("a.png", dict(mode="RGBA")), ("a.png", dict(mode="P")), ("a.png", dict(mode="1")), ("a.jpg", dict(mode="CMYK", quality=100)),
                                           ("a.tif", dict(mode="CMYK")), ("a.tif", dict(mode="P")), ("a.bmp", dict(mode="P")), ("a.webp", dict(lossless=True)), ("a.jpg", dict(progressive=True, quality=100, subsampling=0))])
def test_pictures_of_every_mode(tmp_path, name, options):
    wanted = saved(tmp_path / name, **options)
    assert np.abs(read_image(tmp_path / name).permute(1, 2, 0).numpy() - wanted).mean() <= 2


@pytest.mark.parametrize("form", ["tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_other_formats(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pattern(0)).save(tmp_path / f"a.{form}", exif=exif)
    assert image_size(tmp_path / f"a.{form}") == tuple(read_image(tmp_path / f"a.{form}").shape[1:]) == ((W, H) if orientation > 4 else (H, W))


def test_pictures_without_a_scale_and_arrays_are_refused_by_name(tmp_path, capfd):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif"), Image.fromarray(np.ones((4, 4), np.int32)).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        with pytest.raises(ValueError, match=f"{name}: 32-bit image with unknown range"): read_image(tmp_path / name)
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays/00000.npy", np.zeros(3))
    for call in (list_images, find_clips, frame_size, count_frames):
        with pytest.raises(ValueError, match="no images in this folder.*00000.npy can not be read as a frame"): call(tmp_path / "arrays")
    assert capfd.readouterr() == ("", "")


# ---- films like a clip

def tracks(path):
    with av.open(str(path)) as f:
        sounds = [(s.codec_context.name, sum(p.size for p in f.demux(s)), float((s.duration or 0) * s.time_base)) for s in f.streams.audio[:1]]
    return sounds


def again(source, target, **options):
    clip = open_clip(source)
    with VideoWriter(target, like=clip, **options) as out:
        for _, image in clip: out.add(image / 255)
    return clip, open_clip(target)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.flv"])
def test_a_film_has_the_times_of_its_clip(tmp_path, name):
    ticks = np.cumsum([0, 1, 1, 6, 1, 1, 6, 1, 1, 6, 1, 1]).tolist()
    clip, film = again(write(tmp_path / name, rate=30, pts=ticks, tick=Fraction(1, 30)), tmp_path / "film.mp4")
    assert len(film.names()) == N and np.allclose(film.times, clip.times, atol=1e-4) and np.allclose(clip.times, np.array(ticks) / 30, atol=0.001)
    with VideoWriter(tmp_path / "by_name.mp4", like=tmp_path / name) as out:
        for t in range(N): out.add(torch.zeros(3, H, W))
    film = open_clip(tmp_path / "by_name.mp4")
    assert len(film.names()) == N and np.allclose(film.times, clip.times, atol=1e-4)


@pytest.mark.parametrize("rate", [480, 1, Fraction(24000, 1001), 59.94])
def test_a_film_has_the_rate_of_its_clip(tmp_path, rate):
    clip, film = again(write(tmp_path / "a.mp4", rate=rate), tmp_path / "film.mp4")
    assert film.rate == pytest.approx(clip.rate) and len(film.names()) == N and np.allclose(film.times, clip.times, atol=1e-4)


@pytest.mark.parametrize("tags", [dict(colorspace=9, color_range=1, color_primaries=9, color_trc=14), dict(colorspace=5, color_range=2, color_primaries=5, color_trc=6), dict(colorspace=1, color_range=2, color_primaries=1, color_trc=1)])
def test_a_film_has_the_colours_and_the_shape_of_its_clip(tmp_path, tags):
    clip, film = again(write(tmp_path / "a.mp4", tags=tags, aspect=Fraction(16, 11)), tmp_path / "film.mp4")
    assert film.colour == clip.colour == tags and film.aspect == clip.aspect == Fraction(16, 11)
    assert (images(tmp_path / "a.mp4").float() - images(tmp_path / "film.mp4").float()).abs().mean() < 4


@pytest.mark.parametrize("name, codec, wanted", [("a.mp4", "aac", "aac"), ("a.ts", "aac", "aac"), ("a.mkv", "libopus", "opus"), ("a.mkv", "libmp3lame", "mp3"), ("a.mov", "pcm_s16le", "aac"), ("a.avi", "pcm_s16le", "aac"), ("a.flv", "aac", "aac"), ("a.mkv", "flac", "flac")])
def test_a_film_has_the_sound_of_its_clip(tmp_path, name, codec, wanted):
    source = write(tmp_path / name, audio=(codec, 2))
    again(source, tmp_path / "film.mp4")
    (kind, size, seconds), (_, before, _) = tracks(tmp_path / "film.mp4")[0], tracks(source)[0]
    assert kind.startswith(wanted) and seconds == pytest.approx(2, abs=0.1)
    if wanted in codec: assert size == pytest.approx(before, abs=7 * 110)         # the packets themselves (of ADTS, without their heads)
    clip, film = again(source, tmp_path / "silent.mp4", sound=False)
    assert tracks(tmp_path / "silent.mp4") == [] and len(film.names()) == N and film.warnings == []


def test_sound_of_an_odd_rate_and_damaged_sound(tmp_path):
    with av.open(str(tmp_path / "odd.mkv"), "w") as out:
        stream, track = out.add_stream("libx264", rate=24), out.add_stream("pcm_s16le", rate=44056, layout="mono")
        stream.height, stream.width, stream.pix_fmt = H, W, "yuv420p"
        for t in range(N): out.mux(stream.encode(av.VideoFrame.from_ndarray(pattern(t), format="rgb24")))
        out.mux(stream.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44056), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 44056, 0
        out.mux(track.encode(frame)), out.mux(track.encode())
    again(tmp_path / "odd.mkv", tmp_path / "film.mp4")
    assert tracks(tmp_path / "film.mp4")[0][2] == pytest.approx(1, abs=0.1)
    whole = write(tmp_path / "a.avi", audio=("libmp3lame", 2))
    with av.open(str(whole)) as f: places = [(p.pos, p.size) for p in f.demux(audio=0) if p.size]
    data = bytearray(whole.read_bytes())
    for start, size in places[10:20]: data[start : start + size] = bytes(size)
    (tmp_path / "b.avi").write_bytes(data)
    clip, film = again(tmp_path / "b.avi", tmp_path / "film.mp4")
    assert len(film.names()) == N and tracks(tmp_path / "film.mp4")[0][2] == pytest.approx(2, abs=0.15)


def begins(path):
    "Seconds at which pictures and sound begin."
    with av.open(str(path)) as f:
        first = {}
        for p in f.demux():
            if p.pts is not None and p.size: first[p.stream.type] = min(first.get(p.stream.type, 1e9), float(p.pts * p.time_base))
    return first


@pytest.mark.parametrize("name, start", [("late.mkv", 5), ("late.ts", 5), ("even.ts", 0), ("late.mp4", 5)])
def test_sound_and_pictures_keep_their_distance(tmp_path, name, start):
    source = write(tmp_path / name, rate=10, pts=list(range(start, start + N)), tick=Fraction(1, 10), audio=("aac", 2))
    again(source, tmp_path / "film.mp4")
    before, after = begins(source), begins(tmp_path / "film.mp4")
    assert after["video"] - after["audio"] == pytest.approx(before["video"] - before["audio"], abs=0.03)
    assert min(after.values()) == pytest.approx(0, abs=0.1)


def test_odd_sizes_folders_and_short_clips(tmp_path):
    for t in range(3): cv2.imwrite(str(tmp_path / f"{t}.png"), pattern(t)[:47, :63])
    clip, film = again(tmp_path, tmp_path / "film.mp4")
    assert film.size == (48, 64) and len(film.names()) == 3 and np.allclose(film.times, [0, 1 / 24, 2 / 24], atol=1e-4)
    with VideoWriter(tmp_path / "more.mp4", like=clip) as out:
        for t in range(5): out.add(torch.zeros(3, 8, 8))                  # more frames than the clip has
    film = open_clip(tmp_path / "more.mp4")
    assert len(film.names()) == 5 and np.allclose(film.times, np.arange(5) / 24, atol=1e-3)


def test_rotation_is_applied_once(tmp_path):
    write(tmp_path / "a.mp4", aspect=Fraction(4, 3))
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    clip, film = again(tmp_path / "turned.mp4", tmp_path / "film.mp4")
    assert film.size == clip.size == (W, H) and film.aspect == clip.aspect == Fraction(3, 4)
    assert (images(tmp_path / "turned.mp4").float() - images(tmp_path / "film.mp4").float()).abs().mean() < 4


def test_damaged_clips_make_films_of_the_true_length(tmp_path):
    path = broken(write(tmp_path / "a.mp4", n=20, g="5", bf="0"), tmp_path / "b.mp4", 11, 15)
    clip, film = again(path, tmp_path / "film.mp4")
    assert len(film.names()) == 16 and film.times[-1] == pytest.approx(19 / 24, abs=1e-3)


# ---- joined, restarted and wrapped streams

@pytest.mark.parametrize("starts", [(0, 10 / 24), (0, 0), (7200, 0), (0, 7200), (95443, 95443 + 10 / 24), (5, 5, 5)], ids=str)
def test_joined_broadcasts_are_one_clip(tmp_path, starts):
    "Parts of ten frames, each with a clock that begins at some second; one of them wraps after 26.5 hours."
    whole = b""
    for k, start in enumerate(starts):
        part = write(tmp_path / "part.ts", 10, pts=[round(start * 24) + t for t in range(10)], tick=Fraction(1, 24),
                     audio=("mp2", 10 / 24, start) if max(starts) < 90000 else None, g="5")
        whole += part.read_bytes()
    (tmp_path / "joined.ts").write_bytes(whole)
    clip, n = open_clip(tmp_path / "joined.ts"), 10 * len(starts)
    assert [bar(image) for _, image in clip] == list(range(10)) * len(starts)
    assert clip.names() == [f"{t:05d}" for t in range(n)] and clip.missing == []
    assert np.diff(clip.times) == pytest.approx(np.full(n - 1, 1 / 24), abs=0.03)
    if max(starts) < 90000: assert len(clip.warnings) == 1 and "timestamps restart" in clip.warnings[0]
    clip, film = again(tmp_path / "joined.ts", tmp_path / "film.mp4")
    assert len(film.names()) == n and np.allclose(film.times, clip.times, atol=0.002)


def test_long_pauses_of_other_formats_are_kept(tmp_path):
    clip = open_clip(write(tmp_path / "a.mkv", 3, pts=[0, 24, 24 * 3600], tick=Fraction(1, 24)))
    assert len(clip.names()) == 3 and clip.times == pytest.approx([0, 1, 3600]) and clip.warnings == []


def test_an_avi_with_dropped_frames_has_the_times_of_the_file(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as out:
        stream, track = out.add_stream("mjpeg", rate=24), out.add_stream("pcm_s16le", rate=48000, layout="mono")
        stream.height, stream.width, stream.pix_fmt = H, W, "yuvj420p"
        for t in range(48):
            if not 12 <= t < 28:
                frame = av.VideoFrame.from_ndarray(pattern(t % 12), format="rgb24").reformat(format="yuvj420p")
                frame.pts, frame.time_base = t, Fraction(1, 24)
                out.mux(stream.encode(frame))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.int16), format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48000, 2000 * t, Fraction(1, 48000)
            out.mux(track.encode(sound))
    clip, film = again(tmp_path / "a.avi", tmp_path / "film.mp4")
    shown = [t for t in range(48) if not 12 <= t < 28]
    assert list(clip.numbers) == list(range(32)) and clip.warnings == clip.missing == []
    assert clip.times == pytest.approx(np.array(shown) / 24) and len(film.names()) == 32
    assert film.times == pytest.approx(clip.times, abs=1e-3)


# ---- sound that changes

def with_sound(path, codec, layout, second):
    "A clip of one second that begins at a second, with sound of this layout."
    with av.open(str(path), "w") as out:
        stream, track = out.add_stream("libx264", rate=12), out.add_stream(codec, rate=48000, layout=layout)
        stream.height, stream.width, stream.pix_fmt = H, W, "yuv420p"
        for t in range(12):
            frame = av.VideoFrame.from_ndarray(pattern(t), format="rgb24")
            frame.pts, frame.time_base = 12 * second + t, Fraction(1, 12)
            out.mux(stream.encode(frame))
        for k in range(48000 * second, 48000 * (second + 1), 960):
            wave = np.tile(np.sin(np.arange(k, k + 960) * 0.05) * 8000, (track.codec_context.layout.nb_channels, 1))
            frame = av.AudioFrame.from_ndarray(wave.astype(np.int16), format="s16p", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = 48000, k, Fraction(1, 48000)
            out.mux(track.encode(frame))
        out.mux(stream.encode()), out.mux(track.encode())
    return path.read_bytes()


CHANGES = [("mp2", "stereo", "mono"), ("mp2", "mono", "stereo"), ("aac", "stereo", "mono"), ("ac3", "5.1", "stereo")]

@pytest.mark.parametrize("codec, first, second", CHANGES)
def test_sound_that_changes_is_one_in_the_film(tmp_path, codec, first, second):
    "As at a new programme."
    parts = [with_sound(tmp_path / "part.ts", codec, layout, k) for k, layout in enumerate((first, second))]
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    clip, film = again(tmp_path / "a.ts", tmp_path / "film.mp4")
    with VideoWriter(tmp_path / "noted.mp4", like=clip) as out: out.add(torch.zeros(3, H, W))
    assert len(film.names()) == 24 and out.warnings == []
    with av.open(str(tmp_path / "film.mp4")) as f: parts = [(a.time, np.abs(a.to_ndarray()).max(), a.sample_rate, a.layout.name) for a in f.decode(audio=0)]
    assert {part[2:] for part in parts} == {(48000, "stereo")} and parts[-1][0] == pytest.approx(2, abs=0.15)
    assert min(loud for time, loud, *_ in parts if 0.2 < time < 0.9 or 1.2 < time < 1.9) > 0.1


def test_no_fault_of_the_sound_costs_the_film(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", audio=("aac", 1))
    def fails(*_): raise av.error.InvalidDataError(1, "broken")
    for name in ("_sound", "_copied"):
        with monkeypatch.context() as m:
            m.setattr(f"gwm_nb.show.{name}", fails)
            with VideoWriter(tmp_path / f"{name}.mp4", like=path) as out:
                for t in range(N): out.add(torch.zeros(3, H, W))
        assert count_frames(tmp_path / f"{name}.mp4") == N and "a.mp4" in out.warnings[0] and "broken" in out.warnings[0]


# ---- animations, and files of several pages

def animation(path, n=N, **options):
    first, *others = [Image.fromarray(pattern(t)) for t in range(n)]
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize("name, options", [("a.webp", dict(duration=40, lossless=True)), ("a.png", dict(duration=40)), ("a.gif", dict(duration=40)), ("a.tif", {}), ("a.avif", dict(duration=40, quality=95)), ("a.apng", dict(format="png", duration=40))])
def test_animations_are_clips(tmp_path, name, options):
    path = animation(tmp_path / name, **options)
    clip, = find_clips(tmp_path)
    frames = open_clip(path)
    assert clip.path == path and [bar(image) for _, image in frames] == list(range(N)) and frames.warnings == []
    assert frames.size == (H, W) and frames.names() == [f"{t:05d}" for t in range(N)]
    assert frames.times == pytest.approx(np.arange(N) / frames.rate, abs=1e-6) and frames.rate == (25 if "duration" in options else 24)
    assert [n for n, _ in Excerpt(path, start=2, end=8, every=3)] == ["00002", "00005"]
    clip, film = again(path, tmp_path / "film.mp4")
    assert len(film.names()) == N and np.allclose(film.times, frames.times, atol=1e-3)


def test_animations_among_clips_and_frames(tmp_path):
    for name in "abc": animation(tmp_path / f"{name}.webp", duration=40)
    assert [c.name for c in find_clips(tmp_path)] == ["a", "b", "c"]
    for t in range(3): cv2.imwrite(str(tmp_path / f"{t}.png"), pattern(t))
    assert [c.path for c in find_clips(tmp_path)] == [tmp_path] and [f.name for f in list_images(tmp_path)] == ["0.png", "1.png", "2.png"]
    clip = open_clip(tmp_path)
    assert len(clip.names()) == 3 and len(clip.warnings) == 1 and "a.webp, b.webp, c.webp" in clip.warnings[0]


def test_several_images_in_a_file_need_not_be_an_animation(tmp_path):
    "A thumbnail behind a page, and the second eye of a stereo camera."
    page, small = Image.fromarray(pattern(0)), Image.fromarray(pattern(0)[::4, ::4])
    for t in range(3): page.save(tmp_path / f"{t}.tif", save_all=True, append_images=[small])
    assert [c.path for c in find_clips(tmp_path)] == [tmp_path] and len(list_images(tmp_path)) == 3
    page.save(tmp_path / "3.mpo", save_all=True, append_images=[page])
    assert len(list_images(tmp_path)) == 4


def test_pages_of_16_bits_share_a_range(tmp_path):
    pages = [Image.fromarray((pattern(t)[..., 0].astype(np.uint16)) * scale) for t, scale in enumerate((2, 16))]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    dark, light = images(tmp_path / "stack.tif")
    assert light.max() == pytest.approx(250 * 16 * 255 / 4095, abs=1) and dark.max() == pytest.approx(250 * 2 * 255 / 4095, abs=1)


# ---- formats of images

@pytest.mark.parametrize("name, options", [("a.avif", dict(quality=100, subsampling="4:4:4")), ("a.tga", {}), ("a.jp2", {}), ("a.gif", {}), ("a.pcx", {}), ("a.qoi", {}), ("a.dds", {}), ("a.sgi", {})])
def test_what_pillow_reads_is_a_frame(tmp_path, name, options):
    wanted = saved(tmp_path / name, mode="P" if name.endswith("gif") else "RGB", **options)
    assert [f.name for f in list_images(tmp_path)] == [name] and image_size(tmp_path / name) == (H, W)
    assert np.abs(read_image(tmp_path / name).permute(1, 2, 0).numpy() - wanted).mean() <= 2


@pytest.mark.parametrize("ending", [".heic", ".exr", ".jxl", ".cr2", ".npy"])
def test_frames_of_other_formats_are_named(tmp_path, ending):
    for t in range(8): (tmp_path / f"f{t:03d}{ending}").write_bytes(b"?") if t in (2, 5) else cv2.imwrite(str(tmp_path / f"f{t:03d}.png"), pattern(t))
    (tmp_path / "notes.txt").write_text(""), (tmp_path / "f003.txt").write_text("a label"), (tmp_path / "Thumbs.db").write_text("")
    clip = open_clip(tmp_path)
    assert len(list(clip)) == 6 and len(clip.warnings) == 2
    assert f"2 files are left out (f002{ending}, f005{ending})" in clip.warnings[0] and "2 of 8 frames are missing (2, 5)" in clip.warnings[1]


@pytest.mark.parametrize("kind", ["png", "webp", "tif", "tga", "palette", "grey"])
def test_transparent_pixels_are_put_on_plain_grey(tmp_path, kind):
    hidden = np.random.default_rng(0).integers(0, 256, (H, W, 4), dtype=np.uint8)
    hidden[..., 3], hidden[:20, :20] = 0, (200, 40, 40, 255)
    image, path = Image.fromarray(hidden), tmp_path / f"0.{kind if len(kind) < 5 and kind != 'grey' else 'png'}"
    if kind == "palette":
        image = Image.fromarray(np.where(hidden[..., 3] > 0, 1, hidden[..., 0] % 5 + 2).astype(np.uint8))
        image.putpalette([0, 0, 0, 200, 40, 40, *range(15)])
        image.info["transparency"] = bytes([255, 255, 0, 0, 0, 0, 0])
    image = image.convert("LA") if kind == "grey" else image
    image.save(path, **(dict(lossless=True, exact=True) if kind == "webp" else {}))
    seen = read_image(path)
    assert (seen[:, 20:] == 128).all() and (seen[:, :20, :20].float().mean((1, 2)) - torch.tensor([88.] * 3 if kind == "grey" else [200, 40, 40])).abs().max() < 2
    assert torch.equal(read_mask(path)[20:], torch.zeros(H - 20, W).long())          # hidden colours are no object


def test_half_transparent_pixels_mix_and_empty_opacity_is_none(tmp_path):
    pixels = np.full((4, 4, 4), (200, 0, 100, 128), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "half.png")
    assert read_image(tmp_path / "half.png")[:, 0, 0].tolist() == pytest.approx([164, 63, 114], abs=1)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save(tmp_path / "none.png")
    assert read_image(tmp_path / "none.png")[:, 0, 0].tolist() == [200, 0, 100]


def test_films_with_opacity_are_put_on_plain_grey(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream = out.add_stream("qtrle", rate=24)
        stream.height, stream.width, stream.pix_fmt = H, W, "argb"
        pixels = np.dstack([pattern(0), np.zeros((H, W), np.uint8)])
        pixels[:20, :20, 3] = 255
        for _ in range(3): out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="argb")))
        out.mux(stream.encode())
    image = images(tmp_path / "a.mov")[0]
    assert (image[:, 20:] == 128).all() and torch.equal(image[:, :20, :20], torch.from_numpy(pattern(0)).permute(2, 0, 1)[:, :20, :20])


# ---- numbers

@pytest.mark.parametrize("names, gaps", [(["0", "1", "2", "5", "6"], [3, 4]), (["f007", "f008", "f010"], [9]), (["0", "5", "10", "20"], [15]), (["a_1_x", "a_2_x", "a_4_x"], [3]), (["1", "2", "3"], []),
                                         (["a", "b"], []), (["1.5", "1.7", "2.1"], []), (["0", "33", "67", "100"], []), (["3"], []), (["1", "2", "3", "9" * 30], []), (["1", "1b"], [])], ids=str)
def test_gaps_in_numbers(names, gaps): assert missing_numbers(names) == gaps


def test_gaps_of_a_folder_are_said(tmp_path):
    for t in (*range(6), *range(18, 24)): cv2.imwrite(str(tmp_path / f"{t:05d}.png"), pattern(t))
    clip = open_clip(tmp_path)
    assert len(clip.names()) == 12 and "12 of 24 frames are missing (6-17)" in clip.warnings[0]
    part = Excerpt(tmp_path, end=6)
    assert len(list(part)) == 6 and part.warnings == []
    part = Excerpt(tmp_path, start=4, every=2)
    assert list(part) and "12 of 19 frames are missing" in part.warnings[0]


# ---- clips among other things

def test_results_are_no_clips(tmp_path):
    "In the folder of their film, below it, and of several runs."
    write(tmp_path / "my_clip.mp4")
    for folder in (tmp_path, tmp_path / "my_clip", tmp_path / "more/deep"):
        folder.mkdir(exist_ok=True, parents=True)
        for t in range(3): write_mask(folder / f"{t:05d}.png", torch.ones(4, 4))
        shutil.copy(tmp_path / "my_clip.mp4", folder / "overlay.mp4")
        files = [f"{t:05d}.png" for t in range(3)] + ["overlay.mp4", "result.json"]
        (folder / "result.json").write_text(json.dumps(dict(names=[], settings={}, files=files)))
    assert [(c.name, c.path) for c in find_clips(tmp_path)] == [("my_clip", tmp_path / "my_clip.mp4")]


def test_links_to_a_parent_and_to_each_other_are_followed_once(tmp_path):
    for folder in ("a", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
        for t in range(3): cv2.imwrite(str(tmp_path / folder / f"{t}.png"), pattern(t))
    os.symlink(".", tmp_path / "zz"), os.symlink("..", tmp_path / "b/up"), os.symlink("a", tmp_path / "d"), os.symlink("self", tmp_path / "self")
    assert [c.name for c in find_clips(tmp_path)] == ["a", "b/c"]


def test_a_folder_that_can_not_be_read_is_told(tmp_path, monkeypatch, capsys):
    for name in ("a", "locked"):
        (tmp_path / name).mkdir()
        for t in range(2): cv2.imwrite(str(tmp_path / name / f"{t}.png"), pattern(t))
    listed = Path.iterdir
    def iterdir(path):
        if path.name == "locked": raise PermissionError(13, "Permission denied", str(path))
        return listed(path)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert [c.name for c in find_clips(tmp_path)] == ["a"]
    out = capsys.readouterr().out
    assert "locked" in out and "Permission denied" in out and out.count("\n") == 1
    with pytest.raises(PermissionError): find_clips(tmp_path / "locked")


def test_names_that_differ_in_their_ending_and_posters(tmp_path):
    for name in ("a.mp4", "b.mp4"): write(tmp_path / name)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "a.mov")
    for name in ("a.jpg", "b.jpg"): cv2.imwrite(str(tmp_path / name), pattern(0))
    assert [c.name for c in find_clips(tmp_path)] == ["a.mov", "a.mp4", "b"]
    assert [c.path.name for c in find_clips(tmp_path, ["a.mov"])] == ["a.mov"]


def test_a_pipe_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for call in (find_clips, count_frames):
        with pytest.raises(ValueError, match="pipe: neither a file nor a folder; save"): call(tmp_path / "pipe")


@pytest.mark.parametrize("fps", [float("inf"), float("nan"), 0, -1, 1e-9, 1e300])
def test_frame_rates_that_can_not_be(tmp_path, fps):
    with pytest.raises(ValueError, match="fps must be from 0.001 to 100000 .got "): Excerpt(tmp_path, fps=fps)


# ---- interlaced, bright, and annotated films

def interlaced(path, n=N, codec="mpeg2video", mirrored=None):
    "Each frame shows two moments: its even lines that of t, its odd lines that of t + 0.5."
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"flags": "+ilme+ildct", "qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        graph = av.filter.Graph()
        source = graph.add_buffer(width=128, height=96, format="yuv420p", time_base=Fraction(1, 25))
        graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
        for t in range(n):
            woven = disc(t)
            woven[1::2] = disc(t + 0.5)[1::2]
            frame = av.VideoFrame.from_ndarray(woven, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            graph.push(frame)
            out.mux(stream.encode(graph.pull()))
        out.mux(stream.encode())
    return path


def disc(t):
    y, x = np.mgrid[:96, :128]
    pixels = np.full((96, 128, 3), (60, 110, 60), np.uint8)
    pixels[(y - 48) ** 2 + (x - 24 - 6 * t) ** 2 < 400] = 210, 90, 50
    return pixels


@pytest.mark.parametrize("name", ["a.mpg", "a.ts", "a.mov"])
def test_interlaced_films_show_one_moment_a_frame(tmp_path, name):
    clip = open_clip(interlaced(tmp_path / name))
    combs = [np.abs(np.diff(image.float().numpy(), 2, axis=1)).mean() for _, image in clip]
    assert list(clip.numbers) == list(range(N)) and len(clip.warnings) == 1 and "interlaced" in clip.warnings[0]
    with av.open(str(tmp_path / name)) as f: before = [np.abs(np.diff(frame.to_ndarray(format="rgb24").astype(float), 2, axis=0)).mean() for frame in f.decode(video=0)]
    assert max(combs) < 0.7 * min(before)
    for n, image in clip: assert np.abs(image.permute(1, 2, 0).numpy() - disc(int(n)).astype(float)).mean() < 8
    assert clip.times == pytest.approx(np.arange(N) / 25, abs=1e-3) and clip.names() == [f"{t:05d}" for t in range(N)]
    assert [n for n, _ in Excerpt(tmp_path / name, start=3, end=8, every=2)] == ["00003", "00005", "00007"]


@pytest.mark.parametrize("transfer, white, grey", [(16, 0.5807, 0.3816), (18, 0.75, 0.38)])
def test_bright_films_are_read_as_a_screen_shows_them(tmp_path, transfer, white, grey):
    "Paper white and a grey of a tenth of its light, as PQ and HLG keep them; and a green that BT.709 has as well."
    pixels = np.zeros((H, W, 3), np.float64)
    pixels[:, :20], pixels[:, 20:40] = white, grey
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = H, W, "yuv444p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 9, 9, transfer, 1
        frame = av.VideoFrame.from_ndarray((pixels * 65535).round().astype(np.uint16), format="rgb48le")
        frame = frame.reformat(format="yuv444p10le", dst_colorspace=av.video.reformatter.Colorspace(9), dst_color_range="MPEG")
        out.mux(stream.encode(frame)), out.mux(stream.encode())
    clip = open_clip(tmp_path / "a.mkv")
    (_, image), = clip
    assert image[:, 5, 5].float().std() < 2 and 225 < image[0, 5, 5] < 255 and 85 < image[0, 5, 30] < 110 and image[:, 5, 50].max() < 5
    assert set(clip.colour.values()) == {1} and len(clip.warnings) == 1 and "HDR" in clip.warnings[0]
    with VideoWriter(tmp_path / "film.mp4", like=clip) as out: out.add(torch.tensor([0, 177 / 255, 64 / 255])[:, None, None].expand(3, H, W))
    assert (images(tmp_path / "film.mp4")[0, :, 5, 5] - torch.tensor([0, 177, 64])).abs().max() <= 4
    assert set(open_clip(tmp_path / "film.mp4").colour.values()) == {1}


@pytest.mark.parametrize("orientation, turn", [(1, lambda x: x), (3, lambda x: x.rot90(2, (1, 2))), (6, lambda x: x.rot90(-1, (1, 2))), (8, lambda x: x.rot90(1, (1, 2)))])
def test_notes_that_nobody_knows_are_passed_over(tmp_path, orientation, turn):
    "Images in a film that carry EXIF, as cameras write them; a rotation among the notes is obeyed."
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", orientation
    with av.open(str(tmp_path / "a.avi"), "w") as out:
        stream = out.add_stream("mjpeg", rate=24)
        stream.height, stream.width, stream.pix_fmt = H, W, "yuvj420p"
        out.start_encoding()
        for t in range(N):
            data = io.BytesIO()
            Image.fromarray(pattern(t)).save(data, "jpeg", quality=95, exif=exif)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base, packet.is_keyframe = stream, t, t, Fraction(1, 24), True
            out.mux(packet)
    seen = images(tmp_path / "a.avi").float()
    wanted = turn(torch.from_numpy(pattern(3)).permute(2, 0, 1)).float()
    with av.open(str(tmp_path / "a.avi")) as f: rotated = next(f.decode(video=0)).rotation
    if rotated or orientation == 1: assert (seen[3] - wanted).abs().mean() < 6
    assert len(seen) == N


# ---- parts of a clip

def loudest(path, rate=48000):
    "Second at which the sound of a film is loudest."
    with av.open(str(path)) as f: parts = [(float(a.pts * a.time_base), np.abs(a.to_ndarray()).max()) for a in f.decode(audio=0)]
    return max(parts, key=lambda part: part[1])[0]


def test_a_film_of_an_excerpt_has_its_part_of_the_sound(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:                    # 4 s, a click at 2.5 s
        stream, track = out.add_stream("libx264", rate=10), out.add_stream("aac", rate=48000, layout="mono")
        stream.height, stream.width, stream.pix_fmt = H, W, "yuv420p"
        for t in range(40): out.mux(stream.encode(av.VideoFrame.from_ndarray(pattern(t), format="rgb24")))
        out.mux(stream.encode())
        wave = np.zeros(4 * 48000, np.float32)
        wave[120000:121000] = np.sin(np.arange(1000) * 0.3)
        for k in range(0, len(wave), 960):
            frame = av.AudioFrame.from_ndarray(wave[k : k + 960][None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, k, Fraction(1, 48000)
            out.mux(track.encode(frame))
        out.mux(track.encode())
    clip = Excerpt(tmp_path / "a.mp4", start="2s", end=35, every=5)
    with VideoWriter(tmp_path / "film.mp4", like=clip) as out:
        for _, image in clip: out.add(image / 255)
    film = open_clip(tmp_path / "film.mp4")
    assert list(clip.numbers) == [20, 25, 30] and len(film.names()) == 3 and np.allclose(film.times, [0, 0.5, 1], atol=1e-3)
    assert loudest(tmp_path / "a.mp4") == pytest.approx(2.5, abs=0.05) and loudest(tmp_path / "film.mp4") == pytest.approx(0.5, abs=0.08)
    assert tracks(tmp_path / "film.mp4")[0][2] == pytest.approx(1.5, abs=0.1)         # to the end of the excerpt


def test_excerpts_of_videos_and_folders(tmp_path):
    video = write(tmp_path / "a.mp4")
    folder = tmp_path / "folder"
    folder.mkdir()
    for t in range(N): cv2.imwrite(str(folder / f"f{t:02d}.png"), pattern(t)[..., ::-1])
    for path in (video, folder):
        clip = Excerpt(path, start=2, end=9, every=3, max_side=32)
        shown = dict(clip)
        assert list(clip.numbers) == [2, 5, 8] and clip.size == (24, 32) and all(i.shape == (3, 24, 32) for i in shown.values()) and clip.warnings == []
        assert clip.rate == 8 and np.allclose(clip.times, [0, 3 / 24, 6 / 24], atol=1e-3) and list(clip) and clip.names() == list(shown)
        assert [n for n, _ in Excerpt(path)] == [n for n, _ in open_clip(path)] and Excerpt(path, max_side=999).size == (H, W)
        lasts = "0.5 s at 24 frames a second$" if path == folder else "0.5 s$"
        for start in (50, "1:05"):
            with pytest.raises(ValueError, match=f"none of its 12 frames is in this excerpt; the clip lasts {lasts}"): list(Excerpt(path, start=start, every=2))
        with pytest.raises(ValueError, match="no frame lies between the start and the end of this excerpt"): list(Excerpt(path, start=6, end=3))
    with pytest.raises(ValueError, match="the clip lasts 2.0 s at 6 frames a second"): list(Excerpt(folder, fps=6, start="9s"))
    slow = Excerpt(folder, fps=6, start="0.5s")
    assert len(dict(slow)) == N - 3 and slow.rate == 6 and slow.times[1] == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="a video has its own frame rate"): Excerpt(video, fps=6)
    with pytest.raises(ValueError, match="every must be at least 1 .got 0."): Excerpt(video, every=0)
    torn = Excerpt(broken(write(tmp_path / "g.mp4", 24, g="5", bf="0"), tmp_path / "b.mp4", 11, 15), start=8, end=20)
    assert [n for n, _ in torn] == [f"{t:05d}" for t in (8, 9, 10, 15, 16, 17, 18, 19)] and "4 of" in torn.warnings[0] and torn.missing == [11, 12, 13, 14]
    torn.end = 11
    assert len(list(torn)) == 3 and torn.warnings == []


@pytest.mark.parametrize("text, moment", [("90", 90), (90, 90), ("3s", 3), ("2.5s", Fraction(5, 2)), ("1:05", 65), ("1:00:01.5", Fraction(7203, 2))])
def test_moments(text, moment):
    assert parse_moment(text) == moment and isinstance(parse_moment(text), int) == (moment == 90)


@pytest.mark.parametrize("text", ["", "soon", "-3", "1:-2", "1:2:3:4", "1/0s", "3.5"])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(ValueError, match="use 90, 3s or 1:05"): parse_moment(text)


# ---- memory

def test_frames_go_when_nobody_wants_them(tmp_path):
    path = write(tmp_path / "a.mp4", n=40)
    frames = iter(open_clip(path))
    next(frames)
    gc.collect()
    gc.disable()                     # what lies in circles would stay
    try:
        for _ in frames:
            alive = sum(isinstance(o, av.VideoFrame) for o in gc.get_objects())
            assert alive <= 16       # the decoder may hand out a few at once
    finally:
        gc.enable()


def test_a_writer_keeps_no_frames(tmp_path):
    gc.collect()
    gc.disable()
    try:
        with VideoWriter(tmp_path / "a.mp4") as film:
            for t in range(40):
                film.add(torch.from_numpy(pattern(t)).permute(2, 0, 1) / 255)
                assert sum(isinstance(o, av.VideoFrame) for o in gc.get_objects()) <= 16
    finally:
        gc.enable()
