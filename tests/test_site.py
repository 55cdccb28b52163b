"The site: source stands where the prose speaks of it, links lead somewhere, images have words."
import ast
import json
import re
from importlib import import_module
from unittest.mock import MagicMock

import pytest
import yaml
from markdown_it import MarkdownIt

import house
from house import ROOT

pages, colab = house.script("pages"), house.script("colab")
notebooks = [path.name for path in house.notebooks()]
HOME = "https://gwm-nb.github.io/gwm_nb"
BLOB = "https://github.com/gwm-nb/gwm_nb/blob/main"


GOOD = f"""<h1 id="top">Hello</h1> <a href="#top"></a> <a href="03_motion.html#fit_motion"></a>
    <a href="{HOME}"></a> <a href="{HOME}/03_motion.html#fit_motion"></a>
    <a href="{BLOB}/README.md#L3"></a> <a href="https://example.org/gone"></a>
    <a href="mailto:a@example.org"></a>
    <img src="a.png" alt="a mask"> <img src="data:image/png;base64,AA" alt="flow">"""


@pytest.mark.parametrize("planted, why", [
    ('<a href="motion.html">', "no such page"), ('<a href="#fit_motions">', "no such place"),
    (f'<a href="{BLOB}/nbs/99_gone.ipynb">', "no such file in the repository"),
    ('<img src="gone.png" alt="a mask">', "no such page or file"),
    ('<img src="a.png" alt=" ">', "without alt text")])
def test_a_planted_fault_is_found(tmp_path, planted, why):
    assert "no pages" in pages.problems(tmp_path)[0]
    (tmp_path / "a.png").touch()
    (tmp_path / "03_motion.html").write_text('<b id="fit_motion"></b><a href="./">home</a>')
    (tmp_path / "index.html").write_text(GOOD)
    (tmp_path / "search.json").write_text('[{"href": "03_motion.html#fit_motion"}]')
    assert pages.problems(tmp_path) == []
    (tmp_path / "index.html").write_text(GOOD + planted)
    (tmp_path / "search.json").write_text('[{"href": "03_motion.html#fit"}]')
    page, search = pages.problems(tmp_path)
    assert page.startswith("index.html: ") and why in page
    assert search.startswith("search.json: 03_motion.html#fit: ")


def cell(kind, source, **more):
    outputs = {} if kind == "markdown" else dict(outputs=[])
    return dict(cell_type=kind, metadata={}, source=source) | outputs | more


def markdown(text): return cell("markdown", text)


FIT_MOTION = f"[`fit_motion`]({HOME}/motion.html#fit_motion)"


def shown(name):
    text = (f"---\n\n[source]({BLOB}/gwm_nb/motion.py#L1){{target=_blank}}\n\n### {name}\n\n"
            f"```python\ndef {name}(\n    x, # from {FIT_MOTION}\n)\n```\n\n*Does it.*")
    outputs = [{"output_type": "display_data", "data": {"text/markdown": text}}]
    return cell("code", f"#| echo: false\n#| output: asis\nshow_doc({name})", outputs=outputs)


def exported(code):
    return cell("code", f'#| code-fold: show\n#| code-summary: "Exported source"\n{code}')


def test_mend_works_on_a_folder_of_notebooks(tmp_path):
    "Links to names lead to the page as it is called, its front matter to Colab."
    raw = "---\ndescription: One line,\n  and more.\noutput-file: motion.html\ntitle: A\n\n---\n\n"
    turned = {FIT_MOTION: "[`fit_motion`](03_motion.html#fit_motion)",
              FIT_MOTION.replace("fit_motion", "_hidden"): "`_hidden`",
              f"```python\nx, # {FIT_MOTION}\n```": "```python\nx, # `fit_motion`\n```"}
    code = exported("def fit_motion(x): return x")
    cells = [cell("raw", raw), shown("fit_motion"), code, shown("kept"), *map(markdown, turned)]
    file = tmp_path / "03_motion.ipynb"
    file.write_text(json.dumps({"cells": cells, "metadata": {}}))
    pages.mend(tmp_path)
    first, *_, kept, a, b, c = json.loads(file.read_text())["cells"]
    assert [a["source"], b["source"], c["source"]] == list(turned.values())
    assert "x, # from `fit_motion`" in pages.markdown_of(kept)[0]["text/markdown"]
    front = yaml.safe_load(first["source"].strip().strip("-"))
    place = "https://colab.research.google.com/github/gwm-nb/gwm_nb/blob/main/nbs"
    assert front["code-links"][0]["href"] == f"{place}/03_motion.ipynb"
    assert front["title"] == "A" and "output-file" not in front


