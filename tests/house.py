"""The house in figures and in rules, read from the notebooks and modules.

    python tests/house.py [REV]

prints, for each room of the working tree (or of the git revision REV): exported lines, median lines
of an exported cell, the longest exported line, the share of exported lines over 120 characters, and
prose words for each line of code.

A rule is a function that returns a list of complaints, empty if all is well. `test_structure.py`
applies each of them to the house, and to something made up that breaks it.
"""
import ast
import importlib.util
import io
import json
import re
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "gwm_nb"
WIDTH, MEDIAN, LONGEST = 100, 14, 60            # of an exported line; of exported cells, in lines
# by the tens digit of a notebook's number; the forties go on in the fifties
KINDS = dict(enumerate(("the lesson", "the published system", "the engine room",
                        "the back of the book", "inside the programs")))


# ---- reading

def numbered(names):
    "Notebooks of the book, in order: rooms and pages."
    return sorted(n for n in names if re.fullmatch(r"\d\d_\w+\.ipynb", Path(n).name))


def script(name):
    "A script of .ci as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / f".ci/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_page(name):
    "Whether a notebook exports nothing, so that it is no room: 00_start, and the back of the book."
    return Path(name).name.startswith(("00_", "3"))


def source(cell): return "".join(cell["source"])


def directives(cell):
    "The `#|` lines of a code cell."
    return [line[2:].strip() for line in source(cell).splitlines() if line.startswith("#|")]


def is_exported(cell):
    return cell["cell_type"] == "code" and any(re.match(r"export[is]?\b", d) for d in directives(cell))


def is_hidden(cell): return any(re.match(r"hide\b", d) for d in directives(cell))


def code_lines(cell):
    "Lines of a code cell that say something: neither empty nor a directive."
    lines = source(cell).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#|")]


def of_kind(cells, kind): return [c for c in cells if c["cell_type"] == kind]


def read_cells(path): return json.loads(Path(path).read_text(encoding="utf-8"))["cells"]


# ---- figures

def functions(cells):
    "Functions and methods of exported cells; those of Python (`__init__`) aside."
    code = "\n".join(source(c) for c in cells if is_exported(c))
    found = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.FunctionDef)]
    return [n for n in found if not n.name.startswith("__")]


def parameters(function):
    "Names of a function's parameters, without `self`."
    args = function.args
    return [a.arg for a in args.posonlyargs + args.args + args.kwonlyargs if a.arg != "self"]


def figures(cells):
    "What the table says of a notebook; `minutes` is the time to read it."
    exported = [c for c in cells if is_exported(c)]
    lines = [line for c in exported for line in code_lines(c)]
    code = sum(len(code_lines(c)) for c in of_kind(cells, "code"))
    words = sum(len(source(c).split()) for c in of_kind(cells, "markdown"))
    found = functions(cells)
    private = sum(f.name.startswith("_") for f in found)
    counts = [len(parameters(f)) for f in found] or [0]
    return dict(lines=len(lines), functions=len(found), private=100 * private / max(len(found), 1),
                mean=statistics.mean(counts), most=max(counts),
                median=statistics.median([len(code_lines(c)) for c in exported] or [0]),
                wide=sum(len(line) > 100 for line in lines), minutes=words / 180 + code / 8)


COLUMNS = {"exported lines": "{lines}", "functions": "{functions}", "private": "{private:.0f} %",
           "parameters": "{mean:.1f}", "most": "{most}", "median cell": "{median:g}",
           "over 100": "{wide}", "minutes": "{minutes:.0f}"}


def table(notebooks):
    "The figures of `{name: cells}`, a row for each notebook and one for all."
    every = {"**all**": [c for cells in notebooks.values() for c in cells]}
    rows = [[name, *(form.format(**figures(cells)) for form in COLUMNS.values())]
            for name, cells in (notebooks | every).items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [
        ["room", *COLUMNS], ["---"] * (len(COLUMNS) + 1), *rows])


def rooms(names): return [name for name in numbered(names) if not is_page(name)]


def from_tree():
    return {Path(n).stem: read_cells(n) for n in rooms(map(str, (ROOT / "nbs").glob("*.ipynb")))}


def from_revision(revision, root=ROOT):
    def git(*argv):
        return subprocess.run(["git", *argv], cwd=root, check=True, capture_output=True, text=True,
                              encoding="utf-8").stdout
    names = rooms(git("ls-tree", "--name-only", revision, "nbs/").split())
    return {Path(n).stem: json.loads(git("show", f"{revision}:{n}"))["cells"] for n in names}


# ---- rules of modules

def floors(text):
    "The rooms, lowest first, as CONTRIBUTING.md lists them in its fenced block `floors`."
    block, = re.findall(r"^```floors\n(.*?)^```", text, re.M | re.S)
    return [name.strip() for name in block.split(",")]


