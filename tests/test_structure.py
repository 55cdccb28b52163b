"""The house: one notebook a module, rooms use only rooms below them, notebooks keep their anatomy.

Each rule stands in `house.py` and is tried twice: on the house, and on something made up that
breaks it in one place, since a check that cannot fail says nothing.
"""
import ast
import configparser
import copy
import re
import subprocess
import sys

import pytest
import yaml

import house
from house import ROOT

pages = [n for n in house.notebooks() if house.is_page(n)]
rooms = [n.stem[3:] for n in house.notebooks() if n not in pages]
modules = sorted(p.stem for p in (ROOT / "gwm_nb").glob("[a-z]*.py"))


def read(path): return (ROOT / path).read_text(encoding="utf-8")


def code(room): return read(f"gwm_nb/{room}.py")


# ---- modules

RULES = [house.undocumented, house.crowded]


def test_one_notebook_is_one_module(): assert sorted(rooms) == modules and len(modules) > 10


@pytest.mark.parametrize("room", modules)
def test_rooms_keep_the_rules_and_use_only_rooms_below(room):
    order = house.floors(read("CONTRIBUTING.md"))
    assert len(set(order)) == len(order)
    assert house.wrong_floors(room, code(room), order) == []
    assert house.strangers(room, code(room)) == []
    assert [complaint for rule in RULES for complaint in rule(code(room))] == []


@pytest.mark.parametrize("form", [
    "from .loft import a", "from . import loft", "from gwm_nb import loft",
    "import gwm_nb.loft as l", "from . import cellar, loft", "import os, gwm_nb.loft",
    "from .loft.attic import a", "class A:\n    def f(self):\n        import gwm_nb.loft",
    "try: from .loft import a\nexcept ImportError: pass", "resolve_name('gwm_nb.loft:a')",
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
    ("train", "from gwm_nb.scenes import MovingScenes")])
def test_who_knows_too_much_is_caught(room, planted):
    good = "from .videos import VideoFrames\nfrom .network import create_network\n"
    assert len(house.strangers(room, good + planted)) == 1
    assert house.strangers(room, good) == house.strangers("segment", planted) == []


@pytest.mark.parametrize("rule, text", [(rule, text) for rule, texts in zip(RULES, [[
    "def f(): return 1", "class A: pass", "def f(x):\n    'Words.'",
    "def f(x, y): # both\n    'Words.'", "def f(x, # one\n      y=(1,\n         2)): 'Words.'",
    "def f(*args): 'Words.'", "def f(*, x: int = 3): 'Words.'",
    "@patch\ndef f(self: A): return 1", "def f(x='# no comment'): 'Words.'",
    "class A:\n    'Words.'\n    def __init__(self, x): pass"
], ["[y for x in z if (y := x)]", "a = 1; b = 2", "if a: b = 1; c = 2"]]) for text in texts])
def test_a_fault_of_a_module_is_caught(rule, text): assert rule(text)


@pytest.mark.parametrize("text", [
    "def _f(x): return 1", "class _A: pass", "def f(): 'Words.'",
    "def f(x, # one\n      y=(1,\n         2) # two\n     ): 'Words.'",
    "def f(*args, # some\n      **more # others\n     ): 'Words.'",
    "class A(nn.Module):\n    'Words.'\n    def __init__(self, x): pass",
    "@patch\ndef f(self: A, x): 'Words.'",
    "if (y := x): print(y)\nif a: b = 1\nelse: b = 2\nd = {k: v for k, v in z}\nf(';')\n"])
def test_a_good_module_passes(text): assert [rule(text) for rule in RULES] == [[], []]


# ---- notebooks

def markdown(*lines): return dict(cell_type="markdown", source="\n".join(lines))


def ran(*lines, picture=False, outputs=()):
    image = [dict(output_type="display_data", data={"image/png": "/tmp/AA"})] if picture else []
    return dict(cell_type="code", source="\n".join(lines), outputs=[*image, *outputs])


