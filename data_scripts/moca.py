"Prepare MoCA, camouflaged animals: the 88 sequences that video segmentation is measured on; the truth is boxes."
import csv
import functools
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from _prepare import Job, command, decode, encode_mask, find, prepare
from gwm_nb.benchmarks import annotated_sequences, load_predictions, measure_files

SEQUENCES = ('arabian_horn_viper arctic_fox arctic_fox_1 arctic_wolf_0 arctic_wolf_1 bear black_cat_0 black_cat_1 crab crab_1 cuttlefish_0 cuttlefish_1 '
             'cuttlefish_4 cuttlefish_5 dead_leaf_butterfly_1 desert_fox devil_scorpionfish devil_scorpionfish_1 devil_scorpionfish_2 egyptian_nightjar '
             'elephant flatfish_0 flatfish_1 flatfish_2 flatfish_4 flounder flounder_3 flounder_4 flounder_5 flounder_6 flounder_7 flounder_8 flounder_9 '
             'fossa goat_0 goat_1 groundhog hedgehog_0 hedgehog_1 hedgehog_2 hedgehog_3 hermit_crab ibex jerboa jerboa_1 lichen_katydid lion_cub_0 '
             'lion_cub_1 lion_cub_3 lioness marine_iguana markhor meerkat mountain_goat nile_monitor_1 octopus octopus_1 peacock_flounder_0 '
             'peacock_flounder_1 peacock_flounder_2 polar_bear_0 polar_bear_1 polar_bear_2 pygmy_seahorse_2 pygmy_seahorse_4 rodent_x scorpionfish_0 '
             'scorpionfish_1 scorpionfish_2 scorpionfish_3 scorpionfish_4 scorpionfish_5 seal_1 seal_2 seal_3 shrimp snow_leopard_0 snow_leopard_1 '
             'snow_leopard_2 snow_leopard_3 snow_leopard_6 snow_leopard_7 snow_leopard_8 snowy_owl_0 spider_tailed_horned_viper_0 '
             'spider_tailed_horned_viper_1 spider_tailed_horned_viper_2 spider_tailed_horned_viper_3').split()
FRAMES = 4803
LONGEST, STEP = 300, 3      # of a sequence the first 300 frames, and of these every third
WIDTH, HEIGHT = 1280, 720

# A logo lies in the corner beyond this point (x, y), as MotionGrouping lists them: the image is cut there, on the nearer side of each axis.
LOGOS = {(89, 37): 'arctic_fox arctic_fox_1 desert_fox jerboa jerboa_1 marine_iguana markhor meerkat snow_leopard_0 snow_leopard_1 snow_leopard_2 snow_leopard_3',
         (107, 106): 'black_cat_0 black_cat_1', (1011, 601): 'crab cuttlefish_0 cuttlefish_1 cuttlefish_4', (1205, 90): 'crab_1', (318, 650): 'egyptian_nightjar',
         (1189, 109): 'elephant', (1149, 81): 'flounder octopus octopus_1 pygmy_seahorse_4', (1029, 589): 'flounder_3 flounder_4', (248, 103): 'fossa',
         (962, 672): 'lichen_katydid', (260, 120): 'lioness', (1202, 102): 'polar_bear_0 polar_bear_1 snow_leopard_6 snow_leopard_7 snow_leopard_8',
         (1030, 615): 'pygmy_seahorse_2', (260, 0): 'rodent_x', (1027, 0): 'seal_1 shrimp', (0, 95): 'seal_2', (1027, 95): 'seal_3', (1029, 629): 'snowy_owl_0',
         (1152, 97): 'spider_tailed_horned_viper_0', (120, 57): 'spider_tailed_horned_viper_2 spider_tailed_horned_viper_3'}
BARS = {'hedgehog_0': (10, 631, 0, None)} | {f'peacock_flounder_{i}': (0, None, 92, 632) for i in range(3)}      # what is between black bars: x, x, y, y
ORIGIN = 'JPEGImages and annotations.csv of https://www.robots.ox.ac.uk/~vgg/data/MoCA/'


def window(sequence, height, width):
    "What is left of a frame without logos and black bars: slices of rows and columns."
    left, right, top, bottom = BARS.get(sequence, (0, None, 0, None))
    for (x, y), names in LOGOS.items():
        if sequence not in names.split(): continue
        left, right = (left, x) if x > width / 2 else (x, right)
        top, bottom = (top, y) if y > height / 2 else (y, bottom)
    return slice(top, bottom), slice(left, right)


def fitted(pixels, sequence): return cv2.resize(pixels[window(sequence, *pixels.shape[:2])], (WIDTH, HEIGHT))


def frame(member, sequence):
    "The frame, cut and resized, as JPEG."
    return cv2.imencode('.jpg', fitted(decode(member, cv2.IMREAD_COLOR), sequence))[1].tobytes()


def filled_box(member, sequence, box):
    "The box of the frame `member`, filled, cut and resized as the frame is, as PNG."
    left, top, width, height = box
    pixels = np.zeros_like(decode(member))
    pixels[max(int(top), 0):int(top + height), max(int(left), 0):int(left + width)] = 255
    return encode_mask(fitted(pixels, sequence) > 127)


