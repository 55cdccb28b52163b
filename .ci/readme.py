"Make README.md from nbs/index.ipynb; with --check, only say whether they agree (exit code 1 if not)."
import configparser
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
config = configparser.ConfigParser()
config.read(root / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


def badges():
    "A line of badges; where the repository and the site are stands in settings.ini alone."
    home, branch, site = settings["git_url"], settings["branch"], settings["doc_host"] + settings["doc_baseurl"]
    colab = home.replace("https://github.com/", "https://colab.research.google.com/github/")
    found = [("tests", f"{home}/actions/workflows/test.yaml/badge.svg", f"{home}/actions/workflows/test.yaml"),
             ("documentation", f"{home}/actions/workflows/docs.yaml/badge.svg", site),
             ("Open in Colab", "https://colab.research.google.com/assets/colab-badge.svg", f"{colab}/blob/{branch}/nbs/00_flow.ipynb")]
    return " ".join(f"[![{alt}]({picture})]({address})" for alt, picture, address in found)


def readme():
    "The index notebook as Markdown: hidden cells dropped, links turned towards the repository's root."
    nb = nbformat.read(root / "nbs/index.ipynb", as_version=4)
    nb.cells = [c for c in nb.cells if c.cell_type == "markdown" or (c.cell_type == "code" and not c.source.startswith("#|"))]
    nb.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\]\((images/|\d\d_\w+\.ipynb)", r"](nbs/\1", text)
    text = re.sub(r"\]\(https://github\.com/gwm-nb/gwm_nb/(blob|tree)/main/", "](", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    text = re.sub(r"^(# .*\n)", rf"\1\n{badges()}\n", text, count=1)
    return f"<!-- made from nbs/index.ipynb by `python .ci/readme.py`; edit that -->\n\n{text}\n"


if __name__ == "__main__":
    target, text = root / "README.md", readme()
    if "--check" not in sys.argv:
        target.write_text(text, encoding="utf-8")
    elif target.read_text(encoding="utf-8") != text:
        raise SystemExit("README.md and nbs/index.ipynb disagree: run `python .ci/readme.py`")