PLOT = '#| fig-alt: "Two curves, one above the other."'
ROOM = [markdown("# A room", "", "> One line."), ran(PLOT, "plot()", picture=True),
        ran("#| export", "import os", "", *["a = 1"] * 10), markdown("An idea."),
        ran("#| hide", "import test"), ran("#| exports", *["b = 1"] * 44),
        ran("#|export", "def f(): pass"), markdown("## Turn the knob: how much?"),
        ran("print(1)"), markdown("## What we built", "", "## Exercises", "", "1. Do."),
        markdown("Next: [01_b](01_b.ipynb).")]
PAGE = [markdown("# A page", "", "> One line."), ran("1"), markdown("To [index](index.ipynb).")]
MORE, LONG = {f"x{i}": ran("1") for i in range(5)}, ran("#| export", *["a = 1"] * 15)


def spoiled(cells, **changes):
    "A good notebook with cells replaced, by number; None takes a cell away."
    changed = {f"c{i}": copy.deepcopy(c) for i, c in enumerate(cells)} | changes
    return [c for c in changed.values() if c]


@pytest.mark.parametrize("notebook", house.notebooks(), ids=lambda n: n.stem)
def test_notebooks_keep_the_rules(notebook):
    cells, kind = house.read_cells(notebook), "engine" if notebook.name[0] in "24" else "room"
    complaints = house.anatomy(cells, "page" if notebook in pages else kind)
    for rule in (house.wrong_pictures, house.unprintable, house.wide_lines):
        complaints += rule(cells)
    assert complaints == []


def test_the_lesson_is_read_in_its_time():
    found = {n.stem: house.minutes(house.read_cells(n)) for n in house.notebooks()[:10]}
    limits = {name: 60 if name[:2] in ("06", "08") else 45 for name in found}
    assert {name: round(t) for name, t in found.items() if t > limits[name]} == {}
    assert sum(found.values()) <= 330


@pytest.mark.parametrize("says, kind, changes", [
    ("title", "room", dict(c0=markdown("A room", "", "> One line."))),
    ("title", "page", dict(c0=markdown("# A room", "One line."))),
    ("title", "page", dict(c0=ran("1"))), ("title", "page", dict(c0=None)),
    ("only 4 of prose", "room", MORE | dict(c3=None)),
    ("Turn the knob", "room", dict(c7=markdown("Turn the knob"))),
    ("What we built", "room", dict(c9=markdown("## Exercises"))),
    ("Exercises", "room", dict(c9=markdown("## What we built"))),
    ("no other notebook", "room", dict(c10=markdown("[an image](a.png)"))),
    ("no other notebook", "page", dict(c2=None)),
    ("no image", "room", dict(c1=ran("plot()"))),
    ("half of its", "room", dict(c2=LONG, c6=None, x=LONG, w=markdown("[b](b.ipynb)"))),
    ("of 61 lines", "engine", dict(c5=ran("#| exports", *["b = 1"] * 61))),
    ("exports", "page", dict(c1=LONG)),
    ("names a module", "page", dict(c1=ran("#| default_exp page")))])
def test_a_notebook_that_lacks_something_is_caught(says, kind, changes):
    good = PAGE if kind == "page" else ROOM
    assert house.anatomy(good, kind) == house.anatomy(spoiled(ROOM, **MORE)) == []
    complaint, = house.anatomy(spoiled(good, **changes), kind)
    assert says in complaint


@pytest.mark.parametrize("first", [
    "plot()", "#| fig-alt:", '#| fig-alt: ""', '#| fig-alt: "A plot."',
    "# fig-alt: 'Two curves, one above the other.'", 'print("#| fig-alt: no directive at all")'])
def test_an_image_without_words_and_words_without_an_image_are_caught(first):
    found = lambda *lines, picture=True: house.wrong_pictures([ran(*lines, picture=picture)])
    assert found("#| echo: false", PLOT) == found("#| hide") == found("1", picture=False) == []
    assert len(found(first, "plot()")) == 1
    assert found("#| gpu", PLOT, picture=False) == [] and len(found(PLOT, picture=False)) == 1