def read_boxes(member):
    "{sequence: {frame number: (x, y, width, height)}} of the annotated frames, from a table of the VGG Image Annotator."
    boxes, columns = defaultdict(dict), None
    for number, row in enumerate(csv.reader(member.read().decode('utf-8', 'replace').splitlines()), 1):
        if columns is None:
            if {'file_list', 'spatial_coordinates'} <= set(row): columns = row.index('file_list'), row.index('spatial_coordinates')
            continue
        if len(row) <= max(columns): continue
        place, shape = re.search(r'([^/"\[\]]+)/(\d+)\.jpg', row[columns[0]]), row[columns[1]]
        try: shape = [float(n) for n in json.loads(shape)]
        except (ValueError, TypeError): shape = None
        if place is None or shape is None or len(shape) not in (0, 5): raise ValueError(f'{member.name}: line {number} is not a frame with its box')
        if shape: boxes[place[1]][int(place[2])] = shape[1:]
    if columns is None: raise ValueError(f'{member.name}: no columns file_list and spatial_coordinates in this table')
    return boxes


def between(annotated, t):
    "The box of frame `t`, between those of the annotated frames {number: box} on both sides of it."
    numbers = sorted(annotated)
    return [float(np.interp(t, numbers, [annotated[n][i] for n in numbers])) for i in range(4)]


def plan_sequence(sequence, frames, annotated):
    "Frames up to the last box, renumbered from 0."
    jobs, missing = [], []
    for place, t in enumerate(range(0, min(max(annotated) + 1, LONGEST), STEP)):
        if t not in frames: missing.append(f'no frame {sequence}/{t:05d}')
        else:
            box = functools.partial(filled_box, sequence=sequence, box=between(annotated, t))
            jobs += [Job(f'JPEGImages/{sequence}/{place:05d}.jpg', (frames[t],), functools.partial(frame, sequence=sequence)),
                     Job(f'Annotations/{sequence}/{place:05d}.png', (frames[t],), box)]
    return jobs, missing


def plan(members):
    "Jobs, and what is missing, of all sequences."
    frames = defaultdict(dict)
    for match, m in find(members, r'JPEGImages/([^/]+)/(\d+)\.jpg'): frames[match[1]].setdefault(int(match[2]), m)
    table = next((m for _, m in find(members, r'annotations\.csv')), None)
    if not frames.keys() & set(SEQUENCES): return [], []
    if table is None: raise ValueError(f'annotations.csv is missing; needed: {ORIGIN}')
    boxes = read_boxes(table)
    there = [s for s in SEQUENCES if s in frames and s in boxes]
    planned = [plan_sequence(s, frames[s], boxes[s]) for s in there]
    jobs = [j for found, _ in planned for j in found]
    missing = [f'{len(jobs) // 2} frames instead of {FRAMES}'] if len(jobs) != 2 * FRAMES else []
    missing += [f'no sequence {s}' for s in SEQUENCES if s not in frames] + [f'no boxes of {s}' for s in SEQUENCES if s in frames and s not in boxes]
    return jobs, missing + [x for _, without in planned for x in without]


@command(sources=dict(nargs='+'))
def moca(sources: str, # archives or folders with JPEGImages/SEQ/00000.jpg, and annotations.csv
         out: str = 'data', # folder for data sets
         partial: bool = False): # take what is there, even if something is missing
    """Write OUT/MoCA/JPEGImages/SEQ/00000.jpg and OUT/MoCA/Annotations/SEQ/00000.png, the box of the animal, filled
    (https://www.robots.ox.ac.uk/~vgg/data/MoCA/)."""
    prepare('MoCA', sources, out, plan, 'JPEGImages', 'Annotations', ORIGIN, partial)


@command
def score(masks: str, # MASKS/SEQ/00000.png: masks/ of gwm_evaluate --save, or gwm_segment --out MASKS/SEQ; 0 is background
          data: str = 'data/MoCA', # the folder that this script has prepared
          partial: bool = False): # score the sequences that are there, even if some are missing
    """Print MoCA's figures of masks: J over sequences, and the share of frames whose box overlaps by more than 0.5 ... 0.9.
    The same by gwm_evaluate --predictions MASKS --data DATA, where all sequences are there."""
    if not Path(masks).is_dir(): raise FileNotFoundError(f'{masks}: no such folder of masks')
    clips, _ = annotated_sequences(data)
    missing = [c.name for c in clips if not (Path(masks)/c.name).is_dir()]
    told = f'{len(missing)} of {len(clips)} sequences are missing, {missing[0]} first' if missing else ''
    if len(missing) == len(clips) or missing and not partial: raise ValueError(f'{masks}: {told}; or score what is there with --partial')
    if missing: print(f'a part only: {told}')
    there = [c for c in clips if c.name not in missing]
    (result,) = measure_files(there, lambda *sequence: load_predictions(masks, *sequence), ['moca'], every_frame=True)
    rates = {name: value for name, value in result.items() if name.startswith('success')}
    for name, value in dict(J=result['J'], **rates).items(): print(f'{name.replace(" ", "_") + "_moca":17} {value:.3f}')
    print(f'{"frames":17} {result["frames"]}')


if __name__ == '__main__':
    if sys.argv[1:2] == ['score']:
        del sys.argv[1]
        score()
    else: moca()
