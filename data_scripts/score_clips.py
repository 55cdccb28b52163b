"Segment the clips of a prepared data set, each alone and without labels, and measure J against its annotations."
import resource
import time
from ast import literal_eval
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from gwm_nb.evaluate import jaccard
from gwm_nb.files import command, find_clips, list_images, read_frames, read_mask
from gwm_nb.refine import get_refine_settings, motion_residual, refine_clip


def frames_of(clip): return (image for _, image in read_frames(clip))


def score(masks, truths):
    "J of each frame (T,)."
    return np.array([jaccard(torch.as_tensor(m), t).item() for m, t in zip(masks, truths, strict=True)])


def score_clip(clip, annotations, settings, residual):
    "A line of the table."
    truths = [read_mask(file) > 0 for file in list_images(annotations)]
    start = time.perf_counter()
    found = refine_clip(frames_of(clip), settings)
    seconds = time.perf_counter() - start
    frames = score((found[t] > .5 for t in range(len(found))), truths)
    row = dict(J=frames.mean(), confidence=found.confidence.mean(), seconds=seconds, frames=len(found),
               within=spearmanr(found.confidence, frames).statistic)
    if residual: row['residual'] = score(motion_residual(frames_of(clip), settings), truths).mean()
    return row


@command(clips=dict(nargs='*'), set=dict(nargs='*'))
def score_clips(data: str, # a prepared data set: JPEGImages and Annotations in it
                preset: str = 'default', # of gwm_nb.refine: default or fast
                residual: bool = False, # measure the thresholded residual too
                clips: str = (), # only these; default: all
                set: str = ()): # changes of the settings, as in ridge=0.1
    "Print J of each clip, and the rank correlation of the confidence with J."
    settings = get_refine_settings(preset)
    for change in set:
        name, _, value = change.partition('=')
        try: settings = replace(settings, **{name: value if name in ('features', 'pretrained', 'method') else literal_eval(value)})
        except (TypeError, ValueError, SyntaxError): raise ValueError(f'no setting and value of RefineSettings: {change}') from None
    rows = {}
    for clip in find_clips(Path(data)/'JPEGImages'):
        name = Path(clip.path).name
        if clips and name not in clips: continue
        rows[name] = row = score_clip(clip.path, str(clip.path).replace('JPEGImages', 'Annotations'), settings, residual)
        print(f'{name:20}', *(f'{key} {value:.3f}' for key, value in row.items()), flush=True)
    mean = lambda key: np.mean([row[key] for row in rows.values()])
    print(f'mean of {len(rows)} clips: J {mean("J"):.3f}' + (f', of the residual {mean("residual"):.3f}' if residual else ''))
    if len(rows) > 2:
        ranks = spearmanr(*([row[key] for row in rows.values()] for key in ('confidence', 'J'))).statistic
        print(f'rank correlation of confidence and J: {ranks:.2f} between clips, {mean("within"):.2f} within them')
    print(f'peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB')


if __name__ == '__main__': score_clips()