def used_rooms(code, package=PACKAGE):
    "Rooms that a module imports, wherever, also by a name in a string; the package itself is '*'."
    used, tree = set(), ast.parse(code)
    tree.body = [node for node in tree.body if not is_main(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".")
            if node.level == 0 and path[0] != package:
                continue
            inside = path[1:] if node.level == 0 else [p for p in path if p]
            names = {a.name for a in node.names if not a.name.startswith("__")}
            used |= {inside[0]} if inside else names
        elif isinstance(node, ast.Import):
            paths = [a.name.split(".") for a in node.names]
            used |= {".".join(path[1:2]) or "*" for path in paths if path[0] == package}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used |= set(re.findall(rf"^{package}\.(\w+)(?:[.:]\w+)*$", node.value))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            used |= {name for a in node.args for name in re.findall(r"^'\.(\w+)", ast.unparse(a))}
    return used


def is_main(node):
    "Whether a statement is `if __name__ == '__main__'`: a program may import what is above."
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def wrong_floors(room, code, order):
    "Imports of a module that are not of rooms below it, and a module that is not on the list."
    if room not in order:
        return [f"{room} is not on the list of floors"]
    below = order[:order.index(room)]
    return [f"{room} imports {used}, which is not below it"
            for used in sorted(used_rooms(code)) if used not in below]


# training learns of data sets from `videos` only, evaluation knows nothing of training
STRANGERS = {"train": {"scenes", "store", "images", "evaluate"}, "evaluate": {"train"}}


def strangers(room, code):
    "Rooms that training, or evaluation, may not know, though they are below it."
    found = used_rooms(code) & STRANGERS.get(room, set())
    return [f"{room} must know nothing of {used}" for used in sorted(found)]


def public(tree):
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    return [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]


def undocumented(code):
    "Public functions and classes without a docstring, parameters without a comment of their own."
    names, tokens = public(ast.parse(code)), tokenize.generate_tokens(io.StringIO(code).readline)
    comments = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
    complaints = [f"{n.name} has no docstring" for n in names if not ast.get_docstring(n)]
    classes = [n for n in names if isinstance(n, ast.ClassDef)]
    functions = [(n.name, n) for n in names if n not in classes and not is_patch(n)]
    functions += [(f"{n.name}.__init__", m) for n in classes if not is_module(n) for m in n.body
                  if isinstance(m, ast.FunctionDef) and m.name == "__init__"]
    for name, node in functions:
        bare = bare_parameters(node, comments)
        complaints += [f"{name}: parameter {p} has no comment of its own" for p in bare]
    return complaints


def is_module(node):
    "Whether a class is a part of a network: its options are those of the function that builds it."
    return any(ast.unparse(base).startswith("nn.") for base in node.bases)


def is_patch(node):
    "Whether a function is a method, written below its class; methods say in words what they take."
    return any(ast.unparse(d).split("(")[0] == "patch" for d in node.decorator_list)


def bare_parameters(node, comments):
    "Parameters of a function that have no line of their own with a comment."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [*zip(plain[len(plain) - len(a.defaults):], a.defaults),
                *zip(a.kwonlyargs, a.kw_defaults)]
    ends = {p.arg: default.end_lineno for p, default in defaults if default}
    every = [p for p in [*plain, a.vararg, *a.kwonlyargs, a.kwarg] if p and p.arg != "self"]
    lines = [max(p.end_lineno, ends.get(p.arg, 0)) for p in every]
    return [p.arg for p, line in zip(every, lines) if line not in comments or lines.count(line) > 1]


def shadowing_methods(code):
    """Patched methods with the name of something imported or defined above them: that it is still
    there below is a kindness of fastcore. Such a method belongs in its class."""
    bound, complaints = set(), []
    for node in ast.parse(code).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.Assign):
            targets = [name for target in node.targets for name in ast.walk(target)]
            bound |= {name.id for name in targets if isinstance(name, ast.Name)}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if not is_patch(node):
                bound.add(node.name)
            elif node.name in bound:
                complaints.append(f"{node.name}: a patched method hides what has its name above")
    return complaints


def crowded(code):
    "Lines of two ideas: a walrus in a comprehension, two statements."
    complaints = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            complaints += [f"{ast.unparse(n)}: a walrus in a comprehension"
                           for n in ast.walk(node) if isinstance(n, ast.NamedExpr)]
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            for one, two in zip(body, body[1:]) if isinstance(body, list) else ():
                if one.end_lineno == two.lineno:
                    complaints.append(f"{ast.unparse(two)}: a second statement on its line")
    return complaints


def libraries_exported(code):
    "Names in `__all__` that are another module: nobody's interface. They belong in a cell `#| exporti`."
    tree, bound, exported = ast.parse(code), set(), set()
    for node in tree.body:
        ours = isinstance(node, ast.ImportFrom) and node.level and node.module  # a name, no module
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not ours:
            bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
        if not isinstance(node, ast.Assign):
            continue
        names = {t.id for t in node.targets if isinstance(t, ast.Name)}
        if "__all__" in names:
            exported |= set(ast.literal_eval(node.value))
        elif isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func).split(".")[-1]
            bound |= names if called in ("lazily", "import_module", "__import__") else set()
    return sorted(bound & exported)


