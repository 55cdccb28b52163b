"Prepare DAVIS 2016: 50 sequences, every frame annotated."
from _prepare import Job, command, find, prepare

TRAIN = ('bear bmx-bumps boat breakdance-flare bus car-turn dance-jump dog-agility drift-turn elephant flamingo hike hockey horsejump-low kite-walk lucia '
         'mallard-fly mallard-water motocross-bumps motorbike paragliding rhino rollerblade scooter-gray soccerball stroller surf swing tennis train').split()
VAL = ('blackswan bmx-trees breakdance camel car-roundabout car-shadow cows dance-twirl dog drift-chicane drift-straight goat horsejump-high kite-surf '
       'libby motocross-jump paragliding-launch parkour scooter-black soapbox').split()
FRAMES = 3455
ORIGIN = 'DAVIS-data.zip of https://davischallenge.org/davis2016/code.html'


def plan(members, resolution='480p'):
    "Copies of frames, annotations and lists as they are."
    jobs = {}
    for top, ending in (('JPEGImages', 'jpg'), ('Annotations', 'png')):
        for match, m in find(members, rf'({top}/{resolution}/([^/]+)/\d+)\.{ending}'):
            if match[2] not in TRAIN + VAL: raise ValueError(f'{m.name}: {match[2]} is not a sequence of DAVIS 2016; needed: {ORIGIN}')
            jobs.setdefault(f'{match[1]}.{ending}', m)
    frames, annotations = [{tuple(t[:-4].split('/')[2:]) for t in jobs if t.startswith(top)} for top in ('JPEGImages', 'Annotations')]
    missing = [f'{len(frames)} frames instead of {FRAMES}'] if len(frames) != FRAMES else []
    missing += [f'no sequence {s}' for s in sorted({*TRAIN, *VAL} - {s for s, _ in frames})]
    missing += [f'no annotation of {s}/{n}' for s, n in sorted(frames - annotations)]
    missing += [f'no frame of annotation {s}/{n}' for s, n in sorted(annotations - frames)]
    lists = {match[1]: m for match, m in find(members, rf'(ImageSets/{resolution}/\w+\.txt)')} if frames else {}
    return [Job(target, (m,)) for target, m in (jobs | lists).items()], missing


@command(sources=dict(nargs='+'), resolution=dict(choices=['480p', '1080p']))
def davis2016(sources: str, # DAVIS-data.zip, or the folder it was unpacked to
              out: str = 'data', # folder for data sets
              resolution: str = '480p', # of frames and annotations
              partial: bool = False): # take what is there, even if something is missing
    "Write OUT/DAVIS2016/JPEGImages/480p/SEQ/00000.jpg and Annotations/480p/SEQ/00000.png. DAVIS-data.zip is at https://davischallenge.org/davis2016/code.html"
    prepare('DAVIS2016', sources, out, lambda members: plan(members, resolution), f'JPEGImages/{resolution}', f'Annotations/{resolution}', ORIGIN, partial)


if __name__ == '__main__': davis2016()
