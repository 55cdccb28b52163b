"""Give every notebook that uses the library a first code cell for Colab, where nothing of it is installed.

    python .ci/colab.py            puts the cells in, or brings them up to date; --check only says what is missing

The repository's address comes from settings.ini, and from nowhere else.
"""
import configparser
import json
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
settings = configparser.ConfigParser()
settings.read(root / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]
ID = "colab000"


def setup(address=settings["git_url"], name=settings["repo"]):
    "The source of the cell."
    fetch = f'[ -d /content/{name} ] || git clone -q {address} /content/{name}; pip install -q "/content/{name}[dev]"'
    return (f"#| hide\n# In Colab: fetch the book and install it. Anywhere else nothing happens.\n"
            f"if 'google.colab' in str(get_ipython()):\n"
            f"    get_ipython().system('{fetch}')\n"
            f"    get_ipython().run_line_magic('cd', '-q /content/{name}/nbs')")


def uses_library(nb):
    "Whether a notebook needs the library: it exports a part of it, or imports it."
    code = ["".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code" and c.get("id") != ID]
    return any(line.startswith(("#| default_exp", "from gwm_nb", "import gwm_nb")) for s in code for line in s.splitlines())


def with_setup(nb):
    "The notebook with the cell before its first code cell; without it where it is not needed."
    cells = [c for c in nb["cells"] if c.get("id") != ID]
    if uses_library(nb):
        first = next(i for i, c in enumerate(cells) if c["cell_type"] == "code")
        cell = {"cell_type": "code", "execution_count": None, "id": ID, "metadata": {}, "outputs": [],
                "source": setup().splitlines(keepends=True)}
        cells.insert(first, cell)
    return nb | {"cells": cells}


if __name__ == "__main__":
    stale = []
    for path in sorted((root / "nbs").glob("*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        new = with_setup(nb)
        if new == nb:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if stale and "--check" in sys.argv:
        raise SystemExit(f"{', '.join(stale)}: run python .ci/colab.py")
