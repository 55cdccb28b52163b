"""The page from the paper to the code: what its own cells cannot see of it.

The names that it speaks of are exported, the tests that it cites are there, and hold the tolerance
that it gives. The check of the site follows its links."""
import ast
import re
from importlib import import_module

import pytest

import house
from gwm_nb.benchmarks import protocols
from gwm_nb.configuration import KEYS, presets
from gwm_nb.motion import bases
from gwm_nb.network import backbones
from gwm_nb.datasets import data_sets
from house import ROOT
from test_structure import modules, settings

ROWS = re.compile(r"^\| .+\|$", re.M)


def prose(notebook="33_paper_to_code.ipynb"):
    return house.prose(house.read_cells(ROOT / "nbs" / notebook))


def exports(room): return set(import_module(f"gwm_nb.{room}").__all__)


def exported(): return set().union(*map(exports, modules))


def quoted(text): return re.findall(r"`([^`\n]+)`", text)


def unknown_names(text):
    "What stands in backticks as a name, a setting, a command or a file of ours, and is none."
    ours = exported() | {*presets(), *bases, *backbones, *protocols, *data_sets, "gradcheck"}
    ours |= {key.partition(".")[2] for key in KEYS}
    commands = re.findall(r"(\w+)=", settings()["console_scripts"])
    sections = {key.partition(".")[0] for key in KEYS}

    def known(word):
        key = word.partition("=")[0]
        if re.fullmatch(r"[A-Za-z_]\w*", word):
            return word in ours or re.fullmatch(r"[A-Z]+_[A-Z]+", word)             # GWM_SHARED
        if re.fullmatch(r"\w+\.\w+", key) and key.partition(".")[0] in sections:
            return key in KEYS
        if re.match(r"(tests|data_scripts)/", word):
            return (ROOT / word.partition("::")[0]).exists()
        return not word.startswith("gwm_") or word.split()[0] in commands
    return [word for word in quoted(text) if not known(word)]


def wrong_citations(text):
    "Tests that are cited and are not there, or do not hold a tolerance that their row gives."
    wrong = []
    for row in ROWS.findall(text):
        for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", row):
            code = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).exists() else ""
            functions = [n for n in ast.parse(code).body if getattr(n, "name", "") == name]
            source = "".join(ast.get_source_segment(code, f) for f in functions)
            said = [word for word in quoted(row) if re.fullmatch(r"\de-\d+", word)]
            wrong += [f"{name} {word}" for word in [f"def {name}", *said] if word not in source]
    return wrong


RULES = [unknown_names, wrong_citations]


@pytest.mark.parametrize("rule", RULES)
def test_the_page_in_order(rule):
    text = prose()
    assert rule(text) == []
    assert len(set(quoted(text)) & exported()) > 50
    assert len(re.findall(r"`tests/\w+\.py::\w+`", text)) > 15


LOSS_PATH = "`tests/test_golden.py::test_the_whole_loss_path`"


@pytest.mark.parametrize("rule, planted", [
    (unknown_names, "`fit_motions`"), (unknown_names, "`data.methods=files`"),
    (unknown_names, "`tests/test_gone.py`"),
    (wrong_citations, f"| `1e-9` | {LOSS_PATH} |"),
    (wrong_citations, "| a | `tests/test_golden.py::test_gone` |")])
def test_a_planted_fault_is_found(rule, planted): assert len(rule(planted)) == 1
