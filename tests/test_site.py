"The site: source stands where the prose speaks of it, links lead somewhere, images have words."
import ast
import json
import re
from importlib import import_module

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

import house
from house import ROOT

pages, colab = house.script("pages"), house.script("colab")
notebooks = house.numbered(p.name for p in (ROOT / "nbs").glob("*.ipynb"))
HOME = "https://gwm-nb.github.io/gwm_nb"
BLOB = "https://github.com/gwm-nb/gwm_nb/blob/main"


# ---- the check has eyes

GOOD = {
    "a.png": "",
    "03_motion.html": '<section id="fit_motion"></section><a href="./">home</a>',
    "index.html": f"""
        <h1 id="top">Hello</h1> <a href="#top"></a> <a href="03_motion.html#fit_motion"></a>
        <a href="{HOME}"></a> <a href="{HOME}/03_motion.html#fit_motion"></a>
        <a href="{BLOB}/README.md#L3"></a> <a href="https://example.org/gone"></a>
        <a href="mailto:a@example.org"></a>
        <img src="a.png" alt="a mask"> <img src="data:image/png;base64,AA" alt="flow">"""}


def site(folder, planted=""):
    "A site of two pages, with something planted on the first."
    for name, text in GOOD.items():
        (folder / name).write_text(text + (planted if name == "index.html" else ""))
    return folder


@pytest.mark.parametrize("planted, why", [
    ('<a href="motion.html">', "no such page"), ('<a href="#fit_motions">', "no such place"),
    ('<a href="03_motion.html#fit">', "no such place"),
    (f'<a href="{HOME}/motion.html#fit_motion">', "no such page"),
    (f'<a href="{HOME}/03_motion.html#fit">', "no such place"),
    ('<a href="../elsewhere.html">', "out of the site"),
    (f'<a href="{BLOB}/nbs/99_gone.ipynb">', "no such file in the repository"),
    ('<img src="gone.png" alt="a mask">', "no such page or file"),
    ('<img src="a.png">', "without alt text"), ('<img src="a.png" alt=" ">', "without alt text"),
    ('<link href="gone.css" rel="stylesheet">', "no such page or file")])
def test_a_planted_fault_is_found(tmp_path, planted, why):
    found = pages.problems(site(tmp_path, planted))
    assert len(found) == 1 and "index.html" in found[0] and why in found[0]


def test_a_good_site_passes_but_for_dead_search_results(tmp_path):
    assert "no pages" in pages.problems(tmp_path)[0]
    assert pages.problems(site(tmp_path)) == []
    results = [{"href": "03_motion.html#fit_motion"}, {"href": "03_motion.html#fit"}]
    (tmp_path / "search.json").write_text(json.dumps(results))
    line, = pages.problems(tmp_path)
    assert "search.json: 03_motion.html#fit:" in line


# ---- source stands where the prose speaks of it

def cell(kind, source, **more):
    outputs = {} if kind == "markdown" else dict(outputs=[])
    return dict(cell_type=kind, metadata={}, source=source) | outputs | more


def shown(name):
    "A cell as nbdev makes it for a documented name."
    link = f"[`fit_motion`]({HOME}/motion.html#fit_motion)"
    text = f"""---

[source]({BLOB}/gwm_nb/motion.py#L1){{target="_blank" style="float:right; font-size:smaller"}}

### {name}

```python
def {name}(
    x, # from {link}
)
```

*Does it.*"""
    outputs = [{"output_type": "display_data", "data": {"text/markdown": text}}]
    return cell("code", f"#| echo: false\n#| output: asis\nshow_doc({name})", outputs=outputs)


def exported(code):
    return cell("code", f'#| code-fold: show\n#| code-summary: "Exported source"\n{code}')


def markdown(text): return cell("markdown", text)


