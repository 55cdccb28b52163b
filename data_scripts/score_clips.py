"Segment the clips of a prepared data set, each alone and without labels, and measure J and F against its annotations."
import resource
import time
from ast import literal_eval
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.special import expit
from scipy.stats import spearmanr

from gwm_nb.benchmarks import load_any, trained_size
from gwm_nb.clips import read_frames
from gwm_nb.evaluate import boundary_f, choose_one, jaccard
from gwm_nb.commands import command
from gwm_nb.files import find_clips, list_images, read_mask
from gwm_nb.flow import resize
from gwm_nb.network import predict_masks
from gwm_nb.refine import Hint, clip_refiner, get_refine_settings, quality_warnings, refine_clip
from gwm_nb.self_training import first_guess, motion_lasts, motion_logits, motion_thresholds, self_train
from gwm_nb.store import shrink
from gwm_nb.superpixels import diffuse, otsu_threshold


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
    F = np.mean([boundary_f(m, truth) for m, truth in zip(masks, truths)])
    row = dict(J=frames.mean(), F=F, smallest=min(m.float().mean().item() for m in masks),
               confidence=found.confidence.mean(), stability=found.stability,
               seconds=seconds, frames=len(found),
               within=spearmanr(found.confidence, frames).statistic,
               warnings=len(quality_warnings(found)))
    if residual:
        row['residual'] = score(moving_pixels(clip, settings, truths[0].shape), truths).mean()
    return row


def enlarge(masks, shape):
    "Masks (T,h,w) at another size, bool."
    return torch.nn.functional.interpolate(masks[None].float(), shape)[0] > .5


def moving_pixels(clip, settings, shape):
    "Masks (T,h,w) of motion alone: the residual motion over each frame's threshold, by Otsu."
    residual = clip_refiner(frames_of(clip), replace(settings, features='')).window.residual
    moving = np.stack([v > otsu_threshold(v.ravel()) for v in residual])
    return enlarge(torch.from_numpy(moving), shape)


def network_logits(network, clip, window):
    "Log-odds (T,h,w) of the object by a trained network, from each frame alone."
    size, flows = trained_size(network), [window.flow[t, t + 1][:2] for t in range(len(window) - 1)]
    soft = predict_masks(network, (shrink(image, size) for image in frames_of(clip)))
    chosen = choose_one(soft, torch.from_numpy(np.stack(flows)).float())
    object = resize(soft[:, chosen].sum(1, keepdim=True), window.size)[:, 0]
    return object.clamp(.02, .98).logit().numpy()


def lever_row(clip, annotations, settings, network=None):
    "J of the first pass, on superpixels, with one thing changed at a time."
    truths = [read_mask(file) > 0 for file in list_images(annotations)]
    refiner = clip_refiner(frames_of(clip), settings)
    graph, rounds = refiner.build(), len(settings.balances)
    thresholds, lasting = motion_thresholds(graph), graph.average(refiner.window.lasting)
    motion = motion_logits(graph, thresholds)
    long = motion_logits(graph, thresholds, lasting) if motion_lasts(graph, lasting) else motion
    plain = diffuse(graph.links, expit(motion), settings.anchor)
    guess, start = (first_guess(graph, m, settings.anchor) for m in (motion, long))

    def learned(start=guess, balances=settings.balances, ridge=settings.ridge,
                anchor=settings.anchor, reliability=None, motion=motion):
        return self_train(graph, motion, start, balances, ridge, anchor, reliability=reliability)[0]

    found = {'diffusion': plain, 'and border prior': guess, 'first pass': learned(),
             'ridge .01': learned(ridge=.01), 'ridge .16': learned(ridge=.16),
             'only grow': learned(balances=(1.,) * rounds),
             'only purify': learned(balances=(.5,) * rounds),
             'no graph': learned(anchor=1e5), 'no border prior': learned(plain),
             'no reliability': learned(reliability=np.ones(len(truths))),
             'first pass from lasting motion': learned(start)}
    if network:
        seen = graph.average(network_logits(network, clip, refiner.window))
        found['and a network'] = learned(motion=motion + .5 * seen)
    painted = {name: torch.from_numpy(graph.paint(p)) for name, p in found.items()}
    return {name: score(enlarge(soft, truths[0].shape), truths).mean()
            for name, soft in painted.items()}


