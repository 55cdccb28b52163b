"Shared by the data scripts: open archives and folders, find what belongs to a data set, write whole files, count them."
import functools
import gzip
import hashlib
import http.client
import json
import lzma
import os
import posixpath
import re
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
from tqdm.auto import tqdm

from gwm_nb.commands import command
from gwm_nb.files import write_whole

IMAGE = r'([^/]+)\.(?i:jpe?g|png|bmp)'
LISTS = ('.txt', '.mat', '.dat', '.csv')    # kept while a tar archive is listed, so that it is not unpacked once more for them
LARGEST_LIST = 4 << 20


@dataclass(frozen=True)
class Member:
    "A file in an archive or a folder."
    name: str                       # its path, '/' between the parts
    order: int                      # who reads in this order never goes back in an archive
    read: Callable[[], bytes]

    @property
    def stem(self): return Path(self.name).stem

    @property
    def suffix(self): return Path(self.name).suffix.lower()


@dataclass(frozen=True)
class Job:
    "A file to write: what `make` makes of its members; a copy if nothing is made."
    target: str                     # relative to the folder of the data set
    members: tuple[Member, ...]
    make: Callable[..., bytes] = lambda member: member.read()


# ---- sources

@contextmanager
def _readable(path):
    "Say of a damaged archive which one it is."
    try: yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError) as e:
        raise ValueError(f'{path}: this archive is damaged or cut off ({e}); get it again') from e


def _read(path, read):
    with _readable(path): return read()


def _refuse_outside(path, name, place):
    "Nothing is written where a member says, but an archive that tries to leave its folder is not the published one."
    if place.startswith('/') or re.match('[A-Za-z]:', place) or '..' in posixpath.normpath(place).split('/'):
        raise ValueError(f'{path}: {name} leads out of the archive, so this is not the archive as published; get it again')


def _list_zip(path, stack):
    archive = stack.enter_context(zipfile.ZipFile(path))
    for info in archive.infolist():
        name = info.filename.replace('\\', '/')
        if stat.S_ISLNK(info.external_attr >> 16):
            _refuse_outside(path, name, posixpath.join(posixpath.dirname(name), os.fsdecode(archive.read(info))))
        elif not info.is_dir(): yield name, functools.partial(archive.read, info)


def _list_tar(path, stack):
    archive = stack.enter_context(tarfile.open(path))
    for info in archive:
        if info.issym(): _refuse_outside(path, info.name, posixpath.join(posixpath.dirname(info.name), info.linkname))
        if info.islnk(): _refuse_outside(path, info.name, info.linkname)
        if not info.isreg(): continue
        if info.name.endswith(LISTS) and info.size <= LARGEST_LIST: yield info.name, functools.partial(bytes, archive.extractfile(info).read())
        else: yield info.name, lambda info=info: archive.extractfile(info).read()


def _list_folder(path):
    seen = set()                    # links are followed, but no circles
    for root, folders, files in os.walk(os.path.abspath(path), followlinks=True):
        if (real := os.path.realpath(root)) in seen: folders.clear(); continue
        seen.add(real), folders.sort()
        for f in sorted(files): yield Path(root, f).as_posix(), Path(root, f).read_bytes


def _list_source(path, stack):
    "(name, function that reads it) of every file of a source. The files of a folder have their full path as name."
    if path.is_dir(): return list(_list_folder(path))
    if not path.exists(): raise FileNotFoundError(f'{path}: no such archive or folder')
    with open(path, 'rb') as f: start = f.read(4)
    if start == b'Rar!' or path.suffix.lower() == '.rar': raise ValueError(f'{path}: unpack this .rar archive first and give the folder')
    kind = _list_zip if zipfile.is_zipfile(path) else _list_tar if tarfile.is_tarfile(path) else None
    if kind is None and path.suffix.lower() in LISTS: return [(path.name, path.read_bytes)]
    if kind is None: raise ValueError(f'{path}: neither a .zip nor a .tar archive, or damaged or cut off; get it again')
    with _readable(path): members = list(kind(path, stack))
    for name, _ in members: _refuse_outside(path, name, name)
    return [(name, functools.partial(_read, path, read)) for name, read in members]


