"""Write notebooks for a course: the lesson without answers and outputs, or slides.

    python .ci/student.py FOLDER                 00 to 19, with an empty cell for each answer
    python .ci/student.py FOLDER --slides 00 05  these with outputs, marked as slides for
                                                 `jupyter nbconvert --to slides FOLDER/*.ipynb`
"""
import argparse
import json
import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
BEGINS = re.compile(r"\d+\. |#+ |.*\]\(\w+\.ipynb\)", re.S)     # an exercise, a heading, the way on


def source(cell): return "".join(cell["source"])


def with_source(cell, text): return cell | {"source": text.splitlines(keepends=True)}


def is_answer(cell):
    return cell["cell_type"] == "code" and '#| code-summary: "Answer' in source(cell)


def is_plumbing(cell): return "nbdev_export()" in source(cell)     # would write the package anew


def asked(text, explains):
    "Prose without answers; with `explains`, also without its beginning, which explains one."
    text = re.sub(r"<details>.*?</details>", "*Your answer:*", text, flags=re.S)
    parts = text.split("\n\n")
    while explains and parts and not BEGINS.match(parts[0]): parts.pop(0)
    return "\n\n".join(parts)


def for_students(cells):
    "The cells of a notebook without answers and outputs. Cells that check an answer stay."
    found, in_exercises, answered = [], False, False
    for cell in cells:
        if is_plumbing(cell): continue
        if cell["cell_type"] == "markdown":
            text = source(cell)
            in_exercises = in_exercises or "## Exercises" in text
            if in_exercises: text = asked(text, answered)
            answered = False
            if text: found.append(with_source(cell, text))
            continue
        answered = answered or is_answer(cell)
        text = "# your answer\n" if is_answer(cell) else source(cell)
        found.append(with_source(cell, text) | {"outputs": [], "execution_count": None})
    return found


def as_slides(cells):
    "The shown cells of a notebook: a heading begins a slide, prose the next one below it."
    found = []
    for cell in cells:
        text = source(cell)
        if re.search(r"^#\| (hide|export\b)|nbdev_export", text, re.M): continue
        plain = re.sub(r"^#\|.*\n?", "", text, flags=re.M)
        kind = "slide" if text.startswith("#") else "subslide"
        if cell["cell_type"] == "code": kind = "-"
        found.append(with_source(cell, plain) | {"metadata": {"slideshow": {"slide_type": kind}}})
    return found


def write(folder, change, numbers):
    "Write changed copies of the notebooks with these numbers; returns their paths."
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for path in sorted(p for n in numbers for p in (root / "nbs").glob(f"{n}_*.ipynb")):
        book = json.loads(path.read_text(encoding="utf-8"))
        book["cells"] = change(book["cells"])
        paths.append(folder / path.name)
        text = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
        paths[-1].write_text(text, encoding="utf-8")
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write; not nbs")
    parser.add_argument("--slides", nargs="+", metavar="NUMBER", help="notebooks to mark as slides")
    options = parser.parse_args()
    if options.folder.resolve() == root / "nbs":
        raise SystemExit(f"{options.folder}: holds the notebooks themselves; name another folder")
    numbers = options.slides or [f"{n:02d}" for n in range(20)]
    change = as_slides if options.slides else for_students
    paths = write(options.folder, change, numbers)
    if not paths: raise SystemExit(f"no notebook is numbered {', '.join(numbers)}")
    print(f"{len(paths)} notebooks in {options.folder}")