def stream(text): return dict(output_type="stream", name="stdout", text=text)


@pytest.mark.parametrize("output", [
    stream(["x.py: UserWarning: no\n"]), stream("written to /tmp/abc/out.png"),
    stream(["C:\\Users\\me"]), dict(output_type="error", traceback=["Traceback (most recent"]),
    dict(output_type="execute_result", data={"text/plain": "PosixPath('/home/me/x')"}),
    dict(output_type="display_data", data={"text/html": ["<a href='/root/x'>"]})])
def test_an_unprintable_output_is_caught(output):
    good = ran(picture=True, outputs=[stream(["J 0.9 of out/result.json"])])
    assert house.unprintable([good]) == []
    assert len(house.unprintable([good, ran(outputs=[output])])) == 1
    assert house.unprintable([ran()]) == ["no outputs: run it"]
    assert house.unprintable(house.read_cells(ROOT / "nbs/index.ipynb")) == []


def test_a_wide_line_is_caught():
    line = "1" * house.WIDTH
    wide, directive = line + "1", "#| fig-alt: " + line
    assert house.wide_lines([ran("#| exports", line), ran("#| hide", wide), ran(wide),
                             markdown(wide), ran("#| export", directive)]) == []
    assert len(house.wide_lines([ran("#| exports", wide), ran("#|export", "    " + line)])) == 2


def test_the_method_in_sixty_lines_has_sixty_and_stands_alone():
    "Imports, plumbing and images do not count, nor the last cell, which trains."
    cells = house.read_cells(house.notebooks()[0])
    shown = [c for c in house.of_kind(cells, "code") if not house.directives(c)]
    lines = [line for c in shown[:-1] for line in house.code_lines(c)]
    told = sum(map(int, re.findall(r"\((\d+) lines;", house.prose(cells))))
    assert len([line for line in lines if not re.match("import|from", line)]) == told == 60
    assert not house.used_rooms("\n".join(c["source"] for c in house.of_kind(cells, "code")))


# ---- the package

def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def test_commands_lead_to_functions():
    commands = [re.split("[=:.]", line) for line in settings()["console_scripts"].split()]
    assert len(commands) >= 3
    for name, _, room, function in commands:
        there = [n.name for n in ast.parse(code(room)).body if isinstance(n, ast.FunctionDef)]
        assert function in there, name


def test_citation_and_versions_agree():
    cite = yaml.safe_load(read("CITATION.cff"))
    assert str(cite["version"]) == settings()["version"] and cite["type"] == "software"
    assert cite["repository-code"] == settings()["git_url"]
    paper, names = cite["preferred-citation"], "Choudhury Karazija Laina Vedaldi Rupprecht".split()
    assert [a["family-names"] for a in paper["authors"]] == names and "2205.07844" in paper["url"]
    assert (ROOT / "gwm_nb/py.typed").exists()
    assert f"Python {settings()['min_python']}" in read("README.md")


def test_the_table_of_figures():
    functions = "def f(a, b): pass", "def _g(self, *, a): " + "1" * 90, "def __eq__(a): pass"
    books = {"00_a": [markdown("six words of prose, no more"), ran("#| exports", "", *functions)],
             "10_b": [markdown("word " * 360), ran("b", "c")]}
    assert house.minutes(books["00_a"]) == 6 / 180 + 3 / 8
    assert house.table(books).splitlines()[2:] == [
        "| 00_a | 3 | 2 | 50% | 2 | 3 | 0 |", "| 10_b | 0 | 0 | 0% | 0 | 0 | 2 |",
        "| **all** | 3 | 2 | 50% | 2 | 3 | 3 |"]
    printed = subprocess.check_output([sys.executable, ROOT / "tests/house.py"], text=True)
    assert len(printed.splitlines()) == len(house.notebooks()) + 3
