"""The house in figures and in rules, read from the notebooks and modules.

    python tests/house.py

prints, for each notebook: exported lines, functions and the share of private ones, the most
parameters, median lines of an exported cell, and minutes to read it.

A rule is a function that returns a list of complaints, empty if all is well. `test_structure.py`
applies each of them to the house, and to something made up that breaks it.
"""
import ast
import importlib.util
import io
import json
import re
import statistics
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "gwm_nb"
WIDTH, MEDIAN, LONGEST = 100, 14, 60            # of an exported line; of exported cells, in lines


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


def figures(cells):
    "A row of the table; functions of Python (`__init__`) do not count, nor does `self`."
    exported = [c for c in cells if is_exported(c)]
    tree = ast.parse("\n".join(c["source"] for c in exported))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name[:2] != "__"]
    private = sum(f.name.startswith("_") for f in found) / max(len(found), 1)
    most = max((sum(a.arg != "self" for a in parameters(f)) for f in found), default=0)
    lengths = [len(code_lines(c)) for c in exported]
    return [f"{sum(lengths)}", f"{len(found)}", f"{private:.0%}", f"{most}",
            f"{statistics.median(lengths or [0]):g}", f"{minutes(cells):.0f}"]


def table(books):
    "The figures of `{name: cells}`, a row for each notebook and one for all."
    every = books | {"**all**": [c for cells in books.values() for c in cells]}
    head = ["notebook", "exported lines", "functions", "private", "parameters", "cell", "minutes"]
    rows = [head, ["---"] * len(head), *([name, *figures(c)] for name, c in every.items())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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


def wrong_floors(room, code, order):
    "Imports of a module that are not of rooms below it, and a module that is not on the list."
    if room not in order:
        return [f"{room} is not on the list of floors"]
    return [f"{room} imports {used}, which is not below it"
            for used in sorted(used_rooms(code) - {*order[:order.index(room)]})]


# training learns of data sets from `videos` only, evaluation knows nothing of training
STRANGERS = {"train": {"scenes", "store", "images", "evaluate"}, "evaluate": {"train"}}


def strangers(room, code):
    "Rooms that training, or evaluation, may not know, though they are below it."
    found = used_rooms(code) & STRANGERS.get(room, set())
    return [f"{room} must know nothing of {used}" for used in sorted(found)]


def parameters(function):
    a = function.args
    every = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    return [p for p in every if p]


def undocumented(code):
    """Public functions and classes without a docstring, parameters without a comment of their own.
    A patched method says in words what it takes; a part of a network, what builds it."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments, complaints = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}, []
    for node in ast.parse(code).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            complaints.append(f"{node.name} has no docstring")
        if isinstance(node, ast.ClassDef) and not any("nn." in ast.unparse(b) for b in node.bases):
            functions = [m for m in node.body if getattr(m, "name", "") == "__init__"]
        else:
            functions = [node] if isinstance(node, ast.FunctionDef) else []
        for function in functions:
            if not any("patch" in ast.unparse(d) for d in function.decorator_list):
                complaints += [f"{node.name}: parameter {p} has no comment of its own"
                               for p in bare_parameters(function, comments)]
    return complaints


def bare_parameters(function, comments):
    "Parameters that have no line of their own with a comment; a default may take several lines."
    a = function.args
    plain = [*a.posonlyargs, *a.args]
    pairs = [*zip(plain[::-1], a.defaults[::-1]), *zip(a.kwonlyargs, a.kw_defaults)]
    ends = {p.arg: default.end_lineno for p, default in pairs if default}
    lines = {p.arg: ends.get(p.arg, p.end_lineno) for p in parameters(function) if p.arg != "self"}
    alone = lambda line: line in comments and list(lines.values()).count(line) == 1
    return [name for name, line in lines.items() if not alone(line)]


def crowded(code):
    "Lines of two ideas: a walrus in a comprehension, two statements."
    complaints, comprehensions = [], (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, comprehensions):
            complaints += [f"{ast.unparse(n)}: a walrus in a comprehension"
                           for n in ast.walk(node) if isinstance(n, ast.NamedExpr)]
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            for one, two in zip(body, body[1:]) if isinstance(body, list) else ():
                if one.end_lineno == two.lineno:
                    complaints.append(f"{ast.unparse(two)}: a second statement on its line")
    return complaints


# ---- rules of notebooks

def pictures(cell):
    return [o for o in cell.get("outputs", []) if "image/" in str(o.get("data", {}).keys())]


def anatomy(cells, kind="room"):
    """What a notebook lacks of its parts: a room, a room of the "engine", whose cells may be as long
    as what they do, or a "page", which exports nothing."""
    first, told, text = cells[0], of_kind(cells, "markdown"), prose(cells)
    shown = [c for c in of_kind(cells, "code") if "hide" not in directives(c)]
    lengths = [len(code_lines(c)) for c in cells if is_exported(c)]
    longest = max(lengths, default=0)
    complaints = {
        "it does not begin with a title and a line in a quote":
            first["cell_type"] == "markdown" and re.match(r"# \S.*\n\n> \S", first["source"]),
        "its last words lead to no other notebook":
            re.search(r"\]\(\w+\.ipynb\)", told[-1]["source"])}
    complaints |= {
        "it exports": not lengths,
        "it names a module": not any("default_exp" in c["source"] for c in shown)
    } if kind == "page" else {
        f"{len(shown)} shown cells and only {len(told)} of prose": 2 * len(told) >= len(shown),
        "no experiment: Turn the knob": re.search(r"^#+ .*Turn the knob", text, re.M),
        "no '## What we built'": re.search(r"^## What we built$", text, re.M),
        "no '## Exercises'": re.search(r"^## Exercises$", text, re.M),
        "no image": any(map(pictures, cells)),
        f"half of its exported cells are longer than {MEDIAN} lines":
            kind == "engine" or statistics.median(lengths or [0]) <= MEDIAN,
        f"an exported cell of {longest} lines, more than {LONGEST}": longest <= LONGEST}
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


def wide_lines(cells):
    "Exported lines that are too long."
    lines = [line for c in cells if is_exported(c) for line in code_lines(c)]
    return [f"{len(line)} characters: {line.strip()[:60]} ..."
            for line in lines if len(line) > WIDTH]


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
    print(table({path.stem: read_cells(path) for path in notebooks()}))
