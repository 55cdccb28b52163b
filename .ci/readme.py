"""Make README.md from nbs/index.ipynb: `python .ci/readme.py`.

A cell that begins with `<!-- site only -->` is on the start page of the site alone.
"""
import configparser
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
config = configparser.ConfigParser()
config.read(root / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


def badges():
    "A line of badges; the addresses of repository and site come from settings.ini alone."
    home, branch = settings["git_url"], settings["branch"]
    site = settings["doc_host"] + settings["doc_baseurl"]
    workflow = f"{home}/actions/workflows/{{}}.yaml"
    colab = home.replace("https://github.com/", "https://colab.research.google.com/github/")
    found = [("tests", workflow.format("test") + "/badge.svg", workflow.format("test")),
             ("documentation", workflow.format("docs") + "/badge.svg", site),
             ("Open in Colab", "https://colab.research.google.com/assets/colab-badge.svg",
              f"{colab}/blob/{branch}/nbs/01_flow.ipynb")]
    return " ".join(f"[![{alt}]({image})]({address})" for alt, image, address in found)


def readme():
    "The index notebook as Markdown: some cells left out, links relative to the repository's root."
    nb = nbformat.read(root / "nbs/index.ipynb", as_version=4)
    left_out = "#|", "<!-- site only -->"
    nb.cells = [c for c in nb.cells if c.cell_type != "raw" and not c.source.startswith(left_out)]
    nb.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\]\((images/|\d\d_\w+\.ipynb)", r"](nbs/\1", text)
    text = re.sub(rf"\]\({settings['git_url']}/(blob|tree)/{settings['branch']}/", "](", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    text = re.sub(r"^(# .*\n)", rf"\1\n{badges()}\n", text, count=1)
    return f"<!-- made from nbs/index.ipynb by `python .ci/readme.py`; edit that -->\n\n{text}\n"


if __name__ == "__main__":
    (root / "README.md").write_text(readme(), encoding="utf-8")