def test_source_stands_once_under_its_names():
    code = "def a(x): return _c(x)\n\nclass B:\n    def go(self): pass\n\ndef _c(x): return x"
    parts = [markdown("prose"), shown("a"), exported(code), shown("B"), shown("kept")]
    cells, addresses = pages.mended(parts)
    assert [c["cell_type"] for c in cells] == ["markdown", "markdown", "code", "code"]
    above, source, kept = (pages.source(c) for c in cells[1:])
    assert source == code and "show_doc(kept)" in kept
    said = pages.markdown_of(cells[3])[0]["text/markdown"]
    for words in ("### kept {#kept .exported}", "```python\ndef kept(", "*Does it.*"):
        assert words in said
    headings = re.findall(r"^### .*$", above, re.M)
    assert headings == ["### a {#a .exported}", "### B {#b .exported}"]
    assert "```" not in above and above.count("[source](") == 2
    assert re.findall(r'id="([\w.]+)"', above) == ["_c", "b.go"]
    assert addresses == {"a", "b", "b.go", "_c", "kept"}


def test_private_helpers_are_seen_and_have_an_address_but_no_heading():
    code = "@patch\ndef _step(self: Learner): return 1"
    cells, addresses = pages.mended([exported(code)])
    assert [pages.source(c) for c in cells] == ['<div id="learner._step"></div>', code]
    assert addresses == {"learner._step"}


def test_links_to_names_lead_to_the_page_as_it_is_called():
    link = lambda name, to: f"[`{name}`]({HOME}/{to})"
    rooms, addresses = {"motion": "03_motion"}, {"motion": {"fit_motion", "basis"}}
    turn = lambda text: pages.linked(text, rooms, addresses)
    good, gone = link("fit_motion", "motion.html#fit_motion"), link("x", "gone.html#x")
    assert turn(good) == "[`fit_motion`](03_motion.html#fit_motion)"
    method = link("Basis.powers", "motion.html#basis.powers")
    assert turn(method) == "[`Basis.powers`](03_motion.html#basis)"
    assert turn(link("_hidden", "motion.html#_hidden")) == "`_hidden`"
    assert turn(gone) == gone                                          # the check will find it
    assert turn(f"```python\nx, # {good}\n```") == "```python\nx, # `fit_motion`\n```"


