"""The house in figures and in rules, read from the notebooks and modules.

    python tests/house.py [REV]

prints, for each room of the working tree (or of the git revision REV): exported lines, median lines of an exported cell,
the longest exported line, the share of exported lines over 120 characters, and prose words for each line of code.

A rule is a function that returns a list of complaints, empty if all is well. `test_structure.py` applies each of them to the
house, and to something made up that breaks it.
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
WIDTH, MEDIAN, LONGEST = 120, 12, 60            # of an exported line; of exported cells, in lines
KINDS = {0: "the lesson", 1: "the published system", 2: "the engine room", 3: "the back of the book"}      # by the tens digit of a notebook's number


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
    "Whether a notebook stands at the back of the book: it exports nothing, so it is no room."
    return Path(name).name.startswith("3")


def source(cell): return "".join(cell["source"])


def directives(cell):
    "The `#|` lines of a code cell."
    return [line[2:].strip() for line in source(cell).splitlines() if line.startswith("#|")]


def is_exported(cell): return cell["cell_type"] == "code" and any(re.match(r"exports?\b", d) for d in directives(cell))


def is_hidden(cell): return any(re.match(r"hide\b", d) for d in directives(cell))


def code_lines(cell):
    "Lines of a code cell that say something: neither empty nor a directive."
    return [line for line in source(cell).splitlines() if line.strip() and not line.startswith("#|")]


def of_kind(cells, kind): return [c for c in cells if c["cell_type"] == kind]


def read_cells(path): return json.loads(Path(path).read_text(encoding="utf-8"))["cells"]


# ---- figures

def figures(cells):
    "What the table says of a notebook."
    exported = [c for c in cells if is_exported(c)]
    lines = [line for c in exported for line in code_lines(c)]
    code = sum(len(code_lines(c)) for c in of_kind(cells, "code"))
    words = sum(len(source(c).split()) for c in of_kind(cells, "markdown"))
    return dict(lines=len(lines), median=statistics.median([len(code_lines(c)) for c in exported] or [0]), longest=max(map(len, lines), default=0),
                over=sum(len(line) > WIDTH for line in lines), code=code, words=words)


def row(name, f):
    return (f"| {name} | {f['lines']} | {f['median']:g} | {f['longest']} | {100 * f['over'] / max(f['lines'], 1):.1f} % "
            f"| {f['words'] / max(f['code'], 1):.1f} |")


def table(notebooks):
    "The figures of `{name: cells}`, a row for each room and one for all."
    rows = {name: figures(cells) for name, cells in notebooks.items()}
    exported = [c for cells in notebooks.values() for c in cells if is_exported(c)]
    total = {k: sum(f[k] for f in rows.values()) for k in ("lines", "over", "code", "words")}
    total |= dict(longest=max(f["longest"] for f in rows.values()), median=statistics.median(len(code_lines(c)) for c in exported))
    return "\n".join(["| room | exported lines | median lines a cell | longest line | over 120 | prose words a code line |", "|---|---|---|---|---|---|",
                      *(row(n, f) for n, f in rows.items()), row("**all**", total)])


def from_tree(): return {Path(n).stem: read_cells(n) for n in numbered(map(str, (ROOT / "nbs").glob("*.ipynb"))) if not is_page(n)}


def from_revision(revision, root=ROOT):
    git = lambda *argv: subprocess.run(["git", *argv], cwd=root, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    names = [n for n in numbered(git("ls-tree", "--name-only", revision, "nbs/").split()) if not is_page(n)]
    return {Path(n).stem: json.loads(git("show", f"{revision}:{n}"))["cells"] for n in names}


# ---- rules of modules

def floors(text):
    "The rooms, lowest first, as CONTRIBUTING.md lists them in its fenced block `floors`."
    block, = re.findall(r"^```floors\n(.*?)^```", text, re.M | re.S)
    return [name.strip() for name in block.split(",")]


def used_rooms(code, package=PACKAGE):
    "Rooms that a module imports, in whatever form and wherever, also by a name in a string; the package itself is '*'."
    used, tree = set(), ast.parse(code)
    tree.body = [node for node in tree.body if not is_main(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".")
            if node.level == 0 and path[0] != package:
                continue
            inside = path[1:] if node.level == 0 else [p for p in path if p]
            used |= {inside[0]} if inside else {a.name for a in node.names if not a.name.startswith("__")}
        elif isinstance(node, ast.Import):
            used |= {".".join(a.name.split(".")[1:2]) or "*" for a in node.names if a.name.split(".")[0] == package}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used |= set(re.findall(rf"^{package}\.(\w+)(?:[.:]\w+)*$", node.value))
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith("import_module"):
            used |= set(re.findall(r"^'\.(\w+)", ast.unparse(node.args[0])))
    return used


def is_main(node):
    "Whether a statement is `if __name__ == '__main__'`: what a module does as a program may come from above."
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def wrong_floors(room, code, order):
    "Imports of a module that are not of rooms below it, and a module that is not on the list."
    if room not in order:
        return [f"{room} is not on the list of floors"]
    below = order[:order.index(room)]
    return [f"{room} imports {used}, which is not below it" for used in sorted(used_rooms(code)) if used not in below]


# training learns of data sets from `videos` only, evaluation knows nothing of training
STRANGERS = {"train": {"scenes", "store", "images", "evaluate"}, "evaluate": {"train"}}


def strangers(room, code):
    "Rooms that training, or evaluation, may not know, though they are below it."
    return [f"{room} must know nothing of {used}" for used in sorted(used_rooms(code) & STRANGERS.get(room, set()))]


def public(tree): return [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not n.name.startswith("_")]


def undocumented(code):
    "Public functions and classes without a docstring, and parameters without a comment of their own."
    tree = ast.parse(code)
    comments = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type == tokenize.COMMENT}
    complaints = [f"{n.name} has no docstring" for n in public(tree) if not ast.get_docstring(n)]
    functions = [(n.name, n) for n in public(tree) if not isinstance(n, ast.ClassDef) and not is_patch(n)]
    functions += [(f"{n.name}.__init__", m) for n in public(tree) if isinstance(n, ast.ClassDef) for m in n.body
                  if isinstance(m, ast.FunctionDef) and m.name == "__init__" and not is_module(n)]
    for name, node in functions:
        complaints += [f"{name}: parameter {p} has no comment of its own" for p in bare_parameters(node, comments)]
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
    defaults = dict(zip([p.arg for p in plain[len(plain) - len(a.defaults):]], a.defaults)) | {p.arg: d for p, d in zip(a.kwonlyargs, a.kw_defaults) if d}
    every = [p for p in [*plain, a.vararg, *a.kwonlyargs, a.kwarg] if p and p.arg != "self"]
    lines = [max(p.end_lineno, defaults[p.arg].end_lineno if p.arg in defaults else 0) for p in every]
    return [p.arg for p, line in zip(every, lines) if line not in comments or lines.count(line) > 1]


def late_methods(code):
    "Assignments to attributes of a class, after the class."
    tree = ast.parse(code)
    classes = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    classes |= {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names if a.name[:1].isupper()}
    targets = [t for n in tree.body if isinstance(n, (ast.Assign, ast.AugAssign, ast.AnnAssign)) for t in (n.targets if isinstance(n, ast.Assign) else [n.target])]
    flat = [e for t in targets for e in (t.elts if isinstance(t, (ast.Tuple, ast.List)) else [t])]
    found = [ast.unparse(t) for t in flat if isinstance(t, ast.Attribute) and ast.unparse(t.value) in classes]
    called = [n.value for n in tree.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    found += [ast.unparse(c) for c in called if ast.unparse(c.func) == "setattr" and ast.unparse(c.args[0]) in classes]
    return [f"{name}: write a method in its class, or below it with @patch" for name in found]


def crowded(code):
    "Lines that hold more than one idea: text times a condition, a walrus in a comprehension, several statements."
    tree, complaints = ast.parse(code), []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            one, two = node.left, node.right
            text = [s for s in (one, two) if isinstance(s, ast.JoinedStr) or isinstance(s, ast.Constant) and isinstance(s.value, str)]
            if text and any(isinstance(s, (ast.Compare, ast.BoolOp)) or isinstance(s, ast.Call) and ast.unparse(s.func) == "bool" for s in (one, two)):
                complaints.append(f"{ast.unparse(node)}: text times a condition")
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            complaints += [f"{ast.unparse(n)}: a walrus in a comprehension" for n in ast.walk(node) if isinstance(n, ast.NamedExpr)]
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            for one, two in zip(body, body[1:]) if isinstance(body, list) else ():
                if one.end_lineno == two.lineno:
                    complaints.append(f"{ast.unparse(two)}: a second statement on its line")
    return list(dict.fromkeys(complaints))


def fastcore_names(code):
    "What a module takes from fastcore: {(module, name)}; a whole module is (module, '*')."
    tree = ast.parse(code)
    found = {(n.module, a.name) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0 and (n.module or "").split(".")[0] == "fastcore" for a in n.names}
    return found | {(a.name, "*") for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names if a.name.split(".")[0] == "fastcore"}


# ---- rules of notebooks

def pictures(cell): return [o for o in cell.get("outputs", []) if any(k.startswith("image/") for k in o.get("data", {}))]


def anatomy(cells):
    "What a notebook lacks of its parts."
    prose, code = [source(c) for c in of_kind(cells, "markdown")], of_kind(cells, "code")
    shown = [c for c in code if not is_hidden(c)]
    lengths = [len(code_lines(c)) for c in code if is_exported(c)]
    text = "\n".join(prose)
    first_picture = next((i for i, c in enumerate(cells) if pictures(c)), len(cells))
    complaints = {
        "it does not begin with a title and a line in a quote": cells[0]["cell_type"] == "markdown" and re.match(r"# \S.*\n\n> \S", prose[0]),
        f"{len(shown)} shown cells and only {len(prose)} of prose": 2 * len(prose) >= len(shown),
        "no experiment: Turn the knob": re.search(r"^#+ .*Turn the knob", text, re.M),
        "no '## What we built'": re.search(r"^## What we built$", text, re.M),
        "no '## Exercises'": re.search(r"^## Exercises$", text, re.M),
        "its last words lead to no other notebook": re.search(r"\]\(\w+\.ipynb\)", prose[-1]),
        "no picture": first_picture < len(cells),
        f"half of its exported cells are longer than {MEDIAN} lines": statistics.median(lengths or [0]) <= MEDIAN,
        f"an exported cell of {max(lengths, default=0)} lines, more than {LONGEST}": max(lengths, default=0) <= LONGEST}
    return [words for words, good in complaints.items() if not good]


def engine_anatomy(cells):
    "What a notebook of the engine room lacks: its cells may be as long as what they do."
    return [complaint for complaint in anatomy(cells) if "half of its exported cells" not in complaint]


def page_anatomy(cells):
    "What a page at the back of the book lacks, or has too much."
    prose = [source(c) for c in of_kind(cells, "markdown")]
    complaints = {
        "it does not begin with a title and a line in a quote": cells[0]["cell_type"] == "markdown" and re.match(r"# \S.*\n\n> \S", prose[0]),
        "its last words lead to no other notebook": re.search(r"\]\(\w+\.ipynb\)", prose[-1]),
        "it exports": not any(is_exported(c) for c in cells),
        "it names a module": not any(d.startswith("default_exp") for c in of_kind(cells, "code") for d in directives(c))}
    return [words for words, good in complaints.items() if not good]


def without_alt(cells):
    "Cells that show a picture and do not say what is to be seen."
    good = [i for i, c in enumerate(cells) if any(re.fullmatch(r'fig-alt: "\S.{15,}"', d) for d in directives(c))]
    return [f"a picture without fig-alt: {source(c)[:60]!r}" for i, c in enumerate(cells) if c["cell_type"] == "code" and not is_hidden(c) and pictures(c) and i not in good]


def without_picture(cells):
    "Cells whose words describe a picture that is not there; flagged ones that have never run apart."
    flagged = {"gpu", "downloads", "slow"}
    promised = [c for c in of_kind(cells, "code") if any(d.startswith("fig-alt") for d in directives(c))]
    return [f"fig-alt without a picture: {source(c)[:60]!r}" for c in promised if not pictures(c) and not flagged & set(directives(c))]


def wide_lines(cells):
    "Exported lines that are too long."
    return [f"{len(line)} characters: {line.strip()[:60]} ..." for c in cells if is_exported(c) for line in source(c).splitlines() if len(line) > WIDTH and not line.startswith("#|")]


def unprintable(cells):
    "Warnings, errors and this machine's folders in outputs, in whatever form they are shown; and no output at all."
    outputs = [o for c in cells for o in c.get("outputs", [])]
    told = [{k: v for k, v in o.items() if k != "data"} | {k: v for k, v in o.get("data", {}).items() if not k.startswith("image/")} for o in outputs]
    bad = re.compile(r"Warning|Traceback|/(?:tmp|home|root|work|opt|Users)/|[A-Z]:\\\\\w")
    found = [m[0] for t in told for m in bad.finditer(json.dumps(t))]
    return [f"{word} in an output" for word in dict.fromkeys(found)] + ([] if outputs or not of_kind(cells, "code") else ["no outputs: run it"])


def wrong_map(notebooks, index):
    "Where the index's tables of notebooks differ from the notebooks there are (file names): one table for each kind, in order."
    tables, last = [], None
    for number, line in enumerate(index.splitlines()):
        found = re.match(r"\| *\[(\w+)\]\((\w+\.ipynb)\)", line)
        if not found:
            continue
        if last != number - 1:
            tables.append([])
        tables[-1].append(found[2])
        last = number
    complaints = [f"{n} is in the index's table of {KINDS.get(kind, kind)}" for kind, names in enumerate(tables) for n in names if n[0] != str(kind)]
    if sum(tables, []) != list(notebooks):
        complaints.append(f"the index lists {', '.join(sum(tables, []))}, and there are {', '.join(notebooks)}")
    return complaints


if __name__ == "__main__":
    print(table(from_revision(sys.argv[1]) if len(sys.argv) > 1 else from_tree()))
