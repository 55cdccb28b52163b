"Segment the clips of a prepared data set, each alone and without labels, and measure J against its annotations."
import resource
import time
from ast import literal_eval
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import spearmanr

from gwm_nb.clips import read_frames
from gwm_nb.evaluate import jaccard
from gwm_nb.commands import command
from gwm_nb.files import find_clips, list_images, read_mask
from gwm_nb.refine import diffuse, doubts, first_guess, get_refine_settings, learn, look_at, motion_odds, motion_residual, motion_thresholds, refine_clip


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
    masks = [found[t] > .5 for t in range(len(found))]
    frames = score(masks, truths)
    row = dict(J=frames.mean(), smallest=min(m.float().mean().item() for m in masks), confidence=found.confidence.mean(), seconds=seconds, frames=len(found),
               within=spearmanr(found.confidence, frames).statistic, doubts=len(doubts(found)))
    if residual: row['residual'] = score(motion_residual(frames_of(clip), settings), truths).mean()
    return row


def lever_row(clip, annotations, settings):
    "J of the first look, on superpixels, with one thing changed at a time."
    truths = [read_mask(file) > 0 for file in list_images(annotations)]
    look = look_at(frames_of(clip), settings)
    moves = motion_odds(look, motion_thresholds(look))
    plain, guess = diffuse(look.graph, expit(moves)), first_guess(look, moves, settings)
    rounds = len(settings.first)

    def learned(start=guess, balances=settings.first, trust=None, **changes):
        return learn(look, moves, start, balances, replace(settings, **changes), trust=trust)[0]

    found = {'diffusion': plain, 'and border prior': guess, 'first look': learned(), 'ridge .01': learned(ridge=.01), 'ridge .16': learned(ridge=.16), 'only grow': learned(balances=(1.,) * rounds),
             'only purify': learned(balances=(.5,) * rounds), 'no graph': learned(anchor=1e5), 'no border prior': learned(plain), 'no trust': learned(trust=np.ones(len(truths)))}
    enlarged = lambda p: (torch.nn.functional.interpolate(torch.from_numpy(look.paint(p))[None], truths[0].shape)[0] > .5)
    return {name: score(enlarged(p), truths).mean() for name, p in found.items()}


def print_levers(clips, settings):
    rows = []
    for name, path, annotations in clips:
        rows.append(lever_row(path, annotations, settings))
        print(f'{name:20}', '  '.join(f'{key} {value:.3f}' for key, value in rows[-1].items()), flush=True)
    print(f'mean of {len(rows):3} clips   ', '  '.join(f'{key} {np.mean([r[key] for r in rows]):.3f}' for key in rows[0]))


@command(clips=dict(nargs='*'), set=dict(nargs='*'))
def score_clips(data: str, # a prepared data set: JPEGImages and Annotations in it
                preset: str = 'default', # of gwm_nb.refine: default or fast
                residual: bool = False, # measure the thresholded residual too
                levers: bool = False, # what parts of the first look are worth, in place of the whole
                clips: str = (), # only these; default: all
                set: str = ()): # changes of the settings, as in ridge=0.1
    "Print J of each clip, and the rank correlation of the confidence with J."
    settings = get_refine_settings(preset)
    for change in set:
        name, _, value = change.partition('=')
        try: settings = replace(settings, **{name: value if name in ('features', 'pretrained', 'method') else literal_eval(value)})
        except (TypeError, ValueError, SyntaxError): raise ValueError(f'no setting and value of RefineSettings: {change}') from None
    found = [(Path(clip.path).name, clip.path, str(clip.path).replace('JPEGImages', 'Annotations')) for clip in find_clips(Path(data)/'JPEGImages')]
    found = [(name, *paths) for name, *paths in found if not clips or name in clips]
    if not found: raise ValueError(f'{data}: none of these clips: {", ".join(clips)}')
    if levers: return print_levers(found, settings)
    rows = {}
    for name, path, annotations in found:
        rows[name] = row = score_clip(path, annotations, settings, residual)
        print(f'{name:20}', *(f'{key} {value:.3f}' for key, value in row.items()), flush=True)
    mean = lambda key: np.mean([row[key] for row in rows.values()])
    print(f'mean of {len(rows)} clips: J {mean("J"):.3f}' + (f', of the residual {mean("residual"):.3f}' if residual else ''))
    if len(rows) > 2:
        ranks = spearmanr(*([row[key] for row in rows.values()] for key in ('confidence', 'J'))).statistic
        print(f'rank correlation of confidence and J: {ranks:.2f} between clips, {mean("within"):.2f} within them')
    print(f'peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB')


if __name__ == '__main__': score_clips()
