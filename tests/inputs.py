"Small inputs that several tests make, and networks that stand in for trained ones."
import hashlib
import re
import zlib
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import sqrt
from threading import Thread

import av
import cv2
import numpy as np
import pytest
import torch

from gwm_nb.configuration import make_config
from gwm_nb.paper import paper_network
from gwm_nb.scenes import MovingScenes


def refused(call, *args, says, error=ValueError, **options):
    "Check that a call fails in one line, which matches `says` or has all of its words. Returns it."
    with pytest.raises(error) as e:
        call(*args, **options)
    line = str(e.value)
    right = all(w in line for w in says) if isinstance(says, list) else re.search(says, line)
    assert right and "\n" not in line, line
    return line


def write_image(path, pixels):
    "Write an RGB or grey image, and make its folder."
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def frame_pixels(scene, t):
    "Frame `t` of a scene (h,w,3) uint8."
    return (scene.frame(t) * 255).round().byte().permute(1, 2, 0).numpy()


def write_scene(frames, masks=None, n=6, seed=14, size=(64, 96), suffix=".png"):
    "Write the frames of a scene, and its annotations into the folder `masks`. Returns `frames`."
    scene = MovingScenes(1, seed=seed, size=size).scene(0)
    for t in range(n):
        write_image(frames / f"{t:05d}{suffix}", frame_pixels(scene, t))
        if masks:
            write_image(masks / f"{t:05d}.png", scene.labels(t).numpy().astype(np.uint8) * 255)
    return frames


def write_frames(folder, frames, first=0, suffix=".png"):
    "Write images as 00000.png, ... into a folder, which is returned."
    for t, pixels in enumerate(frames, first):
        write_image(folder / f"{t:05d}{suffix}", pixels)
    return folder


def remove(place):
    "A function that removes files below the folder that it is given."
    return lambda root: [file.unlink() for file in root.glob(place)]


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def write_davis(root, clips=("dog", "cows"), frames=6):
    "Write a miniature of DAVIS 2016 in the published layout. Returns `root`."
    for i, clip in enumerate(clips):
        places = (root / f"DAVIS2016/{k}/480p" / clip for k in ("JPEGImages", "Annotations"))
        write_scene(*places, frames, seed=14 + i, suffix=".jpg")
    return root


# ---- videos

def pattern(t, h=48, w=64):
    "A frame (h,w,3) that is not its own mirror image, with a bright bar that moves."
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[: h // 2], pixels[:, : w // 4] = (200, 40, 40), (40, 40, 200)
    pixels[-h // 4 :, 3 * t % w : 3 * t % w + 8] = 250
    return pixels


def write_sound(file, codec, seconds, start=0, wave=lambda n: .2 * np.sin(.05 * n), rate=48000):
    "Add a stream of sound to an open file. Returns a function that makes its packets."
    stream = file.add_stream(codec, rate=rate, layout="mono")

    def packets():
        for k in range(int(start * rate), int((start + seconds) * rate), 960):
            part = wave(np.arange(k, k + 960))[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, k, Fraction(1, rate)
            yield from stream.encode(frame)
        yield from stream.encode()
    return packets


def write_video(path, n=12, codec="libx264", pix="yuv420p", rate=24, *, size=(48, 64), draw=None,
                pts=None, tick=None, audio=None, tags=(), aspect=None, mux=(), **options):
    """Write a video of `n` frames; `draw` makes frame t (RGB, or a frame of PyAV), `pts` are in
    units of `tick`, `audio` are the arguments of `write_sound`. Returns `path`."""
    rate = Fraction(rate).limit_denominator(100000)
    draw = draw or (lambda t: pattern(t, *size))
    with av.open(str(path), "w", options=dict(mux)) as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = pix
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for name, value in dict(tags).items():
            setattr(stream.codec_context, name, value)
        if tick:
            stream.codec_context.time_base = tick
        sounds = write_sound(file, *audio) if audio else list
        for t in range(n):
            frame = draw(t)
            if isinstance(frame, np.ndarray):
                frame = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix)
            frame.pts, frame.time_base = pts[t] if pts else t, tick or 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        for packet in sounds():
            file.mux(packet)
    return path


# ---- downloads

class Mirror(BaseHTTPRequestHandler):
    "A server of `files`: {path: content, or (content, length that is claimed)}."
    files, asked = {}, []

    def do_GET(self):
        self.asked.append(self.path)
        if self.path not in self.files:
            return self.send_error(404)
        data = self.files[self.path]
        data, length = data if isinstance(data, tuple) else (data, len(data))
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(length - start))
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, *_): pass