@contextmanager
def open_sources(paths # archives (.zip, .tar, .tgz), folders, single .txt or .mat files
                ): # list of members
    "All files in the sources, to be read while this is open. Raises `ValueError` for damaged and suspicious archives."
    with ExitStack() as stack:
        listed = [m for p in paths for m in _list_source(Path(p), stack)]
        yield [Member(name, i, read) for i, (name, read) in enumerate(listed)]


def find(members, # of `open_sources`
         pattern # how the path ends, as a regular expression
        ): # generator of (match, member)
    "Members whose path ends in `pattern`, at any depth; hidden files and what macOS adds to archives are left out."
    wanted = re.compile(f'(?:.*/)?(?:{pattern})')
    for m in members:
        if (match := wanted.fullmatch(m.name)) and '__MACOSX/' not in m.name and not posixpath.basename(m.name).startswith('.'): yield match, m


def read_list(members, name):
    "The lines of the first text file called `name`, split at blanks."
    text = next((m for _, m in find(members, re.escape(name))), None)
    if text is None: raise ValueError(f'{name} is missing; give the archive, the folder or the file itself as one more source')
    return [line.split() for line in text.read().decode('utf-8', 'replace').splitlines() if line.strip()]


# ---- images

def decode(member, flags=cv2.IMREAD_GRAYSCALE):
    "Pixels of an image, 8 bits a channel."
    data = np.frombuffer(member.read(), np.uint8)
    pixels = cv2.imdecode(data, flags) if data.size else None
    if pixels is None: raise ValueError(f'{member.name}: not a readable image')
    return pixels


def encode_mask(mask # (h,w) bool
               ): # bytes of a PNG file, 0 and 255
    return cv2.imencode('.png', mask.astype(np.uint8) * 255)[1].tobytes()


def half_of_scale(*members):
    "A mask as PNG: foreground is what is brighter than half of the scale in any of the images."
    masks = [decode(m) > 127 for m in members]
    if len({m.shape for m in masks}) > 1: raise ValueError(f'{members[0].name}: the masks of this frame differ in size')
    return encode_mask(np.any(masks, axis=0))


def plan_pairs(images, # {name: member}
               masks, # {name: member}
               image_folder, # for the images
               mask_folder, # for the masks
               expected, # how many there are
               make=half_of_scale # a mask member as PNG
              ): # jobs, what is missing
    "Write every image that has a mask, and the mask, under one name."
    both = [n for n in images if n in masks]
    jobs = [Job(f'{image_folder}/{n}{images[n].suffix}', (images[n],)) for n in both] + [Job(f'{mask_folder}/{n}.png', (masks[n],), make) for n in both]
    missing = [f'{len(both)} images instead of {expected}'] if len(both) != expected else []
    missing += [f'no mask of {n}' for n in images if n not in masks] + [f'no image of mask {n}' for n in masks if n not in images]
    return jobs, missing


def by_name(found): # (match with the name as first group, member)
    "{name: member}, the first of each name."
    named = {}
    for match, m in found: named.setdefault(match[1], m)
    return named


# ---- writing

def write_file(path, data):
    "Write a file whole or not at all, and make its folder."
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def digest(path, kind):
    value = hashlib.new(kind)
    with open(path, 'rb') as f, tqdm(total=path.stat().st_size, desc=f'{kind} of {path.name}', unit='B', unit_scale=True, leave=False) as bar:
        while block := f.read(1 << 20): value.update(block), bar.update(len(block))
    return value.hexdigest()


