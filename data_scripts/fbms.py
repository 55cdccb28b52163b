"Prepare FBMS-59: 59 sequences, some frames annotated; all objects become one foreground."
import functools
import re
from collections import defaultdict

import cv2

from _prepare import Job, command, decode, encode_mask, find, prepare

TRAIN = ('bear01 bear02 cars2 cars3 cars6 cars7 cars8 cars9 cats02 cats04 cats05 cats07 ducks01 horses01 horses03 horses06 lion02 marple1 marple10 marple11 '
         'marple13 marple3 marple5 marple8 meerkats01 people04 people05 rabbits01 rabbits05').split()
TEST = ('camel01 cars1 cars10 cars4 cars5 cats01 cats03 cats06 dogs01 dogs02 farm01 giraffes01 goats01 horses02 horses04 horses05 lion01 marple12 marple2 '
        'marple4 marple6 marple7 marple9 people03 people1 people2 rabbits02 rabbits03 rabbits04 tennis').split()
THRESHOLDS = {'marple7': .05, 'marple2': .4}    # of full scale; .1 everywhere else
ORIGIN = 'FBMS_Trainingset.zip and FBMS_Testset.zip of https://lmb.informatik.uni-freiburg.de/resources/datasets/moseg.en.html'


def foreground(member, sequence):
    "The annotation as a mask in PNG. In .ppm files the background is white, in .pgm files it is black."
    grey = cv2.cvtColor(decode(member, cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY) / 255
    if member.suffix == '.ppm': grey[grey > .99] = 0
    return encode_mask(grey > THRESHOLDS.get(sequence, .1))


def number(name):
    "The frame number in a name: 1 of cars1_01.jpg, 100 of ducks01_0100_gt.ppm, 454 of tennis454.pgm."
    found = re.search(r'(\d+)(?:_gt)?\.\w+$', name)
    if not found: raise ValueError(f'{name}: no frame number in this name')
    return int(found[1])


def by_number(named):
    "{frame number: member}, in order."
    numbered = {}
    for name, m in named.items():
        if (n := number(name)) in numbered: raise ValueError(f'{m.name} and {numbered[n].name} have the same frame number')
        numbered[n] = m
    return dict(sorted(numbered.items()))


def listed(definition, sequence, frames):
    "Names of the annotations in the definition file that lies beside them; says if it counts other frames than there are."
    text = definition.read().decode('latin1')
    total = re.search(r'Total number of frames in this shot:\s*(\d+)', text)
    if total and int(total[1]) != frames: print(f'{sequence} has {frames} frames, its definition file counts {total[1]}')
    return re.findall(r'^File name:\s*(\S*\d(?:_gt)?\.p[gp]m)', text, re.M)


def plan_sequence(sequence, frames, truth, definition):
    "Frames are numbered from 1; an annotation is named after the frame that has its number."
    frames = by_number(frames)
    truth = {name: m for name, m in truth.items() if 'PROB' not in name}            # probabilities
    coloured = {name: m for name, m in truth.items() if m.suffix == '.ppm'}         # beside them lie grey copies, in which objects vanish
    truth, make = by_number(coloured or truth), functools.partial(foreground, sequence=sequence)
    position = {n: f'{i:05d}' for i, n in enumerate(frames, 1)}
    jobs = [Job(f'JPEGImages/{sequence}/{position[n]}.jpg', (m,)) for n, m in frames.items()]
    jobs += [Job(f'Annotations/{sequence}/{position[n]}.png', (m,), make) for n, m in truth.items() if n in position]
    names = listed(definition, sequence, len(frames)) if definition else []
    missing = [f'no annotation {sequence}/GroundTruth/{name}' for name in names if number(name) not in truth]
    missing += [f'no frame for the annotation {m.name}' for n, m in truth.items() if n not in position]
    return jobs, missing if truth or missing else [f'no annotations of {sequence}']


def plan(members):
    "Jobs, and what is missing, of all sequences."
    frames, truth, definitions = defaultdict(dict), defaultdict(dict), {}
    place = rf'(?:Trainingset|Testset)/({"|".join(TRAIN + TEST)})/'
    for match, m in find(members, place + r'([^/]+\.jpg)'): frames[match[1]].setdefault(match[2], m)
    for match, m in find(members, place + r'GroundTruth/([^/]+\.p[gp]m)'): truth[match[1]].setdefault(match[2], m)
    for match, m in find(members, place + r'GroundTruth/[^/]+\.dat'): definitions.setdefault(match[1], m)
    planned = [plan_sequence(s, frames[s], truth[s], definitions.get(s)) for s in sorted(frames)]
    missing = [f'no sequence {s}' for s in TRAIN + TEST if s not in frames]
    return [j for jobs, _ in planned for j in jobs], missing + [x for _, without in planned for x in without]


@command(sources=dict(nargs='+'))
def fbms(sources: str, # FBMS_Trainingset.zip and FBMS_Testset.zip, or the folder they were unpacked to
         out: str = 'data', # folder for data sets
         partial: bool = False): # take what is there, even if something is missing
    """Write OUT/FBMS/JPEGImages/SEQ/00001.jpg, ... and Annotations/SEQ/00001.png for annotated frames.
    The archives are at https://lmb.informatik.uni-freiburg.de/resources/datasets/moseg.en.html"""
    prepare('FBMS', sources, out, plan, 'JPEGImages', 'Annotations', ORIGIN, partial)


if __name__ == '__main__': fbms()
