"Make README.md from nbs/index.ipynb; with --check, only say whether they agree (exit code 1 if not)."
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults

root = Path(__file__).resolve().parent.parent


def readme():
    "The index notebook as Markdown: hidden cells dropped, links turned towards the repository's root."
    processor = NBProcessor(root / "nbs/index.ipynb", procs=FilterDefaults())
    processor.process()
    nb = nbformat.from_dict(processor.nb)
    for cell in nb.cells:
        cell.pop("directives_", None), cell.pop("idx_", None)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\]\((images/)", r"](nbs/\1", text)
    text = re.sub(r"\]\((\d\d_\w+\.ipynb)\)", r"](nbs/\1)", text)
    text = re.sub(r'\A---\n.*?\n---\n', "", text, flags=re.S)
    return "<!-- made from nbs/index.ipynb by `python .ci/readme.py`; edit that -->\n\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    target, text = root / "README.md", readme()
    if "--check" in sys.argv:
        if target.read_text(encoding="utf-8") != text:
            raise SystemExit("README.md and nbs/index.ipynb disagree: run `python .ci/readme.py`")
    else:
        target.write_text(text, encoding="utf-8")