@contextmanager
def serve(files):
    "The address of a `Mirror`."
    Mirror.files, Mirror.asked = files, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        Thread(target=server.serve_forever, args=(.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def blob(data):
    "The id that git gives to a file."
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def place(name): return f"/checkpoints/{name}/checkpoints/checkpoint_best.pth"


# ---- networks

class Bright(torch.nn.Module):
    "Calls bright pixels object, in `k` equal shares; needs no training."
    def __init__(self, k=1):
        super().__init__()
        self.scale, self.k = torch.nn.Parameter(torch.tensor(50.)), k

    def forward(self, image):
        bright = (image.mean(1) - .5) * self.scale
        return torch.stack([-bright, *[bright] * self.k], 1)


def tiny_paper(K=4, **options):
    torch.manual_seed(0)
    return paper_network(K, name="vit_tiny_patch16_224", stride=8, blocks=(0, 1), **options)


# ---- the recorded runs of the published code

def recorded_value(name, shape):
    "The value that the recorded runs gave to parameter `name`."
    r = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(zlib.crc32(name.encode())))
    if name.endswith(("pos_embed", "cls_token")):
        return .5 * r
    if name.endswith("query_embed.weight"):
        return r
    if len(shape) >= 2:
        return r / sqrt(r.numel() / shape[0])
    return 1 + .1 * r if name.endswith(".weight") else .1 * r


@torch.no_grad()
def fill_network(network):
    "Fill every parameter of a published network by its published name."
    for name, p in network.named_parameters():
        published = name.replace("backbone.model.", "backbone.extractor.model.")
        p.copy_(recorded_value(published, tuple(p.shape)))
    return network


# ---- small trainings

TINY = ["data.scenes=8", "data.size=[32, 48]", "data.validation=4", "data.batch=4",
        "train.steps=6", "log.measure=2", "log.checkpoint=1", "log.progress=false",
        "train.device=cpu"]
ON_DAVIS = ["data.method=dis", "data.flow_size=[64, 96]", "data.size=[32, 48]",
            "network.name=small", "network.pretrained=random", "data.batch=2", "train.steps=2",
            "log.progress=false", "log.images=0", "train.device=cpu"]
ON_CLIPS = ["data.size=[48, 64]", "data.batch=2", "train.steps=2", "train.device=cpu",
            "log.progress=false"]


def davis_config(davis, *changes):
    return make_config("davis", changes=[*ON_DAVIS, f"data.path={davis}", *changes])


# ---- one clip

def moving_disk(n=6, size=(64, 96), speed=3, radius=12):
    "A textured disk that crosses a textured ground: frames (3,h,w) uint8 and masks (h,w)."
    rng, (h, w) = np.random.default_rng(0), size
    coarse = lambda: rng.integers(40, 216, (3, h // 4 + 9, w // 4 + 9))
    ground, paint = (np.kron(coarse(), np.ones((4, 4))) for _ in range(2))
    y, x = np.indices(size)
    frames, masks = [], []
    for t in range(n):
        inside = (y - h / 2)**2 + (x - w / 3 - speed * t)**2 < radius**2
        moved = np.roll(paint, speed * t, 2)
        pixels = np.where(inside, 255 - moved[:, :h, :w] // 2, ground[:, :h, :w] // 2)
        frames.append(torch.from_numpy(pixels.astype(np.uint8)))
        masks.append(torch.from_numpy(inside))
    return frames, masks


def degenerate_masks(h=120, w=214):
    "Pairs of masks (8,2,h,w) over which motions are hardly determined."
    masks = torch.zeros(8, 2, h, w)
    masks[1, 0, 3, 4] = 1                             # 0 stays empty
    masks[2, 0, 5, :12] = 1
    masks[3, 0, range(15), range(15)] = 1
    masks[4, 0, 7:9, 1:4] = 1
    masks[5, 0] = 1
    masks[6, 0, h - 6:h - 4, w - 9:w - 4] = .7        # ten pixels, far from the middle
    masks[7, 0] = .25
    masks[:, 1] = 1 - masks[:, 0]
    return masks
