"Clips as people have them: codecs, names, times, damage, shapes, colours, folders, and videos."
import os
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from gwm_nb.clips import (Excerpt, clip_rate, count_frames, frame_size, missing_numbers, open_clip,
                          read_frames)
from gwm_nb.files import (find_clips, folder_bits, image_size, list_images, read_image,
                          read_mask)
from gwm_nb.show import VideoWriter
from inputs import pattern, refused, write_frames, write_image, write_video

H, W, N = 48, 64, 12
TICKS = np.cumsum([0, 1, 1, 6, 1, 1, 6, 1, 1, 6, 1, 1]).tolist()
UNEVEN = dict(rate=30, pts=TICKS, tick=Fraction(1, 30))


def images(path): return torch.stack([image for _, image in read_frames(path)])


def bar(image): return int(image[:, -4:].float().sum((0, 1)).unfold(0, 8, 1).sum(-1).argmax()) // 3


def broken(path, first, last):
    "A copy in which these packets are zeros."
    with av.open(str(path)) as f:
        places = [(p.pos, p.size) for p in f.demux(video=0) if p.size]
    data, target = bytearray(path.read_bytes()), path.with_stem("broken")
    for start, size in places[first:last]:
        data[start : start + size] = bytes(size)
    target.write_bytes(data)
    return target


def again(source, target, **options):
    "A clip, and a video like it."
    clip = open_clip(source) if isinstance(source, Path) else source
    with VideoWriter(target, like=clip, **options) as out:
        for _, image in clip:
            out.add(image / 255)
    film = open_clip(target)
    film.names()                                       # which reads its times
    return clip, film


# ---- videos, animations, and files of several pages