def next_click(masks, truths):
    "The `Hint` of a user who sees the worst frame: the middle of its largest wrong region."
    for t in np.argsort(score(masks, truths), kind='stable'):
        mask, truth, regions = masks[t].numpy(), truths[t].numpy(), []
        for include, wrong in ((True, truth & ~mask), (False, mask & ~truth)):
            _, label, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8))
            regions += [(stats[k, cv2.CC_STAT_AREA], k, include, label) for k in range(1, len(stats))]
        if not regions: continue
        _, k, include, label = max(regions, key=lambda region: region[0])
        depth = cv2.distanceTransform(np.pad(label == k, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        return Hint(int(t), float(x), float(y), include)


def click_row(clip, annotations, settings, clicks):
    "J and F after each of these numbers of clicks, and seconds of CPU for a click."
    truths = [read_mask(file) > 0 for file in list_images(annotations)]
    refiner, hints, row, spent = clip_refiner(frames_of(clip), settings, keep=True), [], {}, []
    scale = refiner.window.frames[0].shape[0] / truths[0].shape[0]
    for n in range(max(clicks) + 1):
        start = time.process_time()
        refiner.refine([hint.scaled(scale) for hint in hints])
        found = refiner.result(tuple(truths[0].shape))
        spent.append(time.process_time() - start)
        masks = [found[t] > .5 for t in range(len(found))]
        if n in clicks:
            row[f'J {n}'] = score(masks, truths).mean()
            row[f'F {n}'] = np.mean([boundary_f(m, truth) for m, truth in zip(masks, truths)])
        hint = next_click(masks, truths)
        if hint: hints.append(hint)
    return row | {'CPU seconds a click': np.mean(spent[1:])}


def print_rows(clips, row_of):
    rows = []
    for name, path, annotations in clips:
        rows.append(row_of(path, annotations))
        print(f'{name:20}', '  '.join(f'{key} {value:.3f}' for key, value in rows[-1].items()), flush=True)
    print(f'mean of {len(rows):3} clips   ', '  '.join(f'{key} {np.mean([r[key] for r in rows]):.3f}' for key in rows[0]))


@command(clips=dict(nargs='*'), set=dict(nargs='*'), clicks=dict(nargs='*', type=int))
def score_clips(data: str, # a prepared data set: JPEGImages and Annotations in it
                preset: str = 'default', # of gwm_nb.refine: default or fast
                residual: bool = False, # measure the thresholded residual too
                levers: bool = False, # what parts of the first pass are worth, in place of the whole
                network: str = '', # of levers: a run of gwm_train, whose masks are one more
                clicks: int = (), # J after so many clicks of a simulated user, as in 0 1 3 5
                clips: str = (), # only these; default: all
                set: str = ()): # changes of the settings, as in ridge=0.1
    "Print J and F of each clip, and the rank correlations of confidence and stability with J."
    settings = get_refine_settings(preset)
    for change in set:
        name, _, value = change.partition('=')
        try: settings = replace(settings, **{name: value if name in ('features', 'pretrained', 'method') else literal_eval(value)})
        except (TypeError, ValueError, SyntaxError): raise ValueError(f'no setting and value of RefineSettings: {change}') from None
    found = [(Path(clip.path).name, clip.path, str(clip.path).replace('JPEGImages', 'Annotations')) for clip in find_clips(Path(data)/'JPEGImages')]
    found = [(name, *paths) for name, *paths in found if not clips or name in clips]
    if not found: raise ValueError(f'{data}: none of these clips: {", ".join(clips)}')
    if levers:
        trained = load_any(network) if network else None
        return print_rows(found, lambda *paths: lever_row(*paths, settings, trained))
    if clicks: return print_rows(found, lambda *paths: click_row(*paths, settings, clicks))
    rows = {}
    for name, path, annotations in found:
        rows[name] = row = score_clip(path, annotations, settings, residual)
        print(f'{name:20}', *(f'{key} {value:.3f}' for key, value in row.items()), flush=True)
    mean = lambda key: np.mean([row[key] for row in rows.values()])
    print(f'mean of {len(rows)} clips: J {mean("J"):.3f}, F {mean("F"):.3f}' + (f', of the residual {mean("residual"):.3f}' if residual else ''))
    if len(rows) > 2:
        ranks = [spearmanr(*([row[key] for row in rows.values()] for key in (sure, 'J'))).statistic
                 for sure in ('confidence', 'stability')]
        print(f'rank correlation with J: of confidence {ranks[0]:.2f} between clips, '
              f'{mean("within"):.2f} within them; of stability {ranks[1]:.2f} between clips')
    print(f'peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB')


if __name__ == '__main__': score_clips()
