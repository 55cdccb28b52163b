"The documentation site: source stands where the prose speaks of it, links lead somewhere, pictures say what they show."
import ast
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

import house

root = Path(__file__).resolve().parent.parent
pages, colab = house.script("pages"), house.script("colab")
notebooks = [p.name for p in sorted((root / "nbs").glob("[0-9][0-9]_*.ipynb"))]


# ---- the check has eyes

GOOD = {
    "a.png": "",
    "03_motion.html": '<section id="fit_motion"></section><a href="./">home</a>',
    "index.html": """
        <h1 id="top">Hello</h1> <a href="#top"></a> <a href="03_motion.html#fit_motion"></a>
        <a href="https://gwm-nb.github.io/gwm_nb"></a> <a href="https://gwm-nb.github.io/gwm_nb/03_motion.html#fit_motion"></a>
        <a href="https://github.com/gwm-nb/gwm_nb/blob/main/README.md#L3"></a>
        <a href="https://example.org/gone"></a> <a href="mailto:a@example.org"></a>
        <img src="a.png" alt="a mask"> <img src="data:image/png;base64,AA" alt="flow">
        """,
}


def site(folder, planted=""):
    "A site of two pages, with something planted on the first."
    for name, text in GOOD.items():
        (folder / name).write_text(text + (planted if name == "index.html" else ""))
    return folder


def test_a_site_in_order_passes(tmp_path):
    assert pages.problems(site(tmp_path)) == []


@pytest.mark.parametrize("planted, why", [
    ('<a href="motion.html">', "no such page"),
    ('<a href="#fit_motions">', "no such place"),
    ('<a href="03_motion.html#fit">', "no such place"),
    ('<a href="https://gwm-nb.github.io/gwm_nb/motion.html#fit_motion">', "no such page"),
    ('<a href="https://gwm-nb.github.io/gwm_nb/03_motion.html#fit">', "no such place"),
    ('<a href="../elsewhere.html">', "out of the site"),
    ('<a href="https://github.com/gwm-nb/gwm_nb/blob/main/nbs/99_gone.ipynb">', "no such file in the repository"),
    ('<img src="gone.png" alt="a mask">', "no such page or file"),
    ('<img src="a.png">', "without alt text"),
    ('<img src="a.png" alt=" ">', "without alt text"),
    ('<link href="gone.css" rel="stylesheet">', "no such page or file"),
])
def test_a_planted_fault_is_found(tmp_path, planted, why):
    found = pages.problems(site(tmp_path, planted))
    assert len(found) == 1 and "index.html" in found[0] and why in found[0]


def test_dead_search_results_are_found_and_so_is_an_empty_site(tmp_path):
    assert pages.problems(tmp_path) == [f"no pages in {tmp_path}"]
    results = [{"href": "03_motion.html#fit_motion"}, {"href": "03_motion.html#fit"}]
    (site(tmp_path) / "search.json").write_text(json.dumps(results))
    assert pages.problems(tmp_path) == ["search.json: 03_motion.html#fit: no such place on that page"]


# ---- source stands where the prose speaks of it

def shown(name, docstring="Does it."):
    "A cell as nbdev makes it for a documented name."
    file = "https://github.com/gwm-nb/gwm_nb/blob/main/gwm_nb/motion.py#L1"
    link = "[`fit_motion`](https://gwm-nb.github.io/gwm_nb/motion.html#fit_motion)"
    text = f"""---

[source]({file}){{target="_blank" style="float:right; font-size:smaller"}}

### {name}

```python
def {name}(
    x, # from {link}
)
```

*{docstring}*"""
    return {"cell_type": "code", "metadata": {}, "source": f"#| echo: false\n#| output: asis\nshow_doc({name})",
            "outputs": [{"output_type": "display_data", "data": {"text/markdown": text}}]}


def exported(code):
    return {"cell_type": "code", "metadata": {}, "outputs": [], "source": f'#| code-fold: show\n#| code-summary: "Exported source"\n{code}'}


def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def test_source_stands_once_under_its_names():
    code = "def a(x): return _c(x)\n\nclass B:\n    def go(self): pass\n\ndef _c(x): return x"
    cells, addresses = pages.mended([markdown("prose"), shown("a"), exported(code), shown("B"), shown("kept")])
    assert [c["cell_type"] for c in cells] == ["markdown", "markdown", "code", "code"]
    above, source, kept = (pages.source(c) for c in cells[1:])
    assert source == code and "show_doc(kept)" in kept
    said = pages.markdown_of(cells[3])[0]["text/markdown"]
    assert "### kept {#kept .exported}" in said and "```python\ndef kept(" in said and "*Does it.*" in said
    assert re.findall(r"^### .*$", above, re.M) == ["### a {#a .exported}", "### B {#b .exported}"]
    assert "```" not in above and above.count("[source](") == 2
    assert re.findall(r'id="([\w.]+)"', above) == ["_c", "b.go"] and addresses == {"a", "b", "b.go", "_c", "kept"}