@pytest.mark.parametrize("name, codec, pix, options", [
    ("a.mp4", "libsvtav1", "yuv420p", dict(preset="12")), ("a.webm", "libvpx-vp9", "yuv420p", {}),
    ("b.webm", "libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
    ("h10.mov", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    ("f.mkv", "ffv1", "yuv444p12le", {}), ("g.gif", "gif", "rgb8", {}),
    ("t.m2ts", "libx264", "yuv420p", {}), ("w.wmv", "wmv2", "yuv420p", {}),
    ("b.avi", "libx264", "yuv420p", dict(bf="3")), ("r.h264", "libx264", "yuv420p", {}),
    ("n.mpg", "mpeg2video", "yuv420p", dict(bf="2")), ("a.png", None, None, dict(duration=40)),
    ("a.webp", None, None, dict(duration=40, lossless=True)), ("a.tif", None, None, {}),
    ("a.avif", None, None, dict(duration=40, quality=95)),
    ("a:%d[1]?*'.mp4", "libx264", "yuv420p", {}), ("\n\udce9.mkv", "libx264", "yuv420p", {})])
def test_all_kinds_of_clips_are_found_and_read(tmp_path, name, codec, pix, options):
    size = (96, 128) if codec == "libsvtav1" else (H, W)
    if codec:
        path = tmp_path / f"a{Path(name).suffix}"
        write_video(path, codec=codec, pix=pix, size=size, **options).rename(tmp_path / name)
    else:
        first, *others = [Image.fromarray(pattern(t)) for t in range(N)]
        first.save(tmp_path / name, save_all=True, append_images=others, **options)
    found, = find_clips(tmp_path)
    clip, film = again(found.path, tmp_path / "film.mp4")
    assert [bar(image) for _, image in clip] == list(range(N)) and clip.size == size
    assert list(clip.numbers) == list(range(N)) and clip.missing == clip.warnings == []
    assert clip.names() == [f"{t:05d}" for t in range(N)]
    assert codec or clip.rate == (25 if "duration" in options else 24)
    assert np.allclose(clip.times, np.arange(N) / clip.rate, atol=.03)
    assert len(film.names()) == N and np.allclose(film.times, clip.times, atol=2e-3)
    assert [n for n, _ in Excerpt(found.path, start=2, end=8, every=3)] == ["00002", "00005"]


@pytest.mark.parametrize("name, codec, options", [
    ("a.mp4", "libx264", {}), ("a.mkv", "libx264", {}), ("a.ts", "libx264", {}),
    ("a.avi", "mjpeg", {}), ("a.webm", "libvpx-vp9", {}),
    ("b.mp4", "libx265", {"x265-params": "keyint=5:bframes=0:log-level=none"})])
def test_frames_keep_their_numbers_when_others_are_damaged(tmp_path, capsys, name, codec, options):
    mux = dict(cluster_time_limit="200") if codec != "mjpeg" else {}       # for mkv and webm
    options = options or dict(g="5") | (dict(bf="0") if codec == "libx264" else {})
    pix = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = write_video(tmp_path / name, 24, codec, pix, mux=mux, **options)
    path = broken(whole, 11, 15)
    clip, film = again(path, tmp_path / "film.mp4")
    wanted, got = dict(read_frames(whole)), dict(clip)
    assert list(got) == [f"{t:05d}" for t in range(24) if not 11 <= t < 15]
    assert clip.missing == [11, 12, 13, 14] and list(clip.numbers) == [int(n) for n in got]
    assert all(torch.equal(got[n], wanted[n]) for n in got)
    line, = clip.warnings
    assert str(path) in line and "4 of 24 frames" in line and "11-14" in line
    assert count_frames(path) == 20 and capsys.readouterr().out == line + "\n"
    assert np.allclose(clip.times, np.array(clip.numbers) / 24, atol=.002)
    assert len(film.names()) == 20 and np.allclose(film.times, clip.times, atol=.002)
    torn = Excerpt(path, start=8, end=20)
    assert [int(n) for n, _ in torn] == [8, 9, 10, 15, 16, 17, 18, 19]
    assert "4 of" in torn.warnings[0] and torn.missing == [11, 12, 13, 14]
    torn.end = 11                                      # damage outside of it is not its own
    assert len(list(torn)) == 3 and torn.warnings == []


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
    index = name != "x.mpg"                            # which claims more frames
    assert (f"{cut}: only {n} of 40 frames" in told.out) == index
    assert torch.equal(images(cut)[:n - 3 * index], images(whole)[:n - 3 * index])


@pytest.mark.parametrize("name, timing", [
    ("uneven.mkv", UNEVEN), ("uneven.mp4", UNEVEN), ("uneven.ts", UNEVEN),
    ("pause.mkv", dict(n=3, pts=[0, 24, 24 * 3600], tick=Fraction(1, 24))),
    ("480.mp4", dict(rate=480)), ("half.mp4", dict(rate=.5)), ("ntsc.mp4", dict(rate=30 / 1.001))])
def test_times_are_those_of_the_file_and_kept_by_a_film(tmp_path, name, timing):
    path = write_video(tmp_path / name, **timing)
    clip, film = again(path, tmp_path / "film.mp4")
    wanted = np.array(timing.get("pts", range(N))) * float(timing.get("tick", 1 / clip.rate))
    assert np.allclose(clip.times, wanted, rtol=1e-3, atol=1e-3)
    assert len(film.names()) == len(wanted) and np.allclose(film.times, clip.times, atol=1e-3)
    if name != "uneven.ts":                            # where a pause looks like a hole
        assert clip.names() == film.names() and clip.warnings == clip.missing == []
    if "pts" not in timing:
        assert clip.rate == pytest.approx(timing["rate"]) == clip_rate(path)


def test_what_is_no_clip_is_one_line(tmp_path, capfd):
    write_video(tmp_path / "secret.mp4", mux=dict(
        encryption_key="0" * 32, encryption_kid="1" * 32, encryption_scheme="cenc-aes-ctr"))
    broken(write_video(tmp_path / "bare.avi", 5, "mjpeg", "yuvj420p"), 0, 5)
    (tmp_path / "list.txt").write_bytes(b"ffconcat version 1.0\nfile secret.mp4\n")
    sizes = [write_video(tmp_path / "a.ts", 6, size=s).read_bytes() for s in ((H, W), (24, 32))]
    (tmp_path / "sizes.ts").write_bytes(b"".join(sizes))
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, says in {"secret.mp4": "encrypted", "list.txt": "not a readable|no frames",
                       "broken.avi": "no frames", "sizes.ts": "frame.* 32x24.*64x48",
                       "pipe.mp4": "neither a file"}.items():
        refused(images, tmp_path / name, says=f"{name}: .*({says})")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("a, b, c, d, wanted", [
    (0, 1, -1, 0, lambda x: x.rot90(-1, (2, 3))), (-1, 0, 0, 1, lambda x: x.flip(3)),
    (0, -1, -1, 0, lambda x: x.mT.flip(2, 3))])
def test_a_video_is_read_as_it_is_shown(tmp_path, a, b, c, d, wanted):
    "By the matrix in the file; a video like it is not turned again, and has its colours and shape."
    tags = dict(colorspace=9, color_range=1, color_primaries=9, color_trc=14)
    path = write_video(tmp_path / "a.mp4", bf="3", aspect=Fraction(4, 3), tags=tags)
    shown, data = wanted(images(path)), bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44                   # the pixel (x,y) is at (ax+cy, bx+dy)
    data[start : start + 32] = struct.pack(">8i", *(x << 16 for x in (a, b, 0, c, d, 0, 0, 0)))
    path.write_bytes(data)
    assert torch.equal(images(path), shown) and frame_size(path) == tuple(shown.shape[2:])
    clip, film = again(path, tmp_path / "film.mp4")
    assert clip.aspect == film.aspect == Fraction(4, 3)**(1 if a else -1)
    assert film.size == clip.size and film.colour == clip.colour == tags
    assert (images(film.path).float() - shown).abs().mean() < 4


BT2020 = av.video.reformatter.Colorspace(9)
RECIPES = [(1, "itu709"), (5, "itu601"), (7, "smpte240m"), (9, BT2020)]
SDR = np.array([(230, 30, 30), (20, 200, 60), (128, 128, 128)])
PQ, HLG = ([[x] * 3 for x in light] for light in ((.5807, .3816, 0), (.75, .38, 0)))


@pytest.mark.parametrize("recipe, kind, transfer, colours", [
    *((recipe, kind, 1, SDR / 255) for recipe in RECIPES for kind in
      ((1, "MPEG", "yuv444p"), (2, "JPEG", "yuv444p"), (1, "MPEG", "yuv444p10le"))),
    *(((9, BT2020), (1, "MPEG", "yuv444p10le"), n, x) for n, x in ((16, PQ), (18, HLG)))])
def test_colours_are_those_of_a_screen(tmp_path, recipe, kind, transfer, colours):
    "Of HDR paper white, a grey of a tenth of its light, and black."
    pixels = np.repeat(np.repeat(np.array(colours)[None], 16, 1), H, 0)
    deep = av.VideoFrame.from_ndarray((pixels * 65535).round().astype(np.uint16), "rgb48le")
    frame = deep.reformat(format=kind[2], dst_colorspace=recipe[1], dst_color_range=kind[1])
    tags = dict(colorspace=recipe[0], color_trc=transfer, color_primaries=9, color_range=kind[0])
    clip = open_clip(write_video(tmp_path / "a.mkv", 1, "ffv1", kind[2], draw=lambda t: frame,
                                 size=(H, 48), tags=tags))
    (_, image), = clip
    wanted, within = (SDR, 3) if transfer == 1 else ([[240] * 3, [97] * 3, [0] * 3], 15)
    assert np.abs(image[:, 5, [5, 20, 40]].T.numpy() - np.array(wanted, float)).max() <= within
    if transfer != 1:
        assert "HDR" in clip.warnings[0] and set(clip.colour.values()) == {1}


def test_interlaced_films_show_one_moment_a_frame(tmp_path):
    "Each frame shows two moments: its even lines that of t, its odd lines that of t + 0.5."
    graph = av.filter.Graph()
    source = graph.add_buffer(width=W, height=H, format="yuv420p", time_base=Fraction(1, 25))
    parts = source, graph.add("setfield", "tff"), graph.add("buffersink")
    graph.link_nodes(*parts).configure()

    def woven(t):
        pixels = pattern(2 * t)
        pixels[1::2] = pattern(2 * t + 1)[1::2]
        graph.push(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p"))
        return graph.pull()
    path = write_video(tmp_path / "a.ts", N, "mpeg2video", rate=25, draw=woven,
                       flags="+ilme+ildct", qscale="2")
    clip = open_clip(path)
    for n, image in clip:
        pixels = image.permute(1, 2, 0).numpy().astype(float)
        assert np.abs(np.diff(pixels[-10:], 2, 0)).mean() < 4        # no comb, which has 30
        assert np.abs(pixels - pattern(2 * int(n))).mean() < 4
    assert clip.times == pytest.approx(np.arange(N) / 25, abs=1e-3)
    assert "interlaced" in clip.warnings[0]


# ---- folders

@pytest.mark.parametrize("names", [
    ["frame1", "frame2", "frame10"], ["-10", "-1", "0", "2", "11"], ["f-1", "f-2", "f-10"],
    ["a_-1.5", "a_-0.5", "a_0.25"], ["1.9", "1.10", "1.11"], ["img (1)", "img (2)", "img (10)"],
    ["2023-12-01", "2024-01-02", "2024-01-10"], ["2", "10", "a2", "A10", "b1c9", "b1c10"]])
def test_numbers_in_names_are_numbers(tmp_path, names):
    for n in ("._5", *sorted(names)):
        (tmp_path / f"{n}.png").touch()
    (tmp_path / "3.png").mkdir()
    assert [f.stem for f in list_images(tmp_path)] == names


@pytest.mark.parametrize("names, gaps", [
    (["f007", "f008", "f010"], [9]), (["0", "5", "10", "20"], [15]), (["1.5", "1.7", "2.1"], []),
    (["0", "33", "67", "100"], []), (["3"], []), (["1", "2", "3", "9" * 30], [])], ids=str)
def test_gaps_in_numbers(names, gaps): assert missing_numbers(names) == gaps


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("form", ["png", "tif"])
def test_16_bit_images_have_the_scale_of_their_folder(tmp_path, form, bits):
    wanted = [pattern(t) * light * 255 / 250 for t, light in enumerate((.2, 1.))]
    for t, pixels in enumerate(wanted):
        scaled = (pixels * (2**bits - 1) / 255).round().astype(np.uint16)
        write_image(tmp_path / f"{t}.{form}", scaled)
    assert np.abs(images(tmp_path).permute(0, 2, 3, 1).numpy() - np.stack(wanted)).max() <= 1
    assert folder_bits(list_images(tmp_path)) == bits


def exif(orientation):
    notes = Image.Exif()
    notes[0x0112] = orientation
    return dict(exif=notes)


@pytest.mark.parametrize("name, mode, options", [
    ("a.png", "LA", {}), ("a.png", "P", {}), ("a.png", "1", {}), ("a.jpg", "CMYK", {}),
    ("a.webp", "RGB", {}), ("a.gif", "P", {}), ("a.avif", "RGB", {}), ("a.tif", "RGB", exif(6)),
    ("%d:\udce9*\n.png", "RGB", {}), ("a.jpg", "RGB", exif(7))])
def test_what_pillow_reads_is_a_frame(tmp_path, name, mode, options):
    image = Image.fromarray(pattern(3))
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as shown:
        wanted = np.array(ImageOps.exif_transpose(shown).convert("RGB")).astype(int)
    assert [f.name for f in list_images(tmp_path)] == [name]
    assert image_size(tmp_path / name) == frame_size(tmp_path) == wanted.shape[:2]
    assert np.abs(read_image(tmp_path / name).permute(1, 2, 0).numpy() - wanted).mean() <= 2


def test_images_that_can_not_be_read_are_refused_by_name(tmp_path, capfd):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    (tmp_path / "0.png").write_bytes(b"no image")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays/00000.npy", np.zeros(3))
    for call, name, says in ((read_image, "f.tif", "32-bit"), (read_image, "0.png", ""),
                             (read_mask, "0.png", ""), (find_clips, "arrays", "00000.npy")):
        refused(call, tmp_path / name, says=f"{name}: .*{says}")
    assert capfd.readouterr() == ("", "")


def test_frames_of_other_formats_are_named(tmp_path):
    write_frames(tmp_path, map(pattern, range(8)))
    for name, ending in (("00002", ".heic"), ("00005", ".npy")):
        (tmp_path / f"{name}.png").rename(tmp_path / f"{name}{ending}")
    for name in ("notes.txt", "00003.txt", "Thumbs.db"):
        (tmp_path / name).write_text("")
    clip = open_clip(tmp_path)
    assert len(list(clip)) == 6 and len(clip.warnings) == 2
    assert "2 files are left out (00002.heic, 00005.npy)" in clip.warnings[0]
    assert "2 of 8 frames are missing (2, 5)" in clip.warnings[1]
    part = Excerpt(tmp_path, start=3, end=5)
    assert len(list(part)) == 2 and not any("missing" in line for line in part.warnings)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "grey.png"])
def test_transparent_pixels_are_put_on_plain_grey(tmp_path, name):
    hidden, path = np.random.default_rng(0).integers(0, 256, (H, W, 4), np.uint8), tmp_path / name
    hidden[..., 3], hidden[:20, :20] = 0, (200, 40, 40, 255)
    image = Image.fromarray(hidden).convert("LA" if name == "grey.png" else "RGBA")
    image.save(path, **(dict(lossless=True, exact=True) if name == "a.webp" else {}))
    seen, colour = read_image(path), [88.] * 3 if name == "grey.png" else [200., 40., 40.]
    assert (seen[:, 20:] == 128).all() and not read_mask(path)[20:].any()
    assert (seen[:, :20, :20].float().mean((1, 2)) - torch.tensor(colour)).abs().max() < 2
    for alpha, wanted in ((128, [164, 63, 114]), (0, [200, 0, 100])):       # nothing is opaque
        Image.new("RGBA", (4, 4), (200, 0, 100, alpha)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == pytest.approx(wanted, abs=1)


# ---- videos like a clip

def tracks(path):
    "Codec, bytes and seconds of the sound."
    with av.open(str(path)) as f:
        return [(s.codec_context.name, sum(p.size for p in f.demux(s)),
                 float((s.duration or 0) * s.time_base)) for s in f.streams.audio[:1]]


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
    assert tracks(film.path) == [] and len(film.names()) == N


@pytest.mark.parametrize("starts", [(0, 10 / 24), (7200, 0), (95443, 95443 + 10 / 24), (5, 5, 5)])
def test_joined_broadcasts_are_one_clip(tmp_path, starts):
    "Parts of ten frames whose clocks begin at some second; one of them wraps after 26.5 hours."
    whole, wraps = b"", max(starts) > 90000
    for start in starts:
        part = write_video(tmp_path / "part.ts", 10, pts=[round(start * 24) + t for t in range(10)],
                           tick=Fraction(1, 24), audio=None if wraps else ("mp2", 10 / 24, start),
                           g="5")
        whole += part.read_bytes()
    (tmp_path / "joined.ts").write_bytes(whole)
    clip, film = again(tmp_path / "joined.ts", tmp_path / "film.mp4")
    n = 10 * len(starts)
    assert [bar(image) for _, image in clip] == list(range(10)) * len(starts)
    assert clip.names() == [f"{t:05d}" for t in range(n)] and clip.missing == []
    assert np.diff(clip.times) == pytest.approx(np.full(n - 1, 1 / 24), abs=.03)
    assert len(film.names()) == n and np.allclose(film.times, clip.times, atol=.002)
    if not wraps:
        line, = clip.warnings
        seconds = n / 24 if starts[0] < starts[-1] else film.times[-1]
        assert "restart" in line and tracks(film.path)[0][2] == pytest.approx(seconds, abs=.3)


@pytest.mark.parametrize("last", [0, 20])
def test_no_fault_of_the_sound_costs_the_film(tmp_path, monkeypatch, last):
    "When it is opened, and when it has begun; of a named clip that is shorter."
    path = write_video(tmp_path / "a.mp4", audio=("aac", 1), **UNEVEN)

    def fails(container, seen):
        for n, packet in enumerate(container.demux()):
            if n >= last:
                raise av.error.InvalidDataError(1, "broken")
            yield packet
    monkeypatch.setattr("gwm_nb.show.read_packets", fails)
    with VideoWriter(tmp_path / "film.mp4", like=path) as out:
        for t in range(N + 2):
            out.add(torch.zeros(3, H, W))
    assert "a.mp4" in out.warnings[0] and "broken" in out.warnings[0]
    film, wanted = open_clip(tmp_path / "film.mp4"), np.array(TICKS) / 30
    assert len(film.names()) == N + 2 and np.allclose(film.times[:N], wanted, atol=1e-3)


def test_links_are_followed_once_and_unreadable_folders_left_out(tmp_path, monkeypatch, capsys):
    for folder in ("a", "b/c", "locked"):
        write_frames(tmp_path / folder, map(pattern, range(3)))
    for target, link in ((".", "zz"), ("..", "b/up"), ("a", "d"), ("self", "self")):
        (tmp_path / link).symlink_to(target)

    def iterdir(path, listed=Path.iterdir):
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
        refused(call, tmp_path / "nowhere", says="nowhere", error=FileNotFoundError)
        refused(call, tmp_path, says=str(tmp_path))
    write_video(tmp_path / "a2.mp4")
    for name in ("a10.mov", "b.mp4", "b.avi"):
        shutil.copy(tmp_path / "a2.mp4", tmp_path / name)
    for name in ("a2.jpg", "b.jpg"):
        write_image(tmp_path / name, pattern(0))
    assert [c.name for c in find_clips(tmp_path)] == ["a2", "a10", "b.avi", "b.mp4"]
    assert [c.path.name for c in find_clips(tmp_path, ["b.avi"])] == ["b.avi"]
    refused(find_clips, tmp_path, ["a2", "c"], says="'c'.*a2, a10, b")
    write_image(tmp_path / "b.png", pattern(0))
    refused(list_images, tmp_path, says=r"\(b\)")


def test_a_film_of_an_excerpt_has_its_part_of_the_sound(tmp_path):
    "Of 4 s with a click at 2.5 s."
    def loudest(path):
        with av.open(str(path)) as f:
            return max((np.abs(a.to_ndarray()).max(), a.time) for a in f.decode(audio=0))[1]
    click = lambda n: np.where(abs(n - 120500) < 500, np.sin(.3 * n), 0)
    source = write_video(tmp_path / "a.mp4", 40, rate=10, audio=("aac", 4, 0, click))
    clip, film = again(Excerpt(source, start="2s", end=35, every=5), tmp_path / "film.mp4")
    assert list(clip.numbers) == [20, 25, 30] and len(film.names()) == 3
    assert np.allclose(film.times, [0, .5, 1], atol=1e-3)
    assert loudest(source) == pytest.approx(2.5, abs=.05)
    assert loudest(film.path) == pytest.approx(.5, abs=.08)
    assert tracks(film.path)[0][2] == pytest.approx(1.5, abs=.1)


def test_excerpts_of_videos_and_folders(tmp_path):
    video = write_video(tmp_path / "a.mp4")
    folder = write_frames(tmp_path / "folder", map(pattern, range(N)))
    for path in (video, folder):
        clip = Excerpt(path, start=2, end=9, every=3, max_side=32)
        shown = dict(clip)
        assert list(clip.numbers) == [2, 5, 8] and clip.size == (24, 32) and clip.warnings == []
        assert all(i.shape == (3, 24, 32) for i in shown.values()) and clip.names() == list(shown)
        assert clip.rate == 8 and np.allclose(clip.times, [0, 3 / 24, 6 / 24], atol=1e-3)
        assert Excerpt(path, max_side=999).size == (H, W)
        for options, says in ((dict(start="1:00:05.5", every=2), "12 frames.* 0.5 s"),
                              (dict(start=6, end=3), "no frame")):
            refused(lambda: list(Excerpt(path, **options)), says=says)
    slow = Excerpt(folder, fps=6, start="0.5s")
    assert len(dict(slow)) == N - 3 and slow.rate == 6 and slow.times[1] == pytest.approx(1 / 6)
    for options, says in ((dict(every=0), "every.*0"), (dict(fps=float("nan")), "fps.*nan"),
                          (dict(fps=1e300), "fps.*e.300"), (dict(start="1:-2"), "'1:-2'.*1:05"),
                          (dict(end="3.5"), "'3.5'.*90, 3s or 1:05")):
        refused(Excerpt, video, **options, says=says)
