"""The house: one notebook a module, rooms use only rooms below them, notebooks keep their anatomy.

Each rule stands in `house.py` and is tried twice: on the house, and on something made up that breaks it in one place, since a
check that cannot fail says nothing.
"""
import ast
import configparser
import copy
import json
import re
import subprocess
import sys

import pytest
import yaml

import house
from house import ROOT

notebooks = [ROOT / "nbs" / n for n in house.numbered(p.name for p in (ROOT / "nbs").glob("*.ipynb"))]
pages = [n for n in notebooks if house.is_page(n)]
rooms = [n.stem[3:] for n in notebooks if n not in pages]
modules = sorted(p.stem for p in (ROOT / "gwm_nb").glob("[a-z]*.py"))
each_notebook = pytest.mark.parametrize("notebook", notebooks, ids=lambda n: n.stem)
each_room = pytest.mark.parametrize("room", modules)


def code(room): return (ROOT / f"gwm_nb/{room}.py").read_text(encoding="utf-8")


def order(): return house.floors((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


# ---- floors

def test_one_notebook_is_one_module():
    assert sorted(rooms) == modules and len(modules) > 10


@each_room
def test_rooms_use_only_rooms_below(room):
    assert house.wrong_floors(room, code(room), order()) == []


def test_the_rooms_that_are_used_are_seen():
    "What the check finds in the house itself: were it blind, it would find nothing."
    used = {room: house.used_rooms(code(room)) for room in modules}
    assert {"network", "loss", "videos"} <= used["train"] and sum(map(len, used.values())) > 20


FORMS = ["from .loft import a", "from gwm_nb.loft import a", "from . import loft", "from gwm_nb import loft", "import gwm_nb.loft", "import gwm_nb.loft as l", "from .loft import *",
         "from . import cellar, loft", "import os, gwm_nb.loft", "from .loft.attic import a", "import gwm_nb.loft.attic", "def f():\n    from .loft import a",
         "class A:\n    def f(self):\n        import gwm_nb.loft", "if True:\n    from gwm_nb.loft import a", "try: from .loft import a\nexcept ImportError: pass",
         "f = lambda: __import__('gwm_nb.loft')", "from importlib import import_module\nimport_module('.loft', 'gwm_nb')", "import importlib\nimportlib.import_module('gwm_nb.loft')",
         "resolve_name('gwm_nb.loft:a')", "rooms = {'a': 'gwm_nb.loft:build'}", "loft = lazily('gwm_nb.loft')"]


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_import_is_caught_in_each_form(tmp_path, form):
    "A made-up house of three floors, with a module in the middle."
    file = tmp_path / "hall.py"
    file.write_text(f'"A hall."\nimport torch\nfrom .cellar import b\n{form}\n')
    assert house.wrong_floors("hall", file.read_text(), ["cellar", "hall", "loft"]) == ["hall imports loft, which is not below it"]
    assert house.wrong_floors("hall", file.read_text(), ["cellar", "loft", "hall"]) == []
    assert house.wrong_floors("hall", file.read_text(), ["cellar", "loft"]) == ["hall is not on the list of floors"]


@pytest.mark.parametrize("form", ["from .hall import a", "import gwm_nb", "from gwm_nb import *", "from .unheard import a"])
def test_a_module_uses_neither_itself_nor_the_whole_package_nor_what_is_not_listed(form):
    assert house.wrong_floors("hall", form, ["cellar", "hall", "loft"])


@pytest.mark.parametrize("form", ["import gwm_nbx.loft", "from loft import a", "import loft", "from torch import loft", "'see gwm_nb.loft'", "# from .loft import a", "if __name__ == '__main__':\n    from gwm_nb.loft import a", "from . import __version__",
                                  "from gwm_nb import __version__", "'.loft'"])
def test_a_right_import_passes(form):
    assert house.wrong_floors("hall", form, ["cellar", "hall", "loft"]) == []


def test_the_list_of_floors():
    assert house.floors("text\n```floors\na, b,\nc\n```\n```sh\nx\n```\n") == ["a", "b", "c"]
    with pytest.raises(ValueError):
        house.floors("no such block: a, b")
    assert len(set(order())) == len(order()) and set(modules) <= set(order())


@pytest.mark.parametrize("room", ["train", "evaluate"])
def test_training_and_evaluation_do_not_know_each_other(room):
    assert room in modules and not house.strangers(room, code(room))


@pytest.mark.parametrize("room, planted", [("evaluate", "from .train import fit"), ("evaluate", "def f():\n    import gwm_nb.train"), ("train", "from . import evaluate"),
                                           ("train", "from gwm_nb.scenes import MovingScenes"), ("train", "from .store import FlowStore"), ("train", "from .images import DUTS")])
def test_who_knows_too_much_is_caught(room, planted):
    assert len(house.strangers(room, f"from .videos import VideoFrames\n{planted}\n")) == 1
    assert house.strangers(room, "from .videos import VideoFrames\nfrom .network import create_network\n") == house.strangers("segment", planted) == []


# ---- notebooks

def markdown(*lines): return dict(cell_type="markdown", source="\n".join(lines))


def shown(*lines, picture=False, **data):
    output = [dict(output_type="display_data", data=({"image/png": "AA"} if picture else {}) | data)] if picture or data else []
    return dict(cell_type="code", source=list("\n".join(lines)), outputs=output)


PLOT = '#| fig-alt: "Two curves, one above the other."'
GOOD = [markdown("# A room", "", "> One line."), shown(PLOT, "plot()", picture=True), shown("#| export", "import os", "", *["a = 1"] * 10), markdown("An idea."),
        shown("#| hide", "import test"), shown("#| exports", *["b = 1"] * 44), shown("#|export", "def f(): pass"), markdown("## Turn the knob: how much?"), shown("print(1)"),
        markdown("## What we built", "", "| |", "", "## Exercises", "", "1. Do."), markdown("Next: [01_b](01_b.ipynb).")]


def spoiled(**changes):
    "The good notebook with cells replaced, by number; None takes a cell away."
    cells = {f"c{i}": copy.deepcopy(c) for i, c in enumerate(GOOD)} | changes
    return [c for c in cells.values() if c]


@each_notebook
def test_anatomy(notebook):
    rules = house.page_anatomy if notebook in pages else house.engine_anatomy if notebook.name[0] == "2" else house.anatomy
    assert rules(house.read_cells(notebook)) == []


@pytest.mark.parametrize("says, changes", [
    ("title", dict(c0=markdown("A room", "", "> One line."))), ("title", dict(c0=markdown("# A room", "One line."))), ("title", dict(c0=shown("1"))),
    ("only 4 of prose", dict(c3=None) | {f"x{i}": shown("1") for i in range(4)} | dict(c10=markdown("[b](b.ipynb)"))),
    ("Turn the knob", dict(c7=markdown("Turn the knob"))), ("What we built", dict(c9=markdown("## Exercises"))), ("Exercises", dict(c9=markdown("## What we built"))),
    ("no other notebook", dict(c10=markdown("The end."))), ("no other notebook", dict(c10=markdown("[a picture](a.png)"))), ("no picture", dict(c1=shown(PLOT, "plot()"))),
    ("half of its", dict(c2=shown("#| export", *["a = 1"] * 13), c6=None, x=shown("#| export", *["a = 1"] * 13), w=markdown("[b](b.ipynb)"))), ("of 61 lines", dict(c5=shown("#| exports", *["b = 1"] * 61)))])
def test_a_notebook_that_lacks_something_is_caught(says, changes):
    assert house.anatomy(GOOD) == house.anatomy(spoiled(**{f"x{i}": shown("1") for i in range(5)})) == []
    assert any(says in c for c in house.anatomy(spoiled(**changes))), house.anatomy(spoiled(**changes))


PAGE = [markdown("# A page", "", "> One line."), shown("1 + 1"), markdown("Back to the [index](index.ipynb).")]


@pytest.mark.parametrize("says, page", [("title", PAGE[1:]), ("title", [markdown("# A page"), *PAGE[1:]]), ("no other notebook", PAGE[:2]), ("it exports", [*PAGE[:2], shown("#| export", "a = 1"), PAGE[2]]),
                                        ("names a module", [PAGE[0], shown("#| default_exp page"), PAGE[2]])])
def test_a_page_that_is_not_one_is_caught(says, page):
    assert house.page_anatomy(PAGE) == []
    complaint, = house.page_anatomy(page)
    assert says in complaint


@each_notebook
def test_pictures_say_what_is_to_be_seen(notebook):
    assert house.without_alt(house.read_cells(notebook)) == []


@pytest.mark.parametrize("first", ["plot()", "#| fig-alt:", '#| fig-alt: ""', '#| fig-alt: "A plot."', "# fig-alt: 'Two curves, one above the other.'", 'print("#| fig-alt: no directive at all")'])
def test_a_picture_without_words_is_caught(first):
    assert house.without_alt(GOOD) == [] and house.without_alt(spoiled(c1=shown("#| echo: false", PLOT, "plot()", picture=True))) == []
    assert len(house.without_alt(spoiled(c1=shown(first, "plot()", picture=True)))) == 1


@pytest.mark.parametrize("notebook", [*notebooks, ROOT / "nbs/index.ipynb"], ids=lambda n: n.stem)
def test_outputs_are_there_and_fit_to_print(notebook):
    assert house.unprintable(house.read_cells(notebook)) == []


@pytest.mark.parametrize("output", [
    dict(output_type="stream", name="stderr", text=["x.py: UserWarning: no\n"]), dict(output_type="stream", name="stdout", text="written to /tmp/abc/out.png"),
    dict(output_type="error", ename="ValueError", evalue="no", traceback=["Traceback (most recent call last)"]),
    dict(output_type="execute_result", data={"text/plain": "PosixPath('/home/me/x')"}), dict(output_type="display_data", data={"text/html": ["<a href='/root/x'>"]}),
    dict(output_type="display_data", data={"text/markdown": "in `/Users/me`"}), dict(output_type="stream", name="stdout", text=["C:\\Users\\me"])], ids=lambda o: o["output_type"])
def test_an_unprintable_output_is_caught(output):
    good = dict(cell_type="code", source="1", outputs=[dict(output_type="stream", name="stdout", text=["J 0.9 of out/result.json"]), dict(output_type="display_data", data={"image/png": "/tmp/AA"})])
    assert house.unprintable([good]) == []
    assert house.unprintable([good, dict(cell_type="code", source="2", outputs=[output])])
    assert house.unprintable([dict(cell_type="code", source="1", outputs=[])]) == ["no outputs: run it"]
    assert house.unprintable([markdown("Words alone.")]) == []


@each_notebook
def test_promised_pictures_are_there(notebook):
    assert house.without_picture(house.read_cells(notebook)) == []


def test_a_picture_that_is_only_promised_is_caught():
    assert house.without_picture([shown(PLOT, "plot()", picture=True), shown("#| gpu", PLOT, "plot()"), shown("print(1)")]) == []
    assert len(house.without_picture([shown(PLOT, "plot()")])) == 1


@each_notebook
def test_no_exported_line_is_wide(notebook):
    assert house.wide_lines(house.read_cells(notebook)) == []


def test_a_wide_line_is_caught():
    line = "x = " + "1" * 116
    assert len(line) == 120
    assert house.wide_lines([shown("#| exports", line), shown("#| hide", line + "1"), shown(line + "1"), markdown(line + "1"), shown("#| export", "#| fig-alt: " + line)]) == []
    assert len(house.wide_lines([shown("#| exports", line + "1"), shown("#|export", "def f():", "    " + line)])) == 2


def test_the_index_lists_the_notebooks_by_kind():
    index = "\n\n".join(house.source(c) for c in house.read_cells(ROOT / "nbs/index.ipynb") if c["cell_type"] == "markdown")
    assert house.wrong_map([n.name for n in notebooks], index) == []


def test_a_wrong_map_is_caught():
    names = ["00_a.ipynb", "09_b.ipynb", "10_c.ipynb", "20_d.ipynb"]
    row = lambda n: f"| [{n[:-6]}]({n}) | what |"
    table = lambda *names: "\n".join(["| notebook | |", "|---|---|", *map(row, names)])
    index = lambda *tables: "Read.\n\n" + "\n\nThen.\n\n".join(tables)
    assert house.wrong_map(names, index(table(*names[:2]), table(names[2]), table(names[3]))) == []
    for wrong in (index(table(*names)), index(table(*names[:3]), table(names[3])), index(table(*names[:2]), table(names[2])), index(table(names[0]), table(names[2]), table(names[3])),
                  index(table(*names[1::-1]), table(names[2]), table(names[3])), index(table(names[2]), table(*names[:2]), table(names[3])), "none"):
        assert house.wrong_map(names, wrong)


def plain_lines(cells):
    "The lines of code of a page that are the method: neither imports nor plumbing nor pictures; the last cell that trains is not counted."
    shown = [c for c in house.of_kind(cells, "code") if not house.directives(c)]
    return [line for c in shown[:-1] for line in house.code_lines(c) if not re.match("import|from", line)]


def test_the_method_in_sixty_lines_has_sixty_and_stands_alone():
    cells = house.read_cells(ROOT / "nbs/30_sixty_lines.ipynb")
    said = sum(int(n) for c in house.of_kind(cells, "markdown") for n in re.findall(r"\((\d+) lines;", house.source(c)))
    assert len(plain_lines(cells)) == said == 60
    assert not house.used_rooms("\n".join(house.source(c) for c in house.of_kind(cells, "code")))
    assert len(plain_lines([shown("import a", "b = 1"), shown("#| hide", "c"), shown("def d():", "", "    return 1"), shown("d()")])) == 3


# ---- modules

@each_room
def test_public_names_and_their_parameters_are_documented(room):
    assert house.undocumented(code(room)) == []


@pytest.mark.parametrize("planted", ["def f(): return 1", "class A: pass", "async def f(): return 1", "def f(x):\n    'Words.'", "def f(x, y): # both\n    'Words.'", "def f(x, # one\n      y=(1,\n         2)): 'Words.'",
                                     "def f(*args): 'Words.'", "def f(*, x: int = 3): 'Words.'", "class A:\n    'Words.'\n    def __init__(self, x): pass", "def f(x='# no comment'): 'Words.'",
                                     "@patch\ndef f(self: A): return 1"])
def test_what_is_not_documented_is_caught(planted):
    assert house.undocumented(planted)


@pytest.mark.parametrize("good", ["def _f(x): return 1", "class _A: pass", "def f(): 'Words.'", "def f(x, # one\n      y=(1,\n         2) # two\n     ): 'Words.'", "def f(*args, # some\n      **more # others\n     ): 'Words.'",
                                  "class A(nn.Module):\n    'Words.'\n    def __init__(self, x): pass", "class A:\n    'Words.'\n    def g(self, x): pass", "@patch\ndef f(self: A, x): 'Words.'"])
def test_what_is_documented_passes(good):
    assert house.undocumented(good) == []


@each_room
def test_methods_are_in_their_class(room):
    assert house.late_methods(code(room)) == []


@pytest.mark.parametrize("line", ["A.f = g", "A.f, A.g = g, h", "[A.f] = [g]", "A.f: object = g", "B.f = g", "setattr(A, 'f', g)"])
def test_a_method_that_comes_late_is_caught(line):
    text = "from .above import B, low\nclass A:\n    x = 1\ndef g(self): self.y = 2\n"
    assert house.late_methods(text + "@patch\ndef h(self: A): A.z = 3\nlow.level = 4\na = A.x\n") == []
    assert house.late_methods(text + line)


@each_room
def test_one_idea_a_line(room):
    assert house.crowded(code(room)) == []


@pytest.mark.parametrize("line", ["'s' * (n > 1)", "(n > 1) * 's'", "f'{n} frame' + 's' * (n != 1)", "f'{n} frame{\"s\" * (n > 1)}'", "'s' * bool(n)", "f'{n}' * (n > 1 and m)", "[y for x in z if (y := x)]",
                                  "any((y := x) for x in z)", "a = 1; b = 2", "if a: b = 1; c = 2", "def f(): a(); b()"])
def test_a_crowded_line_is_caught(line):
    assert len(house.crowded(line)) == 1
    assert house.crowded("'-' * 70\n' ' * n\n2 * (n > 1)\nif (y := x): print(y)\nif a: b = 1\nelse: b = 2\nd = {k: v for k, v in z}\nf(';')\n") == []


def test_only_what_every_fastcore_has_is_imported():
    "Development needs fastcore 1 (for nbdev), users get fastcore 2, which lacks some names: these are in both."
    files = [*ROOT.glob("gwm_nb/*.py"), *ROOT.glob("data_scripts/*.py")]
    taken = set().union(*(house.fastcore_names(f.read_text(encoding="utf-8")) for f in files))
    assert taken and taken <= {("fastcore.script", "anno_parser"), ("fastcore.script", "call_parse"), ("fastcore.basics", "patch"), ("fastcore.basics", "store_attr")}


@pytest.mark.parametrize("form", ["from fastcore.script import Param, anno_parser", "from fastcore.script import (anno_parser,\n    Param)", "def f():\n    from fastcore.script import Param", "from fastcore.all import *",
                                  "import fastcore.script", "from fastcore.script import anno_parser as a, Param as p"])
def test_other_names_of_fastcore_are_seen(form):
    assert house.fastcore_names(form) - {("fastcore.script", "anno_parser")}
    assert house.fastcore_names("from fastcore.basics import patch\nfrom .fastcore import x\nimport fastcorex") == {("fastcore.basics", "patch")}


# ---- the package

def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def missing_commands(lines, source):
    "Console scripts whose module or function is not there."
    parts = [line.replace("=", " ").replace(":", " ").split() for line in lines]
    return [name for name, module, function in parts
            if not (text := source(module.split(".")[1])) or function not in {n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}]


def test_commands_lead_to_functions():
    source = lambda room: code(room) if room in modules else ""
    lines = settings()["console_scripts"].split()
    assert len(lines) >= 3 and not missing_commands(lines, source)
    assert missing_commands(["a=gwm_nb.commands:gwm_nothing", "b=gwm_nb.nowhere:main", "c=gwm_nb.commands:gwm_demo"], source) == ["a", "b"]


def test_citation_and_versions_agree():
    cite = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cite["version"]) == settings()["version"] and cite["repository-code"] == settings()["git_url"] and cite["type"] == "software"
    paper = cite["preferred-citation"]
    assert [a["family-names"] for a in paper["authors"]] == ["Choudhury", "Karazija", "Laina", "Vedaldi", "Rupprecht"] and "2205.07844" in paper["url"]
    assert (ROOT / "gwm_nb/py.typed").exists()
    assert f"Python {settings()['min_python']}" in (ROOT / "README.md").read_text(encoding="utf-8")


# ---- the figures

def test_the_table_of_figures(tmp_path):
    cells = [markdown("six words of prose, no more"), shown("#| exports", "", "x = " + "1" * 117, "y"), shown("#| hide", "z")]
    assert house.figures(cells) == dict(lines=2, median=2, longest=121, over=1, code=3, words=6)
    printed = house.table({"00_a": cells, "10_b": [markdown("a b c"), shown("#|export", "a"), shown("b", "c")]}).splitlines()
    assert printed[2:] == ["| 00_a | 2 | 2 | 121 | 50.0 % | 2.0 |", "| 10_b | 1 | 1 | 1 | 0.0 % | 1.0 |", "| **all** | 3 | 1.5 | 121 | 33.3 % | 1.5 |"]
    done = subprocess.run([sys.executable, ROOT / "tests/house.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(rooms) + 3, done.stderr
    git = lambda *argv: subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a", *argv], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs/00_a.ipynb").write_text(json.dumps(dict(cells=cells)))
    git("init"), git("add", "."), git("commit", "-m", "a")
    (tmp_path / "nbs/00_a.ipynb").unlink()
    assert house.from_revision("HEAD", tmp_path) == {"00_a": cells}
