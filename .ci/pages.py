"""The steps of the site that no tool does: `mend` the processed notebooks, `describe` the pages to
language models, `check` the rendered pages.

    python .ci/pages.py mend _proc       between nbdev and smalldocs
    python .ci/pages.py describe _docs   after smalldocs
    python .ci/pages.py check _docs      after both
"""
import ast
import configparser
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from nbdev.showdoc import showdoc_nm

root = Path(__file__).resolve().parent.parent
settings = configparser.ConfigParser()
settings.read(root / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]
HOME = settings["doc_host"] + settings["doc_baseurl"] + "/"              # where the site will stand
# where its sources stand: blob, tree or edit
REPOSITORY = settings["git_url"] + "/{}/" + settings["branch"] + "/"
COLAB = REPOSITORY.format("blob").replace("github.com", "colab.research.google.com/github") + "nbs/"


# ---- mend

EXPORTED = '#| code-summary: "Exported source"'        # how nbdev marks an `#| exports` cell


def names_in(code):
    """What a cell defines at its top, as nbdev names it (`Class.method` for a patch), and the
    methods of its classes."""
    tops, methods = [], []
    for node in ast.parse(code).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = showdoc_nm(node)
            tops += [name] if isinstance(name, str) else list(name)
        if isinstance(node, ast.ClassDef):
            functions = [m for m in node.body if isinstance(m, ast.FunctionDef)]
            methods += [f"{node.name}.{m.name}" for m in functions]
    return tops, methods


def source(cell):
    "A cell's text, which a notebook may keep as a list of lines."
    return "".join(cell["source"])


def documented(cell):
    "The name that a cell made by nbdev documents, or None."
    found = re.search(r"^show_doc\(([\w.]+)", source(cell), re.M)
    return found[1] if found and cell["cell_type"] == "code" else None


def markdown_of(cell):
    "The Markdown outputs of a cell: dictionaries whose `text/markdown` may be changed."
    return [o["data"] for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})]


def heading(cell, name):
    "What nbdev says of a name, in two: link to source and heading, with our address; the rest."
    text = "".join(markdown_of(cell)[0]["text/markdown"])
    above, fence, below = text.partition("```python")
    above = above.replace("---\n\n", "")
    above = above.replace('style="float:right; font-size:smaller"', ".source")
    above = re.sub(r"^(#+ .*)$", rf"\1 {{#{name.lower()} .exported}}", above, flags=re.M)
    return above.strip(), fence + below


def mended(cells):
    """Put the source of every `#| exports` cell where the prose speaks of it, under one heading for
    each public name. Returns the cells and the addresses on the page.

    nbdev puts a signature before the source, or after it where a cell defines two names; the source
    begins with the same lines, so only the signature's heading stays. Private names and methods get
    an address without a heading.
    """
    docs = {documented(c): c for c in cells if documented(c) and markdown_of(c)}
    inside, out = set(), []
    for cell in cells:
        if EXPORTED in source(cell):
            code = re.sub(r"^#\| code-(fold|summary):.*\n", "", source(cell), flags=re.M)
            tops, methods = names_in(code)
            titles = [heading(docs[n], n)[0] for n in tops if n in docs]
            places = [f'<div id="{n.lower()}"></div>' for n in [*tops, *methods] if n not in docs]
            above = "\n\n".join([*titles, "".join(places)])
            out.append({"cell_type": "markdown", "metadata": {}, "source": above})
            out.append(cell | {"source": code})
            inside.update(tops, methods)
        else:
            out.append(cell)
    out = [c for c in out if documented(c) in {None, *docs} - inside]
    for name in docs.keys() - inside:
        markdown_of(docs[name])[0]["text/markdown"] = "\n\n".join(heading(docs[name], name))
    return out, {n.lower() for n in [*docs, *inside]}


def linked(text, pages, addresses):
    """nbdev's links to names, turned to the pages as they are called here; a method without a place
    leads to its class."""
    def turn(match):
        shown, module, name = match.groups()
        if module not in pages:
            return match.group(0)
        found = [n for n in (name, name.split(".")[0]) if n in addresses[module]]
        return f"[{shown}]({pages[module]}.html#{found[0]})" if found else shown

    automatic = rf"\[(`[^`\n]+`)\]\({re.escape(HOME)}(\w+)\.html#([\w.]+)\)"
    parts = re.split(r"(^```.*?^```)", text, flags=re.M | re.S)
    for i, part in enumerate(parts):
        parts[i] = re.sub(automatic, r"\1" if part.startswith("```") else turn, part)
    return "".join(parts)


