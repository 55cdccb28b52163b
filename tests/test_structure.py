"The house: one notebook a module, rooms use only rooms above them, and notebooks keep their anatomy."
import ast
import json
import re
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
notebooks = sorted((root / "nbs").glob("[0-9][0-9]_*.ipynb"))
rooms = [n.stem[3:] for n in notebooks]


def cells(notebook, kind):
    return ["".join(c["source"]) for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def test_one_notebook_is_one_module():
    assert {p.stem for p in (root / "gwm_nb").glob("[a-z]*.py")} == set(rooms)


@pytest.mark.parametrize("room", rooms)
def test_rooms_use_only_rooms_above(room):
    tree = ast.parse((root / f"gwm_nb/{room}.py").read_text(encoding="utf-8"))
    used = {n.module.split(".")[1] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("gwm_nb.")}
    assert used <= set(rooms[:rooms.index(room)])


def test_training_and_evaluation_do_not_know_each_other():
    text = {r: (root / f"gwm_nb/{r}.py").read_text(encoding="utf-8") for r in ("train", "evaluate")}
    assert "gwm_nb.evaluate" not in text["train"] and "gwm_nb.train" not in text["evaluate"]


@pytest.mark.parametrize("notebook", notebooks, ids=lambda n: n.stem)
def test_anatomy(notebook):
    prose, code = cells(notebook, "markdown"), cells(notebook, "code")
    shown = [c for c in code if not re.search(r"^#\|\s*hide", c, re.M)]
    exported = sorted(len(c.splitlines()) for c in code if re.search(r"^#\|\s*export", c, re.M))
    assert prose[0].startswith("# ") and "\n> " in prose[0]
    assert 2 * len(prose) >= len(shown)
    assert any("## Exercises" in c for c in prose) and any("## What we built" in c for c in prose) and any("Turn the knob" in c for c in prose)
    assert exported[len(exported) // 2] <= 12 and exported[-1] <= 45


@pytest.mark.parametrize("notebook", [*notebooks, root / "nbs/index.ipynb"], ids=lambda n: n.stem)
def test_outputs_are_there_and_fit_to_print(notebook):
    outputs = [o for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] for o in c.get("outputs", [])]
    text = json.dumps([{k: v for k, v in o.items() if k != "data"} | {"text/plain": o.get("data", {}).get("text/plain")} for o in outputs])
    assert outputs and not re.search(r"Warning|Traceback|/(tmp|home|root)/", text)
    assert any("image/png" in o.get("data", {}) for o in outputs) or notebook.stem == "index"


def test_public_names_are_documented():
    undocumented = []
    for room in rooms:
        tree = ast.parse((root / f"gwm_nb/{room}.py").read_text(encoding="utf-8"))
        undocumented += [f"{room}.{n.name}" for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))
                         and not n.name.startswith("_") and not ast.get_docstring(n)]
    assert not undocumented


def test_only_what_every_fastcore_has_is_imported():
    "Development needs fastcore 1 (for nbdev), users get fastcore 2, which has no Param: the tests alone would not notice."
    files = [*root.glob("gwm_nb/*.py"), *root.glob("data_scripts/*.py")]
    taken = {name.strip() for f in files for names in re.findall(r"^from fastcore[\w.]* import (.+)$", f.read_text(encoding="utf-8"), re.M) for name in names.split(",")}
    assert taken == {"anno_parser"}