def test_the_sidebar_lists_every_notebook_in_its_kind_of_room():
    settings = yaml.safe_load((ROOT / "nbs/_quarto.yml").read_text(encoding="utf-8"))
    index, *kinds = settings["website"]["sidebar"]["contents"]
    assert index == "index.ipynb" and sum((s["contents"] for s in kinds), []) == notebooks
    assert [{min(int(n[0]), 4) for n in s["contents"]} for s in kinds] == [{i} for i in range(5)]


def test_the_readme_is_the_index_without_the_tables_of_notebooks():
    "What it links to and imports is there, and it names whose clip and labels it shows."
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == house.script("readme").readme()
    row = re.compile(r"^\| \[\w+\]\((?:nbs/)?(\w+\.ipynb)\)", re.M)
    assert row.findall(said("index.ipynb")) == notebooks and not row.search(readme)
    page = pages.Page(MarkdownIt("commonmark").enable("table").render(readme))
    local = [a for a in page.addresses if not re.match(r"\w+:", a)]
    assert len(local) > 10 and [a for a in local if not (ROOT / a).exists()] == []
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    nodes = [n for b in blocks for n in ast.walk(ast.parse(b)) if isinstance(n, ast.ImportFrom)]
    taken = [(n.module, a.name) for n in nodes for a in n.names]
    assert len(taken) >= 3 and all(hasattr(import_module(m), name) for m, name in taken)
    assert not page.silent
    for words in ("OpenCV", "Apache 2.0", "Big Buck Bunny", "CC BY 3.0", "ImageNet's labels"):
        assert words in readme
    images = re.findall(r"!\[[^\]]+\]\((nbs/[^)]+)\)", readme)
    assert len(images) == 3 and all((ROOT / image).stat().st_size < 750_000 for image in images)


def said(name):
    cells = house.read_cells(ROOT / "nbs" / name)
    outputs = [o for c in cells for o in c.get("outputs", [])]
    texts = [o.get("text", []) for o in outputs]
    texts += [o.get("data", {}).get("text/plain", []) for o in outputs]
    return "\n".join(["".join(part) for part in [*(c["source"] for c in cells), *texts]])


def rumours(text, where):
    "Figures of the page's tables that do not stand where the row says, or its section in `where`."
    found, heading = [], ""
    for line in text.splitlines():
        heading = line if line.startswith("## ") else heading
        cells = [c.strip() for c in line.strip("|").split("|")]
        if not line.startswith("| ") or not re.search(r"\d", cells[1]):
            continue
        sources = re.findall(r"\]\((\w+\.ipynb)\)", line) or where[heading]
        texts = [said(s) if s.endswith(".ipynb") else (ROOT / s).read_text(encoding="utf-8")
                 for s in sources]
        for n in re.findall(r"(?<![\w.])\d*\.?\d+(?:e-\d)?", cells[1]):
            if not any(re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", t) for t in texts):
                found.append(f"{n}: {line}")
    return found


GOLDEN = [f"tests/test_{name}.py" for name in ("golden", "paper", "train")]
SOURCES = {"## Against the published implementation": GOLDEN,
           "## Speed": ["tests/bench/README.md"],
           "## Published figures, for orientation": ["16_benchmarks.ipynb"]}


def test_the_page_of_results_says_what_its_sources_say():
    text = said("35_results.ipynb")
    assert rumours(text, SOURCES) == []
    assert len(re.findall(r"^\| .*\d", text, re.M)) > 20
    for true, false in ((".753", ".764"), ("18.8 times", "17.8 times"), ("80.7", "81.7")):
        assert true in text and len(rumours(text.replace(true, false, 1), SOURCES)) == 1


def test_a_notebook_that_uses_the_library_fetches_it_first_in_colab():
    here, colabs, others = "/content/gwm_nb", MagicMock(), MagicMock()
    colabs.__str__.return_value = "<google.colab._shell.Shell object>"
    for shell in (colabs, others):
        exec(colab.setup(), dict(get_ipython=lambda: shell))
    clone = f"[ -d {here} ] || git clone -q https://github.com/gwm-nb/gwm_nb {here}"
    colabs.system.assert_called_once_with(f'{clone}; pip install -q "{here}[dev]"')
    colabs.run_line_magic.assert_called_once_with("cd", f"-q {here}/nbs")
    others.system.assert_not_called()
    books = [json.loads(p.read_text(encoding="utf-8")) for p in (ROOT / "nbs").glob("*.ipynb")]
    assert all(colab.with_setup(nb) == nb for nb in books)
    done = colab.with_setup({"cells": [markdown("# A"), exported("from gwm_nb.flow import warp")]})
    assert [c.get("id") for c in done["cells"]] == [None, colab.ID, None]
