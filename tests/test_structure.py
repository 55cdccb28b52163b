"""The house: one notebook a module, rooms use only rooms below them, notebooks keep their anatomy.

Each rule stands in `house.py` and is tried twice: on the house, and on something made up that
breaks it in one place, since a check that cannot fail says nothing.
"""
import ast
import configparser
import copy
import functools
import json
import re
import subprocess
import sys

import pytest
import yaml

import house
from house import ROOT

names = house.numbered(p.name for p in (ROOT / "nbs").glob("*.ipynb"))
notebooks = [ROOT / "nbs" / name for name in names]
pages = [n for n in notebooks if house.is_page(n)]
rooms = [n.stem[3:] for n in notebooks if n not in pages]
modules = sorted(p.stem for p in (ROOT / "gwm_nb").glob("[a-z]*.py"))
each_room = pytest.mark.parametrize("room", modules)


def code(room): return (ROOT / f"gwm_nb/{room}.py").read_text(encoding="utf-8")


def order(): return house.floors((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


# ---- floors

def test_one_notebook_is_one_module():
    assert sorted(rooms) == modules and len(modules) > 10


@each_room
def test_rooms_use_only_rooms_below(room):
    assert house.wrong_floors(room, code(room), order()) == []
    assert house.strangers(room, code(room)) == []


def test_the_rooms_that_are_used_are_seen():
    "What the check finds in the house itself: were it blind, it would find nothing."
    used = {room: house.used_rooms(code(room)) for room in modules}
    assert {"network", "loss", "videos"} <= used["train"] and sum(map(len, used.values())) > 20
    assert house.floors("text\n```floors\na, b,\nc\n```\n```sh\nx\n```\n") == ["a", "b", "c"]
    assert len(set(order())) == len(order()) and set(modules) <= set(order())


@pytest.mark.parametrize("form", [
    "from .loft import a", "from . import loft", "from gwm_nb import loft",
    "import gwm_nb.loft as l", "from . import cellar, loft", "import os, gwm_nb.loft",
    "from .loft.attic import a", "class A:\n    def f(self):\n        import gwm_nb.loft",
    "try: from .loft import a\nexcept ImportError: pass", "import_module('.loft', 'gwm_nb')",
    "import importlib\nimportlib.import_module('gwm_nb.loft')", "resolve_name('gwm_nb.loft:a')",
    "rooms = {'a': 'gwm_nb.loft:build'}", "loft = lazily('gwm_nb.loft')"])
def test_a_wrong_import_is_caught_in_each_form(form):
    "A made-up house of three floors, with a module in the middle."
    text = f'"A hall."\nimport torch\nfrom .cellar import b\n{form}\n'
    wrong = lambda *order: house.wrong_floors("hall", text, order)
    assert wrong("cellar", "hall", "loft") == ["hall imports loft, which is not below it"]
    assert wrong("cellar", "loft", "hall") == []
    assert wrong("cellar", "loft") == ["hall is not on the list of floors"]


@pytest.mark.parametrize("form, right", [
    ("from .hall import a", False), ("import gwm_nb", False), ("from .unheard import a", False),
    ("import gwm_nbx.loft", True), ("from torch import loft", True), ("'see gwm_nb.loft'", True),
    ("# from .loft import a", True), ("from . import __version__", True), ("'.loft'", True),
    ("if __name__ == '__main__':\n    from gwm_nb.loft import a", True)])
def test_neither_itself_nor_the_whole_package_nor_what_is_not_listed(form, right):
    assert (house.wrong_floors("hall", form, ["cellar", "hall", "loft"]) == []) == right


@pytest.mark.parametrize("room, planted", [
    ("evaluate", "from .train import fit"), ("train", "from . import evaluate"),
    ("train", "from gwm_nb.scenes import MovingScenes"), ("train", "from .store import FlowStore")])
def test_who_knows_too_much_is_caught(room, planted):
    good = "from .videos import VideoFrames\nfrom .network import create_network\n"
    assert len(house.strangers(room, good + planted)) == 1
    assert house.strangers(room, good) == house.strangers("segment", planted) == []


# ---- modules

RULES = [house.undocumented, house.shadowing_methods, house.crowded, house.libraries_exported]


@each_room
@pytest.mark.parametrize("rule", RULES)
def test_modules_keep_the_rules(rule, room):
    assert rule(code(room)) == []


PLANTED = {
    house.undocumented: [
        "def f(): return 1", "class A: pass", "def f(x):\n    'Words.'",
        "def f(x, y): # both\n    'Words.'", "def f(x, # one\n      y=(1,\n         2)): 'Words.'",
        "def f(*args): 'Words.'", "def f(*, x: int = 3): 'Words.'",
        "@patch\ndef f(self: A): return 1", "def f(x='# no comment'): 'Words.'",
        "class A:\n    'Words.'\n    def __init__(self, x): pass"],
    house.crowded: ["[y for x in z if (y := x)]", "a = 1; b = 2", "if a: b = 1; c = 2"],
    house.shadowing_methods: [
        f"{above}\nclass A: pass\n@patch\ndef overlay(self: A): return overlay(1)\n" for above in (
            "from .show import overlay", "overlay = 1", "def overlay(image): pass",
            "class overlay: pass", "a, overlay = 1, 2")],
    house.libraries_exported: ["__all__ = ['a', 'b']\nb = 1\n" + line for line in (
        "a = lazily('torch')", "a = importlib.import_module('torch')", "import torch as a",
        "from torch import nn as a", "from . import a")]}
GOOD_CODE = [
    "def _f(x): return 1", "class _A: pass", "def f(): 'Words.'",
    "def f(x, # one\n      y=(1,\n         2) # two\n     ): 'Words.'",
    "def f(*args, # some\n      **more # others\n     ): 'Words.'",
    "class A(nn.Module):\n    'Words.'\n    def __init__(self, x): pass",
    "@patch\ndef f(self: A, x): 'Words.'",
    "if (y := x): print(y)\nif a: b = 1\nelse: b = 2\nd = {k: v for k, v in z}\nf(';')\n"]


@pytest.mark.parametrize("rule, text", [(r, text) for r in RULES for text in PLANTED[r]])
def test_a_fault_of_a_module_is_caught(rule, text): assert rule(text)


@pytest.mark.parametrize("text", GOOD_CODE)
def test_a_good_module_passes(text): assert [rule(text) for rule in RULES] == [[]] * len(RULES)


def test_only_what_every_fastcore_has_is_imported():
    "Development needs fastcore 1 (for nbdev), users get fastcore 2: these names are in both."
    files = [*ROOT.glob("gwm_nb/*.py"), *ROOT.glob("data_scripts/*.py")]
    taken = set().union(*(house.fastcore_names(f.read_text(encoding="utf-8")) for f in files))
    assert taken and taken <= {
        ("fastcore.script", "anno_parser"), ("fastcore.script", "call_parse"),
        ("fastcore.basics", "patch"), ("fastcore.basics", "store_attr")}


    assert house.fastcore_names("import fastcore.script") == {("fastcore.script", "*")}
    inside = "def f():\n    from fastcore.all import *\nfrom .fastcore import x\nimport fastcorex"
    assert house.fastcore_names(inside) == {("fastcore.all", "*")}


# ---- notebooks

def markdown(*lines): return dict(cell_type="markdown", source="\n".join(lines))


def shown(*lines, picture=False, **data):
    data = ({"image/png": "AA"} if picture else {}) | data
    outputs = [dict(output_type="display_data", data=data)] if data else []
    return dict(cell_type="code", source=list("\n".join(lines)), outputs=outputs)


def stream(text): return dict(output_type="stream", name="stdout", text=text)


def ran(*outputs): return dict(cell_type="code", source="1", outputs=list(outputs))


PLOT = '#| fig-alt: "Two curves, one above the other."'
GOOD = [markdown("# A room", "", "> One line."), shown(PLOT, "plot()", picture=True),
        shown("#| export", "import os", "", *["a = 1"] * 10), markdown("An idea."),
        shown("#| hide", "import test"), shown("#| exports", *["b = 1"] * 44),
        shown("#|export", "def f(): pass"), markdown("## Turn the knob: how much?"),
        shown("print(1)"), markdown("## What we built", "", "## Exercises", "", "1. Do."),
        markdown("Next: [01_b](01_b.ipynb).")]


def spoiled(**changes):
    "The good notebook with cells replaced, by number; None takes a cell away."
    cells = {f"c{i}": copy.deepcopy(c) for i, c in enumerate(GOOD)} | changes
    return [c for c in cells.values() if c]


@pytest.mark.parametrize("notebook", notebooks, ids=lambda n: n.stem)
def test_notebooks_keep_the_rules(notebook):
    engine = house.engine_anatomy if notebook.name[0] in "245" else house.anatomy
    rules = [house.page_anatomy if notebook in pages else engine, house.without_alt,
             house.unprintable, house.without_picture, house.wide_lines]
    cells = house.read_cells(notebook)
    assert [complaint for rule in rules for complaint in rule(cells)] == []


SHOWN, LONG = {f"x{i}": shown("1") for i in range(5)}, shown("#| export", *["a = 1"] * 15)
PAGE = [markdown("# A page", "", "> One line."), shown("1"), markdown("To [index](index.ipynb).")]


@pytest.mark.parametrize("says, changes", [
    ("title", dict(c0=markdown("A room", "", "> One line."))),
    ("title", dict(c0=markdown("# A room", "One line."))), ("title", dict(c0=shown("1"))),
    ("only 4 of prose", SHOWN | dict(c3=None)),
    ("Turn the knob", dict(c7=markdown("Turn the knob"))),
    ("What we built", dict(c9=markdown("## Exercises"))),
    ("Exercises", dict(c9=markdown("## What we built"))),
    ("no other notebook", dict(c10=markdown("[an image](a.png)"))),
    ("no image", dict(c1=shown(PLOT, "plot()"))),
    ("half of its", dict(c2=LONG, c6=None, x=LONG, w=markdown("[b](b.ipynb)"))),
    ("of 61 lines", dict(c5=shown("#| exports", *["b = 1"] * 61)))])
def test_a_notebook_that_lacks_something_is_caught(says, changes):
    assert house.anatomy(GOOD) == house.anatomy(spoiled(**SHOWN)) == []
    found = house.anatomy(spoiled(**changes))
    assert any(says in complaint for complaint in found), found


@pytest.mark.parametrize("says, page", [
    ("title", PAGE[1:]), ("no other notebook", PAGE[:2]), ("exports", [*PAGE[:2], LONG, PAGE[2]]),
    ("names a module", [PAGE[0], shown("#| default_exp page"), PAGE[2]])])
def test_a_page_that_is_not_one_is_caught(says, page):
    assert house.page_anatomy(PAGE) == []
    complaint, = house.page_anatomy(page)
    assert says in complaint


@pytest.mark.parametrize("first", [
    "plot()", "#| fig-alt:", '#| fig-alt: ""', '#| fig-alt: "A plot."',
    "# fig-alt: 'Two curves, one above the other.'", 'print("#| fig-alt: no directive at all")'])
def test_a_picture_without_words_is_caught(first):
    found = lambda *lines: house.without_alt(spoiled(c1=shown(*lines, "plot()", picture=True)))
    assert found(PLOT) == found("#| echo: false", PLOT) == [] and len(found(first)) == 1


@pytest.mark.parametrize("output", [
    stream(["x.py: UserWarning: no\n"]), stream("written to /tmp/abc/out.png"),
    stream(["C:\\Users\\me"]), dict(output_type="error", traceback=["Traceback (most recent"]),
    dict(output_type="execute_result", data={"text/plain": "PosixPath('/home/me/x')"}),
    dict(output_type="display_data", data={"text/html": ["<a href='/root/x'>"]})])
def test_an_unprintable_output_is_caught(output):
    picture = dict(output_type="display_data", data={"image/png": "/tmp/AA"})
    good = ran(stream(["J 0.9 of out/result.json"]), picture)
    assert house.unprintable([good]) == [] and house.unprintable([good, ran(output)])
    assert house.unprintable([ran()]) == ["no outputs: run it"]
    assert house.unprintable(house.read_cells(ROOT / "nbs/index.ipynb")) == []


def test_a_promised_picture_and_a_wide_line_are_caught():
    good = shown(PLOT, "plot()", picture=True), shown("#| gpu", PLOT, "plot()"), shown("print(1)")
    assert house.without_picture(good) == []
    assert len(house.without_picture([shown(PLOT, "plot()")])) == 1
    line = "1" * house.WIDTH
    wide, directive = line + "1", "#| fig-alt: " + line
    assert house.wide_lines([shown("#| exports", line), shown("#| hide", wide), shown(wide),
                             markdown(wide), shown("#| export", directive)]) == []
    assert len(house.wide_lines([shown("#| exports", wide), shown("#|export", "    " + line)])) == 2


def test_the_index_lists_the_notebooks_by_kind():
    prose = house.of_kind(house.read_cells(ROOT / "nbs/index.ipynb"), "markdown")
    index = "\n\n".join(map(house.source, prose))
    assert house.wrong_map([n.name for n in notebooks], index) == []
    names = dict(a="00_a.ipynb", b="09_b.ipynb", c="10_c.ipynb", d="20_d.ipynb")

    def table(letters):
        rows = (f"| [{names[k][:-6]}]({names[k]}) | what |" for k in letters)
        return "\n".join(["| notebook | |", "|---|---|", *rows])

    def wrong(tables):
        "Tables are written as their notebooks' letters."
        index = "\n\nThen.\n\n".join(map(table, tables.split()))
        return house.wrong_map(list(names.values()), index)
    assert wrong("ab c d") == []
    assert all(map(wrong, ("abcd", "abc d", "ab c", "a c d", "ba c d", "c ab d", "")))


def plain_lines(cells):
    "The lines of a page that are the method: no imports, plumbing, images; the last cell trains."
    shown = [c for c in house.of_kind(cells, "code") if not house.directives(c)]
    lines = [line for c in shown[:-1] for line in house.code_lines(c)]
    return [line for line in lines if not re.match("import|from", line)]


def test_the_method_in_sixty_lines_has_sixty_and_stands_alone():
    cells = house.read_cells(ROOT / "nbs/00_start.ipynb")
    prose, text = ("\n".join(map(house.source, house.of_kind(cells, kind)))
                   for kind in ("markdown", "code"))
    told = sum(map(int, re.findall(r"\((\d+) lines;", prose)))
    assert len(plain_lines(cells)) == told == 60 and not house.used_rooms(text)
    assert len(plain_lines([shown("import a", "b = 1"), shown("#| hide", "c"),
                            shown("def d():", "", "    return 1"), shown("d()")])) == 3


# ---- the package

def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def missing_commands(lines, source):
    "Console scripts whose module or function is not there."
    def has(module, function):
        tree = ast.parse(source(module.split(".")[1]))
        return function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    parts = [re.split("[=:]", line.replace(" ", "")) for line in lines]
    return [name for name, module, function in parts if not has(module, function)]


def test_commands_lead_to_functions():
    source = lambda room: code(room) if room in modules else ""
    lines = settings()["console_scripts"].split()
    assert len(lines) >= 3 and not missing_commands(lines, source)
    wrong = "a=gwm_nb.commands:gwm_nothing b=gwm_nb.nowhere:main c=gwm_nb.commands:gwm_demo".split()
    assert missing_commands(wrong, source) == ["a", "b"]


def test_citation_and_versions_agree():
    cite = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cite["version"]) == settings()["version"] and cite["type"] == "software"
    assert cite["repository-code"] == settings()["git_url"]
    paper, names = cite["preferred-citation"], "Choudhury Karazija Laina Vedaldi Rupprecht".split()
    assert [a["family-names"] for a in paper["authors"]] == names and "2205.07844" in paper["url"]
    assert (ROOT / "gwm_nb/py.typed").exists()
    assert f"Python {settings()['min_python']}" in (ROOT / "README.md").read_text(encoding="utf-8")


# ---- the figures

def test_the_table_of_figures(tmp_path):
    code = "def f(a, b): pass", "def _g(self, *, a): " + "1" * 90, "def __eq__(a): pass"
    cells = [markdown("six words of prose, no more"),
             shown("#| exports", "", *code), shown("#| hide", "z")]
    wanted = dict(lines=3, functions=2, private=50, mean=1.5, most=2, median=3, wide=1)
    assert house.figures(cells) == wanted | dict(minutes=6 / 180 + 4 / 8)
    other = [markdown("word " * 360), shown("b", "c")]
    assert house.table({"00_a": cells, "10_b": other}).splitlines()[2:] == [
        "| 00_a | 3 | 2 | 50 % | 1.5 | 2 | 3 | 1 | 1 |", "| 10_b | 0 | 0 | 0 % | 0.0 | 0 | 0 | 0 | 2 |",
        "| **all** | 3 | 2 | 50 % | 1.5 | 2 | 3 | 1 | 3 |"]
    run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True,
                            check=True)
    printed = run([sys.executable, ROOT / "tests/house.py"]).stdout
    assert len(printed.splitlines()) == len(rooms) + 3
    git = lambda *argv: run(["git", "-c", "user.name=a", "-c", "user.email=a", *argv])
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs/01_a.ipynb").write_text(json.dumps(dict(cells=cells)))
    git("init"), git("add", "."), git("commit", "-m", "a")
    (tmp_path / "nbs/01_a.ipynb").unlink()
    assert house.from_revision("HEAD", tmp_path) == {"01_a": cells}