def test_private_helpers_are_seen_and_have_an_address_but_no_heading():
    cells, addresses = pages.mended([exported("@patch\ndef _step(self: Learner): return 1")])
    assert [pages.source(c) for c in cells] == ['<div id="learner._step"></div>', "@patch\ndef _step(self: Learner): return 1"]
    assert addresses == {"learner._step"}


def test_links_to_names_lead_to_the_page_as_it_is_called():
    def link(name, to):
        return f"[`{name}`](https://gwm-nb.github.io/gwm_nb/{to})"
    def turn(text):
        return pages.linked(text, {"motion": "03_motion"}, {"motion": {"fit_motion", "basis"}})
    assert turn(link("fit_motion", "motion.html#fit_motion")) == "[`fit_motion`](03_motion.html#fit_motion)"
    assert turn(link("Basis.powers", "motion.html#basis.powers")) == "[`Basis.powers`](03_motion.html#basis)"
    assert turn(link("_hidden", "motion.html#_hidden")) == "`_hidden`"
    assert turn(link("x", "gone.html#x")) == link("x", "gone.html#x")                      # the check will find it
    assert turn("```python\nx, # " + link("fit_motion", "motion.html#fit_motion") + "\n```") == "```python\nx, # `fit_motion`\n```"


def test_mend_works_on_a_folder_of_notebooks(tmp_path):
    raw = {"cell_type": "raw", "metadata": {}, "source": ["---\n", "output-file: motion.html\n", "title: Motion\n", "---\n"]}
    cells = [raw, shown("fit_motion"), exported("def fit_motion(x): return x"), shown("kept"),
             markdown("[`fit_motion`](https://gwm-nb.github.io/gwm_nb/motion.html#fit_motion)")]
    (tmp_path / "03_motion.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}}))
    pages.mend(tmp_path)
    text = (tmp_path / "03_motion.ipynb").read_text()
    assert "output-file" not in text and "gwm_nb/motion.html" not in text
    assert text.count("03_motion.html#fit_motion") == 1                                  # in the prose; the signature has none


# ---- the maps

def test_the_sidebar_lists_every_notebook_in_its_kind_of_room():
    sidebar = yaml.safe_load((root / "nbs/_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    assert sidebar[0] == "index.ipynb" and sum((s["contents"] for s in sidebar[1:]), []) == notebooks
    assert [{n[0] for n in s["contents"]} for s in sidebar[1:]] == [{str(i)} for i in range(5)]


def test_the_readme_is_the_index_without_the_tables_of_notebooks():
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text == house.script("readme").readme()
    row = re.compile(r"^\| \[\w+\]\((\w+\.ipynb)\)", re.M)
    assert row.findall(said("index.ipynb")) == notebooks and not row.search(text.replace("(nbs/", "("))
    assert "site only" not in text and len(text.split()) < 1150


def test_the_links_of_the_readme_lead_to_files():
    text = (root / "README.md").read_text(encoding="utf-8")
    page = pages.Page(MarkdownIt("commonmark").enable("table").render(text))
    local = [a for a in page.addresses if not re.match(r"\w+:", a)]
    assert len(local) > 10 and [a for a in local if not (root / a).exists()] == []
    assert not page.silent


def test_what_the_readme_imports_is_there():
    text = (root / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    nodes = [n for b in blocks for n in ast.walk(ast.parse(b)) if isinstance(n, ast.ImportFrom)]
    taken = [(n.module, a.name) for n in nodes for a in n.names]
    assert len(taken) >= 3 and [t for t in taken if not hasattr(import_module(t[0]), t[1])] == []


def test_the_readme_begins_with_a_real_clip_that_moves():
    text = (root / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\((nbs/[^)]+)\)", text)
    assert shown == ["nbs/images/walkers.webp", "nbs/images/clip.webp"]
    assert shown[0] in text.split("\n## ")[0]
    for words in ("OpenCV", "Apache 2.0", "Big Buck Bunny", "CC BY 3.0", "ImageNet's labels"):
        assert words in text
    for name in shown:
        with Image.open(root / name) as clip: assert clip.n_frames > 30 and clip.info["loop"] == 0
        assert (root / name).stat().st_size < 750_000


# ---- the page of results repeats what others say

def said(name):
    "All that a notebook says, in text and outputs."
    cells = json.loads((root / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    outputs = [o for c in cells for o in c.get("outputs", [])]
    texts = ["".join(o.get("text", [])) + "".join(o.get("data", {}).get("text/plain", [])) for o in outputs]
    return "\n".join([*("".join(c["source"]) for c in cells), *texts])


def rumours(text, where):
    "Rows of the page's tables whose figures do not stand where the row says, or in `where` if it names no notebook."
    found, heading = [], ""
    for line in text.splitlines():
        heading = line if line.startswith("## ") else heading
        cells = [c.strip() for c in line.strip("|").split("|")]
        if not line.startswith("| ") or not re.search(r"\d", cells[1]):
            continue
        sources = re.findall(r"\]\((\w+\.ipynb)\)", line) or where[heading]
        texts = [said(s) if s.endswith(".ipynb") else (root / s).read_text(encoding="utf-8") for s in sources]
        numbers = re.findall(r"(?<![\w.])\d*\.?\d+(?:e-\d)?", cells[1])
        found += [f"{n}: {line}" for n in numbers if not any(re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", t) for t in texts)]
    return found


SOURCES = {"## Against the published implementation": ["tests/test_golden.py", "tests/test_paper.py", "tests/test_train.py"],
           "## Speed": ["tests/bench/README.md"],
           "## Published figures, for orientation": ["16_benchmarks.ipynb"]}


def test_the_page_of_results_says_what_its_sources_say():
    text = said("35_results.ipynb")
    assert rumours(text, SOURCES) == []
    assert len(re.findall(r"^\| .*\d", text, re.M)) > 20
    for true, false in ((".763", ".773"), ("18.8 times", "17.8 times"), ("1e-5", "3e-5"), ("80.7", "81.7")):
        assert true in text and len(rumours(text.replace(true, false, 1), SOURCES)) == 1


# ---- where the repository is stands in one place

def test_badges_and_colab_lead_to_the_repository_of_settings_ini(tmp_path):
    address = pages.settings["git_url"].removeprefix("https://github.com/")
    readme = (root / "README.md").read_text(encoding="utf-8").split("\n\n")[2]
    assert readme.count("](") == 6 and readme.count(address) == 4
    raw = "---\ndescription: One line,\n  and more.\noutput-file: a.html\ntitle: A\n\n---\n\n"
    (tmp_path / "03_a.ipynb").write_text(json.dumps({"cells": [{"cell_type": "raw", "metadata": {}, "source": raw}], "metadata": {}}))
    pages.mend(tmp_path)
    front = yaml.safe_load("".join(json.loads((tmp_path / "03_a.ipynb").read_text())["cells"][0]["source"]).strip().strip("-"))
    assert front["title"] == "A" and "output-file" not in front
    link, = front["code-links"]
    assert link["text"] == "Open in Colab" and link["href"] == f"https://colab.research.google.com/github/{address}/blob/main/nbs/03_a.ipynb"


class Shell(list):
    "Stands in for IPython in Colab, and remembers what it is told to do."
    def system(self, line): self.append(line)
    def run_line_magic(self, *words): self.append(" ".join(words))
    def __str__(self): return "<google.colab._shell.Shell object>"


def test_a_notebook_in_colab_fetches_the_book_first():
    told, elsewhere = Shell(), []
    exec(colab.setup(), dict(get_ipython=lambda: told))
    exec(colab.setup(), dict(get_ipython=lambda: elsewhere))
    url, name = pages.settings["git_url"], pages.settings["repo"]
    assert told == [f'[ -d /content/{name} ] || git clone -q {url} /content/{name}; pip install -q "/content/{name}[dev]"', f"cd -q /content/{name}/nbs"]
    assert elsewhere == []


def test_every_notebook_that_uses_the_library_begins_so():
    books = {p: json.loads(p.read_text(encoding="utf-8")) for p in sorted((root / "nbs").glob("*.ipynb"))}
    assert [p.name for p, nb in books.items() if colab.with_setup(nb) != nb] == []
    assert sum(colab.uses_library(nb) for nb in books.values()) > 25
    nb = {"cells": [markdown("# A"), exported("from gwm_nb.flow import warp")]}
    done = colab.with_setup(nb)
    assert [c.get("id") for c in done["cells"]] == [None, colab.ID, None] and colab.with_setup(done) == done
    assert colab.with_setup({"cells": [markdown("# A"), exported("import torch")]})["cells"][1]["source"].endswith("import torch")


def test_llms_txt_says_what_each_page_is_about(tmp_path):
    (tmp_path / "03_a.llms.md").write_text("# Motion\n\nThe fit, in closed form.\n\nMore.\n")
    (tmp_path / "llms.txt").write_text(f"# gwm_nb\n\n> All.\n\n- [Motion]({pages.HOME}03_a.llms.md)\n")
    pages.describe(tmp_path)
    assert (tmp_path / "llms.txt").read_text() == f"# gwm_nb\n\n> All.\n\n- [Motion]({pages.HOME}03_a.llms.md): The fit, in closed form.\n"