def front_matter(text, name):
    "What nbdev writes at the top of a notebook: without its address, with a link to Colab."
    text = re.sub(r"^output-file:.*\n", "", text, flags=re.M)
    link = f"code-links:\n- text: Open in Colab\n  icon: play-circle\n  href: {COLAB}{name}\n"
    return text if name == "index.ipynb" else re.sub(r"\n---\s*$", f"\n{link}---\n", text)


def mend(folder):
    "Mend all notebooks in `folder`, in place."
    paths = sorted(Path(folder).glob("*.ipynb"))
    notebooks = {p: json.loads(p.read_text(encoding="utf-8")) for p in paths}
    pages, addresses = {}, {}
    for path, nb in notebooks.items():
        room = re.sub(r"^\d+_", "", path.stem)
        pages[room] = path.stem
        nb["cells"], addresses[room] = mended(nb["cells"])
    for path, nb in notebooks.items():
        for cell in nb["cells"]:
            if cell["cell_type"] == "raw":
                cell["source"] = front_matter(source(cell), path.name)
            if cell["cell_type"] == "markdown":
                cell["source"] = linked(source(cell), pages, addresses)
            for data in markdown_of(cell):
                data["text/markdown"] = linked("".join(data["text/markdown"]), pages, addresses)
        path.write_text(json.dumps(nb), encoding="utf-8")


# ---- describe

def describe(site):
    "Let llms.txt, lines with a page's title and address, say what the page says below its title."
    file, lines = Path(site) / "llms.txt", []
    for line in file.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"- \[.+\]\((.+)\)", line):
            page = Path(site) / found[1].removeprefix(HOME)
            below = re.split(r"\n\s*", page.read_text(encoding="utf-8").strip())[1]
            line += f": {below.removeprefix('> ')}"
        lines.append(line)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- check

class Page(HTMLParser):
    "The `ids` of a page, the `addresses` that it asks for, how many images are without words."

    def __init__(self, text):
        super().__init__()
        self.ids, self.addresses, self.silent = set(), [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.update({attributes.get("id"), attributes.get("name") if tag == "a" else None})
        self.addresses += [attributes[k] for k in ("href", "src", "poster") if attributes.get(k)]
        self.silent += tag == "img" and not (attributes.get("alt") or "").strip()


def dead(address, place, site, pages):
    "Why `address`, written on the page `place`, leads nowhere; None if it leads somewhere."
    for kind in ("blob", "tree", "edit"):
        begin = REPOSITORY.format(kind)
        if address.startswith(begin):
            path = unquote(urlsplit(address.removeprefix(begin)).path)
            return None if (root / path).exists() else "no such file in the repository"
    whole = HOME if address == HOME.rstrip("/") else urljoin(HOME + place, address)
    if not whole.startswith(HOME):
        return None if urlsplit(address).scheme else "leads out of the site"
    path, _, name = whole.removeprefix(HOME).partition("#")
    path = unquote(urlsplit(path).path)
    if not path or path.endswith("/"):
        path += "index.html"
    if not (site / path).is_file():
        return "no such page or file"
    known = path not in pages or unquote(name) in pages[path].ids
    return None if known or not name else "no such place on that page"


def problems(site):
    "Everything on the pages of a folder that leads nowhere or has no words, one line each."
    site, found = Path(site), []
    pages = {p.relative_to(site).as_posix(): Page(p.read_text(encoding="utf-8"))
             for p in sorted(site.rglob("*.html"))}
    for place, page in pages.items():
        for address in dict.fromkeys(page.addresses):
            why = dead(address, place, site, pages)
            found += [f"{place}: {address}: {why}"] if why else []
        found += [f"{place}: an image without alt text: write `#| fig-alt`"] * page.silent
    search = site / "search.json"
    for entry in json.loads(search.read_text(encoding="utf-8")) if search.exists() else []:
        why = dead(entry["href"], "index.html", site, pages)
        found += [f"search.json: {entry['href']}: {why}"] if why else []
    return found if pages else [f"no pages in {site}"]


if __name__ == "__main__":
    step, folder = sys.argv[1:]
    found = {"mend": mend, "describe": describe, "check": problems}[step](folder)
    sys.exit("\n".join(found or []) or 0)