def fastcore_names(code):
    "What a module takes from fastcore: {(module, name)}; a whole module is (module, '*')."
    nodes = list(ast.walk(ast.parse(code)))
    taken = {(n.module, a.name) for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 0
             for a in n.names}
    taken |= {(a.name, "*") for n in nodes if isinstance(n, ast.Import) for a in n.names}
    return {(module, name) for module, name in taken if module.split(".")[0] == "fastcore"}


# ---- rules of notebooks

def pictures(cell):
    return [o for o in cell.get("outputs", [])
            if any(k.startswith("image/") for k in o.get("data", {}))]


def begins_well(cells):
    "Whether a title and a line in a quote come first."
    first = cells[0]
    return first["cell_type"] == "markdown" and re.match(r"# \S.*\n\n> \S", source(first))


def anatomy(cells):
    "What a notebook lacks of its parts."
    prose, code = [source(c) for c in of_kind(cells, "markdown")], of_kind(cells, "code")
    shown = [c for c in code if not is_hidden(c)]
    lengths = [len(code_lines(c)) for c in code if is_exported(c)]
    text, longest = "\n".join(prose), max(lengths, default=0)
    complaints = {
        "it does not begin with a title and a line in a quote": begins_well(cells),
        f"{len(shown)} shown cells and only {len(prose)} of prose": 2 * len(prose) >= len(shown),
        "no experiment: Turn the knob": re.search(r"^#+ .*Turn the knob", text, re.M),
        "no '## What we built'": re.search(r"^## What we built$", text, re.M),
        "no '## Exercises'": re.search(r"^## Exercises$", text, re.M),
        "its last words lead to no other notebook": re.search(r"\]\(\w+\.ipynb\)", prose[-1]),
        "no image": any(map(pictures, cells)),
        f"half of its exported cells are longer than {MEDIAN} lines":
            statistics.median(lengths or [0]) <= MEDIAN,
        f"an exported cell of {longest} lines, more than {LONGEST}": longest <= LONGEST}
    return [words for words, good in complaints.items() if not good]


def engine_anatomy(cells):
    "What a notebook of the engine room lacks: its cells may be as long as what they do."
    return [line for line in anatomy(cells) if "half of its exported cells" not in line]


def page_anatomy(cells):
    "What a page at the back of the book lacks, or has too much."
    prose = [source(c) for c in of_kind(cells, "markdown")]
    told = [d for c in of_kind(cells, "code") for d in directives(c)]
    complaints = {
        "it does not begin with a title and a line in a quote": begins_well(cells),
        "its last words lead to no other notebook": re.search(r"\]\(\w+\.ipynb\)", prose[-1]),
        "it exports": not any(is_exported(c) for c in cells),
        "it names a module": not any(d.startswith("default_exp") for d in told)}
    return [words for words, good in complaints.items() if not good]


def without_alt(cells):
    "Cells that show an image and do not say what is to be seen."
    def good(c): return any(re.fullmatch(r'fig-alt: "\S.{15,}"', d) for d in directives(c))
    shown = [c for c in of_kind(cells, "code") if pictures(c) and not is_hidden(c)]
    return [f"an image without fig-alt: {source(c)[:60]!r}" for c in shown if not good(c)]


def without_picture(cells):
    "Cells whose words describe an image that is not there, but for flagged ones that never ran."
    flagged = {"gpu", "downloads", "slow"}
    promised = [c for c in of_kind(cells, "code")
                if any(d.startswith("fig-alt") for d in directives(c))]
    return [f"fig-alt without an image: {source(c)[:60]!r}"
            for c in promised if not pictures(c) and not flagged & set(directives(c))]


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


def wrong_map(notebooks, index):
    "Where the index's tables, one for each kind, in order, differ from the notebooks there are."
    tables, last = [], None
    for number, line in enumerate(index.splitlines()):
        found = re.match(r"\| *\[(\w+)\]\((\w+\.ipynb)\)", line)
        if not found:
            continue
        if last != number - 1:
            tables.append([])
        tables[-1].append(found[2])
        last = number
    complaints = [f"{n} is in the index's table of {KINDS.get(kind, kind)}"
                  for kind, names in enumerate(tables) for n in names if min(int(n[0]), 4) != kind]
    listed, there = ", ".join(sum(tables, [])), ", ".join(notebooks)
    if listed != there:
        complaints.append(f"the index lists {listed}, not {there}")
    return complaints


if __name__ == "__main__":
    print(table(from_revision(sys.argv[1]) if len(sys.argv) > 1 else from_tree()))