def mended(folder, *cells):
    "Text of a notebook after the scripts of the site."
    (folder / "03_motion.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}}))
    pages.mend(folder)
    return (folder / "03_motion.ipynb").read_text()


def test_mend_works_on_a_folder_of_notebooks(tmp_path):
    "And its front matter leads to Colab."
    raw = "---\ndescription: One line,\n  and more.\noutput-file: motion.html\ntitle: A\n\n---\n\n"
    link = markdown(f"[`fit_motion`]({HOME}/motion.html#fit_motion)")
    code = exported("def fit_motion(x): return x")
    text = mended(tmp_path, cell("raw", raw), shown("fit_motion"), code, shown("kept"), link)
    assert "output-file" not in text and "gwm_nb/motion.html" not in text
    assert text.count("03_motion.html#fit_motion") == 1             # the signature has none
    front = yaml.safe_load("".join(json.loads(text)["cells"][0]["source"]).strip().strip("-"))
    assert front["title"] == "A" and front["code-links"][0]["text"] == "Open in Colab"
    address = pages.settings["git_url"].removeprefix("https://")
    place = f"https://colab.research.google.com/{address.replace('.com', '')}/blob/main/nbs"
    assert front["code-links"][0]["href"] == f"{place}/03_motion.ipynb"


# ---- the maps

def readme(): return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_sidebar_lists_every_notebook_in_its_kind_of_room():
    settings = yaml.safe_load((ROOT / "nbs/_quarto.yml").read_text(encoding="utf-8"))
    index, *kinds = settings["website"]["sidebar"]["contents"]
    assert index == "index.ipynb" and sum((s["contents"] for s in kinds), []) == notebooks
    assert [{min(int(n[0]), 4) for n in s["contents"]} for s in kinds] == [{i} for i in range(5)]


def test_the_readme_is_the_index_without_the_tables_of_notebooks():
    assert readme() == house.script("readme").readme()
    row = re.compile(r"^\| \[\w+\]\((\w+\.ipynb)\)", re.M)
    assert row.findall(said("index.ipynb")) == notebooks
    assert not row.search(readme().replace("(nbs/", "("))
    assert "site only" not in readme() and len(readme().split()) < 1150


def test_what_the_readme_links_to_and_imports_is_there():
    page = pages.Page(MarkdownIt("commonmark").enable("table").render(readme()))
    local = [a for a in page.addresses if not re.match(r"\w+:", a)]
    assert len(local) > 10 and [a for a in local if not (ROOT / a).exists()] == []
    assert not page.silent
    blocks = re.findall(r"```python\n(.*?)```", readme(), re.S)
    nodes = [n for b in blocks for n in ast.walk(ast.parse(b)) if isinstance(n, ast.ImportFrom)]
    taken = [(n.module, a.name) for n in nodes for a in n.names]
    assert len(taken) >= 3 and all(hasattr(import_module(m), name) for m, name in taken)
    badges = readme().split("\n\n")[2]
    address = pages.settings["git_url"].removeprefix("https://github.com/")
    assert badges.count("](") == 6 and badges.count(address) == 4


def test_the_readme_begins_with_a_real_clip_that_moves():
    shown = re.findall(r"!\[[^\]]+\]\((nbs/[^)]+)\)", readme())
    assert shown == ["nbs/images/walkers.webp", "nbs/images/clip.webp"]
    assert shown[0] in readme().split("\n## ")[0]
    for words in ("OpenCV", "Apache 2.0", "Big Buck Bunny", "CC BY 3.0", "ImageNet's labels"):
        assert words in readme()
    for name in shown:
        with Image.open(ROOT / name) as clip:
            assert clip.n_frames > 30 and clip.info["loop"] == 0
        assert (ROOT / name).stat().st_size < 750_000


# ---- the page of results repeats what others say

def said(name):
    "All that a notebook says, in text and outputs."
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
    for true, false in ((".763", ".773"), ("18.8 times", "17.8 times"), ("80.7", "81.7")):
        assert true in text and len(rumours(text.replace(true, false, 1), SOURCES)) == 1


# ---- Colab, and what language models read

class Shell(list):
    "Stands in for IPython in Colab, and remembers what it is told to do."
    def system(self, line): self.append(line)
    def run_line_magic(self, *words): self.append(" ".join(words))
    def __str__(self): return "<google.colab._shell.Shell object>"


def test_a_notebook_in_colab_fetches_the_book_first():
    told, elsewhere = Shell(), []
    for shell in (told, elsewhere):
        exec(colab.setup(), dict(get_ipython=lambda: shell))
    place = f"/content/{pages.settings['repo']}"
    clone = f"[ -d {place} ] || git clone -q {pages.settings['git_url']} {place}"
    assert told == [f'{clone}; pip install -q "{place}[dev]"', f"cd -q {place}/nbs"]
    assert elsewhere == []


def test_every_notebook_that_uses_the_library_begins_so():
    books = [json.loads(p.read_text(encoding="utf-8")) for p in (ROOT / "nbs").glob("*.ipynb")]
    assert all(colab.with_setup(nb) == nb for nb in books)
    assert sum(colab.uses_library(nb) for nb in books) > 25
    done = colab.with_setup({"cells": [markdown("# A"), exported("from gwm_nb.flow import warp")]})
    assert [c.get("id") for c in done["cells"]] == [None, colab.ID, None]
    assert colab.with_setup(done) == done
    other = {"cells": [markdown("# A"), exported("import torch")]}
    assert len(colab.with_setup(other)["cells"]) == 2


def test_llms_txt_says_what_each_page_is_about(tmp_path):
    (tmp_path / "03_a.llms.md").write_text("# Motion\n\nThe fit, in closed form.\n\nMore.\n")
    text = f"# gwm_nb\n\n> All.\n\n- [Motion]({pages.HOME}03_a.llms.md)"
    (tmp_path / "llms.txt").write_text(f"{text}\n")
    pages.describe(tmp_path)
    assert (tmp_path / "llms.txt").read_text() == f"{text}: The fit, in closed form.\n"
