"""Give every notebook that uses the library a first code cell for Colab, which installs it there.

    python .ci/colab.py            puts the cells in, or brings them up to date

The repository's address comes from settings.ini, and from nowhere else.
"""
import configparser
import json
from pathlib import Path

root = Path(__file__).resolve().parent.parent
settings = configparser.ConfigParser()
settings.read(root / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]
ID = "colab000"


def setup():
    "The source of the cell."
    address, place = settings["git_url"], f"/content/{settings['repo']}"
    fetch = f'[ -d {place} ] || git clone -q {address} {place}; pip install -q "{place}[dev]"'
    return (f"#| hide\n# In Colab: fetch the book and install it. Anywhere else nothing happens.\n"
            f"if 'google.colab' in str(get_ipython()):\n"
            f"    get_ipython().system('{fetch}')\n"
            f"    get_ipython().run_line_magic('cd', '-q {place}/nbs')")


def with_setup(nb):
    "The notebook with the cell before its first code cell, if it exports or imports the library."
    cells = [c for c in nb["cells"] if c.get("id") != ID]
    code = [c for c in cells if c["cell_type"] == "code"]
    lines = [line for c in code for line in "".join(c["source"]).splitlines()]
    if any(line.startswith(("#| default_exp", "from gwm_nb", "import gwm_nb")) for line in lines):
        cells.insert(cells.index(code[0]), dict(
            cell_type="code", execution_count=None, id=ID, metadata={}, outputs=[],
            source=setup().splitlines(keepends=True)))
    return nb | {"cells": cells}


if __name__ == "__main__":
    for path in sorted((root / "nbs").glob("*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        new = with_setup(nb)
        if new != nb:
            text = json.dumps(new, indent=1, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8")
