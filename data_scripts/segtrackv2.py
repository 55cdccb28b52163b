"Prepare SegTrackv2: 14 sequences, every frame annotated; several objects become one foreground."
from collections import defaultdict

from _prepare import IMAGE, Job, command, find, half_of_scale, prepare

SEQUENCES = 'bird_of_paradise birdfall bmx cheetah drift frog girl hummingbird monkey monkeydog parachute penguin soldier worm'.split()
ORIGIN = 'SegTrackv2.zip of https://web.engr.oregonstate.edu/~lif/SegTrack2/dataset.html'


def listed_frames(members, sequence):
    "Names of the frames in ImageSets/SEQ.txt, whose first line is the sequence's; none if there is no list."
    text = next((m for _, m in find(members, rf'ImageSets/{sequence}\.txt')), None)
    return text.read().decode().split()[1:] if text else []


def plan(members):
    "Frames are copied and keep their names and formats; objects, which lie in folders 1, 2, ..., are united."
    frames, objects, place = defaultdict(dict), defaultdict(lambda: defaultdict(dict)), f'({"|".join(SEQUENCES)})/'
    for match, m in find(members, f'JPEGImages/{place}{IMAGE}'):
        if frames[match[1]].setdefault(match[2], m).suffix != m.suffix: raise ValueError(f'{m.name}: another frame has the same name and another ending')
    for match, m in find(members, rf'GroundTruth/{place}(?:(\d+)/)?{IMAGE}'): objects[match[1]][match[2]].setdefault(match[3], m)
    jobs, missing = [], [f'no sequence {s}' for s in SEQUENCES if s not in frames]
    for s, named in sorted(frames.items()):
        missing += [f'no frame {s}/{n}' for n in listed_frames(members, s) if n not in named]
        missing += [f'no annotations of {s}'] if s not in objects else []
        for name, frame in named.items():
            jobs.append(Job(f'JPEGImages/{s}/{name}{frame.suffix}', (frame,)))
            without = [o for o, masks in objects[s].items() if name not in masks]
            missing += [f'no annotation of {s}/{name}' + (f', object {o}' if o else '') for o in without]
            if objects[s] and not without: jobs.append(Job(f'Annotations/{s}/{name}.png', tuple(masks[name] for masks in objects[s].values()), half_of_scale))
    return jobs, missing


@command(sources=dict(nargs='+'))
def segtrackv2(sources: str, # SegTrackv2.zip, or the folder it was unpacked to
               out: str = 'data', # folder for data sets
               partial: bool = False): # take what is there, even if something is missing
    """Write OUT/SegTrackv2/JPEGImages/SEQ/NAME.png (or .bmp, .jpg, as published) and Annotations/SEQ/NAME.png.
    SegTrackv2.zip is at https://web.engr.oregonstate.edu/~lif/SegTrack2/dataset.html"""
    prepare('SegTrackv2', sources, out, plan, 'JPEGImages', 'Annotations', ORIGIN, partial)


if __name__ == '__main__': segtrackv2()
