"""The page from the paper to the code: what its own cells cannot see of it.

Its cells compare values. Here: the sections that it links to are there, the names that it speaks of are exported, and by
the notebook that it names; the tests that it cites are there, and hold the tolerance that it gives."""
import ast
import configparser
import re
from importlib import import_module

import pytest

import house
from gwm_nb.benchmarks import protocols
from gwm_nb.motion import bases
from gwm_nb.network import backbones
from gwm_nb.configuration import KEYS, presets
from gwm_nb.videos import data_sets
from house import ROOT

PAGE = ROOT / "nbs/33_paper_to_code.ipynb"
ELSEWHERE = {"gradcheck"}                         # of torch


def prose(): return "\n\n".join(house.source(c) for c in house.read_cells(PAGE) if c["cell_type"] == "markdown")


def exports(module): return set(import_module(f"gwm_nb.{module}").__all__)


def exported(): return set().union(*(exports(p.stem) for p in (ROOT / "gwm_nb").glob("[a-z]*.py")))


def anchor(heading):
    "The address of a section on the site, by Pandoc's rule."
    kept = "".join(c.lower() for c in heading if c.isalnum() or c.isspace() or c in "_-.")
    return "-".join(kept.split()).lstrip("0123456789-._")


def sections(notebook):
    "Addresses of the sections of a notebook."
    text = "\n".join(house.source(c) for c in house.read_cells(ROOT / "nbs" / notebook) if c["cell_type"] == "markdown")
    return {anchor(title) for title in re.findall(r"^#+ (.+)$", text, re.M)}


def dead_links(text):
    "Links to notebooks, or sections of them, that are not there."
    dead = []
    for notebook, section in re.findall(r"\]\((\w+\.ipynb)#?([^)]*)\)", text):
        if not (ROOT / "nbs" / notebook).exists() or section and section not in sections(notebook):
            dead.append(f"{notebook}#{section}")
    return dead


def quoted(text): return re.findall(r"`([^`\n]+)`", text)


def unknown_names(text):
    "What stands in backticks as a name, a setting, a command or a file of ours, and is none."
    ours = exported() | {*presets(), *bases, *backbones, *protocols, *data_sets} | {key.partition(".")[2] for key in KEYS} | ELSEWHERE
    sections_of_settings = {key.partition(".")[0] for key in KEYS}
    config = configparser.ConfigParser()
    config.read(ROOT / "settings.ini")
    commands = {line.partition("=")[0].strip() for line in config["DEFAULT"]["console_scripts"].splitlines()}
    unknown = []
    for word in quoted(text):
        setting = re.fullmatch(r"(\w+)\.(\w+)(=.*)?", word)
        if re.fullmatch(r"[A-Z]+_[A-Z]+|\.\w+|[\d.e-]+", word): continue          # GWM_SHARED, .flo, 1e-4
        elif re.fullmatch(r"[A-Za-z_]\w*", word): known = word in ours
        elif setting and setting[1] in sections_of_settings: known = f"{setting[1]}.{setting[2]}" in KEYS
        elif word.startswith("gwm_"): known = word.split()[0] in commands
        elif re.match(r"(tests|data_scripts)/", word): known = (ROOT / word.partition("::")[0]).exists()
        else: continue                                                              # a keyword, a command of the release
        if not known: unknown.append(word)
    return unknown


def misplaced(text):
    "Rows of tables whose functions are all of another notebook than the one that they link to."
    wrong, every = [], exported()
    for row in re.findall(r"^\| .+\|$", text, re.M):
        names, rooms = set(quoted(row)) & every, re.findall(r"\]\(\d\d_(\w+)\.ipynb", row)
        if names and rooms and not names & set().union(*map(exports, rooms)): wrong.append(row)
    return wrong


def wrong_citations(text):
    "Tests that are cited and are not there, or in which a tolerance that their row gives does not occur."
    wrong = []
    for row in re.findall(r"^\| .+\|$", text, re.M):
        for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", row):
            code = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).exists() else ""
            function = next((n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef) and n.name == name), None)
            said = [word for word in quoted(row) if re.fullmatch(r"\de-\d+", word)]
            if function is None: wrong.append(f"{file}::{name}")
            else: wrong += [f"{name} {word}" for word in said if word not in ast.get_source_segment(code, function)]
    return wrong


@pytest.mark.parametrize("rule", [dead_links, unknown_names, misplaced, wrong_citations])
def test_the_page_in_order(rule):
    assert rule(prose()) == []


def test_the_rules_see_the_page():
    "Were they blind, they would find nothing."
    text = prose()
    assert len(re.findall(r"\.ipynb#", text)) > 40 and len(set(quoted(text)) & exported()) > 50
    assert len(re.findall(r"`tests/\w+\.py::\w+`", text)) > 15 and len(re.findall(r"`\de-\d+`", text)) > 15


@pytest.mark.parametrize("rule, planted", [
    (dead_links, "[a](99_gone.ipynb)"), (dead_links, "[a](03_motion.ipynb#it-is-quick)"), (dead_links, "[a](05_loss.ipynb#Two-forms)"),
    (unknown_names, "`fit_motions`"), (unknown_names, "`optim.lrr`"), (unknown_names, "`data.methods=files`"), (unknown_names, "`gwm_trains --preset davis`"),
    (unknown_names, "`tests/test_gone.py`"), (misplaced, "| `fit_motion` | [The loss](05_loss.ipynb) |"),
    (wrong_citations, "| a | `tests/test_golden.py::test_gone` |"), (wrong_citations, "| `1e-9` | `tests/test_golden.py::test_the_whole_loss_path` |")])
def test_a_planted_fault_is_found(rule, planted):
    assert len(rule(planted)) == 1


@pytest.mark.parametrize("rule, text", [
    (dead_links, "[a](05_loss.ipynb#two-forms) [b](index.ipynb) [c](https://example.org)"), (misplaced, "| `fit_motion`, `fit_error` | [a](03_motion.ipynb) |"),
    (unknown_names, "`fit_motion` `optim.lr` `data.method=files` `gwm_train --preset davis` `GWM_SHARED` `.flo` `1e-4` `weight=.03` `config.py`"),
    (wrong_citations, "| `1e-4` | `tests/test_golden.py::test_the_whole_loss_path` |")])
def test_what_is_right_passes(rule, text):
    assert rule(text) == []


def test_addresses_of_sections():
    assert anchor("The published loss, in three lines") == "the-published-loss-in-three-lines"
    assert anchor("How well does a mask fit? J") == "how-well-does-a-mask-fit-j" and anchor("2 Two-part `names`") == "two-part-names"
