"""The house in figures and in rules, read from the notebooks and modules.

    python tests/house.py

prints, for each notebook: exported lines, median lines of an exported cell, minutes to read it.

A rule is a function that returns a list of complaints, empty if all is well. `test_structure.py`
applies each of them to the house, and to something made up that breaks it.
"""
import ast
import importlib.util
import json
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "gwm_nb"
MEDIAN, LONGEST = 14, 60                # of exported cells, in lines


# ---- reading

def notebooks():
    "Paths of the book's notebooks, in order: rooms and pages."
    return sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))


def is_page(path):
    "Whether a notebook exports nothing, so that it is no room: 00_start, and the back of the book."
    return path.name.startswith(("00_", "3"))


def read_cells(path):
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return [c | {"source": "".join(c["source"])} for c in cells]


def script(name):
    "A script of .ci as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / f".ci/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def directives(cell):
    "The `#|` lines of a code cell."
    return [line[2:].strip() for line in cell["source"].splitlines() if line.startswith("#|")]


def is_exported(cell):
    told = directives(cell) if cell["cell_type"] == "code" else []
    return any(re.match(r"export[is]?\b", d) for d in told)


def code_lines(cell):
    "Lines of a code cell that say something: neither empty nor a directive."
    lines = cell["source"].splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#|")]


def of_kind(cells, kind): return [c for c in cells if c["cell_type"] == kind]


def prose(cells): return "\n\n".join(c["source"] for c in of_kind(cells, "markdown"))


# ---- figures

def minutes(cells):
    "The time to read a notebook."
    code = sum(len(code_lines(c)) for c in of_kind(cells, "code"))
    return len(prose(cells).split()) / 180 + code / 8


def exported_lengths(cells): return [len(code_lines(c)) for c in cells if is_exported(c)] or [0]


# ---- rules of modules

def floors(text):
    "The rooms, lowest first, as CONTRIBUTING.md lists them in its fenced block `floors`."
    block, = re.findall(r"^```floors\n(.*?)^```", text, re.M | re.S)
    return [name.strip() for name in block.split(",")]


def used_rooms(code):
    """Rooms that a module imports, wherever, also by a name in a string; the package itself is '*'.
    A program, below `if __name__ == '__main__'`, may import what is above."""
    tree, names = ast.parse(code), []
    main = lambda node: isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
    tree.body = [node for node in tree.body if not main(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = (f"{PACKAGE}." if node.level else "") + (node.module or "")
            whole = module.strip(".") == PACKAGE
            names += [f"{PACKAGE}.{a.name}" for a in node.names] if whole else [module]
        elif isinstance(node, ast.Import):
            names += [f"{a.name}." for a in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            names.append(node.value)
    found = [re.fullmatch(rf"{PACKAGE}\.(\w*)([.:]\w*)*", name) for name in names]
    return {m[1] or "*" for m in found if m and not m[1].startswith("__")}


# training learns of data sets from `videos` only, evaluation knows nothing of training
STRANGERS = {"train": {"scenes", "store", "images", "evaluate"}, "evaluate": {"train"}}


def wrong_imports(room, code, order):
    "Imports of a module that are not of rooms below it, or of rooms that it may not know."
    if room not in order:
        return [f"{room} is not on the list of floors"]
    known = {*order[:order.index(room)]} - STRANGERS.get(room, set())
    return [f"{room} may not import {used}" for used in sorted(used_rooms(code) - known)]


# ---- rules of notebooks

def pictures(cell):
    return [o for o in cell.get("outputs", []) if "image/" in str(o.get("data", {}).keys())]


def anatomy(cells, kind="room"):
    """What a notebook lacks of its parts: a room; a room of the "engine", whose cells may be as
    long as what they do; or a "page", which exports nothing."""
    first, told, text = cells[0], of_kind(cells, "markdown"), prose(cells)
    shown = [c for c in of_kind(cells, "code") if "hide" not in directives(c)]
    lengths = exported_lengths(cells)
    complaints = {
        "it does not begin with a title and a line in a quote":
            first["cell_type"] == "markdown" and re.match(r"# \S.*\n\n> \S", first["source"]),
        "its last words lead to no other notebook":
            re.search(r"\]\(\w+\.ipynb\)", told[-1]["source"])}
    complaints |= {
        "it exports": not any(map(is_exported, cells)),
        "it names a module": not any("default_exp" in c["source"] for c in shown)
    } if kind == "page" else {
        f"{len(shown)} shown cells and only {len(told)} of prose": 2 * len(told) >= len(shown),
        "no experiment: Turn the knob": re.search(r"^#+ .*Turn the knob", text, re.M),
        "no '## What we built'": re.search(r"^## What we built$", text, re.M),
        "no '## Exercises'": re.search(r"^## Exercises$", text, re.M),
        "no image": any(map(pictures, cells)),
        f"half of its exported cells are longer than {MEDIAN} lines":
            kind == "engine" or statistics.median(lengths) <= MEDIAN,
        f"an exported cell of {max(lengths)} lines, more than {LONGEST}": max(lengths) <= LONGEST}
    return [words for words, good in complaints.items() if not good]


def wrong_pictures(cells):
    "Images without words; words (fig-alt) of an image that is not there, but in a flagged cell."
    complaints = []
    for cell in of_kind(cells, "code"):
        told, name = directives(cell), f"{cell['source'][:60]!r}"
        said = any(re.fullmatch(r'fig-alt: "\S.{15,}"', d) for d in told)
        if pictures(cell) and not said and "hide" not in told:
            complaints.append(f"an image without fig-alt: {name}")
        if said and not pictures(cell) and not {"gpu", "downloads", "slow"} & set(told):
            complaints.append(f"fig-alt without an image: {name}")
    return complaints


def unprintable(cells):
    "Warnings, errors and this machine's folders in outputs, in any form; and no output at all."
    outputs = [o for c in cells for o in c.get("outputs", [])]
    told = [{k: v for k, v in (o | o.get("data", {})).items()
             if k != "data" and not k.startswith("image/")} for o in outputs]
    bad = re.compile(r"Warning|Traceback|/(?:tmp|home|root|work|opt|Users)/|[A-Z]:\\\\\w")
    found = [m[0] for t in told for m in bad.finditer(json.dumps(t))]
    complaints = [f"{word} in an output" for word in dict.fromkeys(found)]
    return complaints if outputs or not of_kind(cells, "code") else ["no outputs: run it"]


if __name__ == "__main__":
    print("notebook, exported lines, median cell, minutes")
    for path in notebooks():
        cells = read_cells(path)
        lengths = exported_lengths(cells)
        print(path.stem, sum(lengths), statistics.median(lengths), round(minutes(cells)), sep=", ")