def fetch(url, checksum, path):
    "Download a file, going on where an earlier try ended; it gets its name when its checksum is right."
    kind, value = checksum.split(':')
    part = path.with_name(f'{path.name}.part')
    for p in (path, part):
        if p.is_file() and digest(p, kind) == value: return p.replace(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    start = part.stat().st_size if part.is_file() else 0
    headers = {'User-Agent': 'Mozilla/5.0 (gwm_nb)'} | ({'Range': f'bytes={start}-'} if start else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            start = start if getattr(answer, 'status', None) == 206 else 0          # the server may not know how to go on
            total = start + int(answer.headers.get('Content-Length') or 0)
            with open(part, 'ab' if start else 'wb') as f, tqdm(desc=path.name, initial=start, total=total, unit='B', unit_scale=True) as bar:
                while block := answer.read(1 << 20): f.write(block), bar.update(len(block))
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
        raise ValueError(f'{url}: {getattr(e, "reason", e)}; try again, or download it by hand and give the file') from e
    if digest(part, kind) == value: return part.replace(path)
    if part.stat().st_size < total: raise ValueError(f'{url}: the connection ended early; the same command goes on from there')
    part.unlink()
    raise ValueError(f'{url}: what came has not the published {kind} {value}; try again, or give an archive that you have')


def identify(path, published):
    "Print the checksum of an archive, and whether it is the published one."
    kind, value = published.get(path.name, (None, 'sha256:'))[1].split(':')
    found = digest(path, kind)
    print(f'{path.name}: {kind} {found}' + (f', {"as" if found == value else "not as"} published' if value else ' (computed; no published checksum is known)'))


def summary(counts):
    if counts['sequences']: return '{sequences} sequences, {frames} frames, {annotations} annotations'.format(**counts)
    return '{frames} images, {annotations} masks'.format(**counts)


def _count(folder, frames, annotations):
    found = [[p for p in (folder/f).rglob('*') if p.is_file() and not p.name.startswith('.')] for f in (frames, annotations)]
    return dict(sequences=len({p.parent for p in found[0]} - {folder/frames}), frames=len(found[0]), annotations=len(found[1]))


def _some(names, n=3): return ', '.join(names[:n]) + (f' and {len(names) - n} more' if len(names) > n else '')


def prepare(name, # of the data set, and of its folder in `out`
            sources, # archives and folders
            out, # where data sets lie
            plan, # function: members -> jobs, what is missing
            frames, # folder of frames in the data set's
            annotations, # folder of annotations in the data set's
            origin, # which archives there are, and where
            partial=False, # take what is there
            download=False, # fetch the archives of `published`
            published={} # {archive: (url, checksum)}
           ):
    "Write a data set, or what is still missing of it; a file is written whole or not at all. `prepared.json` says what was done."
    folder, note = Path(out)/name, Path(out)/name/'prepared.json'
    records = json.loads(note.read_text(encoding='utf-8')) if note.is_file() else {}
    record, keep = records.get(frames), lambda **record: write_file(note, json.dumps(records | {frames: record}, indent=1).encode())
    if record and record['complete'] and _count(folder, frames, annotations) == record['counts']:
        return print(f'{name} is already complete: {summary(record["counts"])} in {folder}')
    foreign = [folder/f for f in (frames, annotations) if (folder/f).exists()]
    if foreign and not record: raise ValueError(f'{foreign[0]} exists but was not written by this script; move it, or choose another --out')
    if not sources and not download: raise ValueError(f'give the archives or the folder that you have: {origin}' + ('; or --download' if published else ''))
    if download: sources = [*sources, *(fetch(url, checksum, Path(out)/'archives'/n) for n, (url, checksum) in published.items())]
    with open_sources(sources) as members:
        jobs, missing = plan(members)
        if not jobs: raise ValueError(f'{_some([str(s) for s in sources])}: nothing of {name} in it; needed: {origin}')
        if missing and not partial: raise ValueError(f'{name} is not complete: {_some(missing)}; needed: {origin}; or take what is there with --partial')
        if missing: print(f'{name}, a part only: {_some(missing, 10)}')
        todo = [j for j in {j.target: j for j in jobs[::-1]}.values() if not (folder/j.target).exists()]
        if todo:
            for s in map(Path, sources):
                if s.is_file() and s.suffix.lower() not in LISTS: identify(s, published)
            keep(complete=False)
            for j in tqdm(sorted(todo, key=lambda j: j.members[0].order), desc=name, unit=' files'): write_file(folder/j.target, j.make(*j.members))
        counts = _count(folder, frames, annotations)
        if todo or not missing: keep(complete=not missing, counts=counts)
    print(f'{name}{"" if todo else " is already complete"}: {summary(counts)} in {folder}' + (f' ({len(todo)} files written)' if todo else ''))
