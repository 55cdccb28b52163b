"""Make nbs/images/network.webp: the object that a network of `gwm_train --preset laptop` sees in
single images, none of which it was trained on.

    python .ci/network.py runs/laptop/final.safetensors vtest.avi

The clip is in samples/data of OpenCV's repository, and in the package opencv-doc of Debian.
"""
import sys
from pathlib import Path

import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from gwm_nb.checkpoints import load
from gwm_nb.clips import Excerpt, read_frames
from gwm_nb.evaluate import choose_one
from gwm_nb.flow import resize
from gwm_nb.network import predict_masks
from gwm_nb.refine import example_clip
from gwm_nb.show import overlay
from gwm_nb.store import shrink

SIZE, SHOWN = (256, 448), (180, 315)
network, clip = sys.argv[1:]
file = Path(__file__).resolve().parent.parent / "nbs/images/network.webp"
photographs = [data.coffee(), load_sample_image("flower.jpg"), data.astronaut(),
               load_sample_image("china.jpg"), data.chelsea(), data.rocket()]
images = [next(iter(Excerpt(clip, start=540, end=541)))[1],
          [image for _, image in read_frames(example_clip()[0])][6],
          *(torch.tensor(photo).permute(2, 0, 1) for photo in photographs)]
images = torch.stack([shrink(image, SIZE) for image in images])
masks = predict_masks(load(network).eval(), images)
mask = masks[:, choose_one(masks)].sum(1, keepdim=True)
print("share of the image:", [round(m.mean().item(), 2) for m in mask])
above = resize(images, SHOWN)
below = torch.stack([overlay(a, m[0] > .5) for a, m in zip(above, resize(mask, SHOWN))])
rows = [torch.cat(list(torch.cat([above, below], 2)[n:n + 4]), 2) for n in (0, 4)]
pixels = (torch.cat(rows, 1).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
Image.fromarray(pixels).save(file, quality=80, method=6)
