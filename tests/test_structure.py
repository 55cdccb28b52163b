"""The house: one notebook a module, rooms use only rooms below them, notebooks keep their anatomy.
Rules are tried on the house, and on something made up that breaks them in one place."""
import configparser
import dataclasses
import inspect
import re
from importlib import import_module
from types import ModuleType

import pytest
import torch
import yaml
from fastcore.docments import docments

import house
from gwm_nb.files import lazily
from house import ROOT

pages = [n for n in house.notebooks() if house.is_page(n)]
rooms = [n.stem[3:] for n in house.notebooks() if n not in pages]
modules = sorted(p.stem for p in (ROOT / "gwm_nb").glob("[a-z]*.py"))


def read(path): return (ROOT / path).read_text(encoding="utf-8")


# ---- modules

def test_one_notebook_is_one_module(): assert sorted(rooms) == modules and len(modules) > 10


def undocumented(module):
    """Public functions and classes without a docstring, parameters without a comment of their own.
    The options of a network are those of the function that builds it."""
    complaints = []
    for name in module.__all__:
        f = getattr(module, name)
        if getattr(f, "__module__", "") != module.__name__ or not hasattr(f, "__qualname__"):
            continue
        complaints += [] if f.__doc__ else [f"{name} has no docstring"]
        if inspect.isclass(f):
            own = not dataclasses.is_dataclass(f) and not issubclass(f, torch.nn.Module)
            f = vars(f).get("__init__") if own else None
        told = docments(inspect.unwrap(f), returns=False) if f else {}
        complaints += [f"{name}: parameter {p} has no comment of its own" for p in told
                       if not told[p] and p != "self" and f"*{p}" not in str(inspect.signature(f))]
    return complaints


@pytest.mark.parametrize("room", modules)
def test_rooms_keep_the_rules_and_use_only_rooms_below(room):
    order = house.floors(read("CONTRIBUTING.md"))
    assert len(set(order)) == len(order)
    assert house.wrong_imports(room, read(f"gwm_nb/{room}.py"), order) == []
    module = import_module(f"gwm_nb.{room}")
    assert undocumented(module) == []
    kinds = {name: type(getattr(module, name)) for name in module.__all__}
    libraries = [name for name, kind in kinds.items() if issubclass(kind, (ModuleType, lazily))]
    assert libraries == []                  # nobody's interface: imported in a cell `#| exporti`


@pytest.mark.parametrize("form, wrong", [
    *((form, "loft") for form in (
        "from .loft import a", "from . import cellar, loft", "import os, gwm_nb.loft",
        "class A:\n    def f(self):\n        import gwm_nb.loft", "loft = lazily('gwm_nb.loft')")),
    ("import gwm_nb", "*"), ("from .unheard import a", "unheard"),
    *((form, None) for form in (
        "import gwm_nbx.loft", "'see gwm_nb.loft'", "from . import __version__",
        "if __name__ == '__main__':\n    from gwm_nb.loft import a"))])
def test_a_wrong_import_is_caught_in_each_form(form, wrong):
    text = f'"A hall."\nimport torch\nfrom .cellar import b\n{form}\n'
    found = house.wrong_imports("hall", text, ["cellar", "hall", "loft"])
    assert found == ([f"hall may not import {wrong}"] if wrong else [])
    assert house.wrong_imports("hall", text, ["cellar", "loft"])      # it is not on the list
    assert house.wrong_imports("train", "from .scenes import a", ["scenes", "train"])


# ---- notebooks

def markdown(*lines): return dict(cell_type="markdown", source="\n".join(lines))


def ran(*lines, picture=False, outputs=()):
    image = [dict(output_type="display_data", data={"image/png": "/tmp/AA"})] if picture else []
    return dict(cell_type="code", source="\n".join(lines), outputs=[*image, *outputs])


PLOT = '#| fig-alt: "Two curves, one above the other."'
ROOM, PAGE = (house.read_cells(ROOT / f"nbs/{n}.ipynb") for n in ("03_motion", "36_glossary"))
LONG = ran("#| export", *["a = 1"] * 61)


def without(cells, pattern):
    return [c | dict(source=re.sub(pattern, "", c["source"], flags=re.M)) for c in cells]


@pytest.mark.parametrize("notebook", house.notebooks(), ids=lambda n: n.stem)
def test_notebooks_keep_the_rules(notebook):
    cells, kind = house.read_cells(notebook), "engine" if notebook.name[0] in "245" else "room"
    complaints = house.anatomy(cells, "page" if notebook in pages else kind)
    complaints += house.wrong_pictures(cells) + house.unprintable(cells)
    lines = [line for c in cells if house.is_exported(c) for line in house.code_lines(c)]
    assert complaints == [line for line in lines if len(line) > 100] == []


def test_the_lesson_is_read_in_its_time():
    found = {n.stem: house.minutes(house.read_cells(n)) for n in house.notebooks()[:10]}
    limits = {name: 60 if name[:2] in ("06", "08") else 45 for name in found}
    assert {name: round(t) for name, t in found.items() if t > limits[name]} == {}
    assert sum(found.values()) <= 330
    assert house.minutes([markdown("one two three"), ran("#| hide", "", "1")]) == 3 / 180 + 1 / 8


@pytest.mark.parametrize("says, kind, cells", [
    ("title", "page", without(PAGE, "^> ")), ("exports", "page", [*PAGE, LONG]),
    ("of prose", "room", [*ROOM, *[ran("1")] * 99]),
    ("Turn the knob", "room", without(ROOM, "Turn the knob")),
    ("Exercises", "room", without(ROOM, "^## Exercises$")),
    ("no other notebook", "room", without(ROOM, r"\(\w+\.ipynb")),
    ("no image", "room", [c | dict(outputs=[]) for c in ROOM]),
    ("half of its", "room", [*ROOM, *[ran("#| export", *["a = 1"] * 15)] * 9]),
    ("of 61 lines", "engine", [*ROOM, LONG])])
def test_a_notebook_that_lacks_something_is_caught(says, kind, cells):
    complaint, = house.anatomy(cells, kind)
    assert says in complaint


@pytest.mark.parametrize("first", [
    "plot()", '#| fig-alt: "A plot."', "# fig-alt: 'Two curves, one above the other.'"])
def test_an_image_without_words_and_words_without_an_image_are_caught(first):
    found = lambda *lines, picture=True: house.wrong_pictures([ran(*lines, picture=picture)])
    assert found("#| echo: false", PLOT) == found("#| hide") == found("1", picture=False) == []
    assert len(found(first, "plot()")) == 1
    assert found("#| gpu", PLOT, picture=False) == [] and len(found(PLOT, picture=False)) == 1


@pytest.mark.parametrize("said", ["x.py: UserWarning: no\n", "written to /tmp/abc/out.png"])
def test_an_unprintable_output_is_caught(said):
    stream = lambda text: dict(output_type="stream", name="stdout", text=[text])
    good = ran(picture=True, outputs=[stream("J 0.9 of out/result.json")])
    assert house.unprintable([good]) == []
    assert len(house.unprintable([good, ran(outputs=[stream(said)])])) == 1


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


def test_citation_and_versions_agree():
    cite = yaml.safe_load(read("CITATION.cff"))
    assert str(cite["version"]) == settings()["version"] and cite["type"] == "software"
    assert cite["repository-code"] == settings()["git_url"]
    assert "2205.07844" in cite["preferred-citation"]["url"]
    assert (ROOT / "gwm_nb/py.typed").exists()
    assert f"Python {settings()['min_python']}" in read("README.md")
