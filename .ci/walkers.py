"""Make nbs/images/walkers.webp, the first image of the README: gwm_segment on a real clip.

    python .ci/walkers.py vtest.avi

The clip is in samples/data of OpenCV's repository, and in the package opencv-doc of Debian.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gwm_nb.clips import Excerpt, read_frames
from gwm_nb.segment import segment

clip, part = sys.argv[1], dict(start=530, end=580)
file = Path(__file__).resolve().parent.parent / "nbs/images/walkers.webp"
with tempfile.TemporaryDirectory() as place:
    segment(clip, f"{place}/out", objects="auto", outputs=["overlay"], **part)
    both = zip(Excerpt(clip, **part), read_frames(f"{place}/out/overlay.mp4"), strict=True)
    pairs = [np.concatenate([a, b], 2).transpose(1, 2, 0)[130:] for (_, a), (_, b) in both]
images = [Image.fromarray(pair) for pair in pairs]
first, *rest = (image.resize((1024, 297), Image.Resampling.LANCZOS) for image in images)
first.save(file, save_all=True, append_images=rest, duration=100, loop=0, quality=60, method=6)
