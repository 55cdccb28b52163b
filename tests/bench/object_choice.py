"""Which cue finds the object without labels? J of each on every sequence of an annotated data set.

    python tests/bench/object_choice.py RUN --data DAVIS2016

RUN is a run's folder or a checkpoint. The first table takes the network's masks; `best` is the best
choice of masks that a label could make. In the second the true object is one mask, and the
background is divided as the network divides it.
"""
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from fastcore.script import call_parse

from gwm_nb.benchmarks import annotated_sequences, check_clip, load_any
from gwm_nb.clips import read_frames
from gwm_nb.evaluate import (choose_by_border, choose_object, jaccard, motion_ratio, object_mask,
                             residual_motion)
from gwm_nb.flow import estimate_flow
from gwm_nb.network import predict_masks
from gwm_nb.store import shrink

SIZE = 128, 224


def with_truth(masks, truth):
    "The true object (N,h,w) as one mask, the background divided by the three largest masks."
    masks, truth = masks[:len(truth)], truth[:, None].float()
    background = masks[:, masks.mean((0, 2, 3)).argsort(descending=True)[:3]]
    background = background / background.sum(1, keepdim=True).clamp_min(1e-6)
    return torch.cat([background * (1 - truth), truth], 1)


def measure(masks, flow, truth):
    "J of the best choice, and of each cue's."
    moves = motion_ratio(masks, residual_motion(flow)).clamp_min(1e-3).log()
    subsets = map(torch.tensor, itertools.product([False, True], repeat=masks.shape[1]))
    choices = dict(best=[s for s in subsets if 0 < sum(s) < len(s)],
                   border=[choose_by_border(masks)], both=[choose_object(masks, flow)],
                   motion=[moves > moves.mean()])
    score = lambda chosen: jaccard(object_mask(masks[:len(truth)], chosen), truth).mean().item()
    return {name: max(map(score, found)) for name, found in choices.items()}


@call_parse
def main(run: str, # a run's folder, or a checkpoint
         data: str = "data/DAVIS2016" # an annotated data set
        ):
    "J by border, by motion, and by both."
    network, tables = load_any(run), {"masks as they are": {}, "object as one mask": {}}
    for clip in annotated_sequences(data)[0]:
        checked = check_clip(clip)
        truths = checked.truths()
        images = torch.stack([shrink(image, SIZE) for _, image in read_frames(clip.path)])
        masks, flow = predict_masks(network, images), estimate_flow(images[:-1], images[1:])
        labels = torch.stack([torch.from_numpy((truths[t] > 0).astype(np.float32)) for t in truths])
        truth = F.interpolate(labels[:, None], SIZE, mode="area")[:, 0] > .5
        for title, found in zip(tables, (masks[list(truths)], with_truth(masks, truth))):
            tables[title][clip.name] = measure(found, flow, truth)
    for title, rows in tables.items():
        names = list(next(iter(rows.values())))
        print(f"{title:18}", *[f"{name:>11}" for name in names])
        mean = {name: np.mean([r[name] for r in rows.values()]) for name in names}
        for clip, row in (rows | {"mean": mean}).items():
            print(f"{clip:18}", *[f"{row[name]:11.3f}" for name in names])
