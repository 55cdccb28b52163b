"Notebooks for students hold the exercises and their checks, and no answer."
import json
import subprocess
import sys

import pytest

import house
from house import ROOT

student = house.script("student")
ANSWER = '#| code-fold: true\n#| code-summary: "Answer"\n'


def prose(text): return dict(cell_type="markdown", source=text, metadata={})


def code(text, *outputs):
    return dict(cell_type="code", source=text, metadata={}, outputs=list(outputs),
                execution_count=1)


SEVEN = dict(output_type="stream", text="7")
IN_WORDS = "<details><summary>Answer</summary>\n\nBecause.\n\n</details>"
BOOK = [prose("# A room\n\n> One line."), code("shown = 1", SEVEN),
        prose("## Exercises\n\n1. Predict."), code(ANSWER + "print(7)", SEVEN),
        prose(f"It is seven.\n\n2. Explain.\n\n{IN_WORDS}\n\n3. Write `f`."),
        code(ANSWER + "def f(): return 7"), code("# check: f gives seven\nassert f() == 7"),
        prose("So it is.\n\nNext: [01_b](01_b.ipynb)."),
        code("#| hide\nimport nbdev; nbdev.nbdev_export()")]


def test_answers_go_and_checks_stay():
    cells = student.for_students(BOOK)
    texts = [student.source(c) for c in cells]
    assert texts[1] == "shown = 1" and texts[2] == "## Exercises\n\n1. Predict."
    assert texts[3] == texts[5] == "# your answer\n"
    assert texts[4] == "2. Explain.\n\n*Your answer:*\n\n3. Write `f`."
    assert texts[6:] == ["# check: f gives seven\nassert f() == 7", "Next: [01_b](01_b.ipynb)."]
    assert not any(c.get("outputs") for c in cells)
    assert student.source(BOOK[3]).endswith("print(7)")      # the book itself is unchanged


def count(path):
    "Exercises and answers of a notebook, and empty answers of its student's edition."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = "\n\n".join(map(student.source, house.of_kind(cells, "markdown")))
    texts = texts.split("## Exercises")[-1]
    exercises = sum(line.split(". ")[0].isdigit() for line in texts.splitlines())
    answers = sum(map(student.is_answer, cells)) + texts.count("<details>")
    kept = [student.source(c) for c in student.for_students(cells)]
    empty = sum(t == "# your answer\n" for t in kept) + sum(t.count("*Your answer:*") for t in kept)
    return exercises, answers, empty, "\n".join(kept)


@pytest.mark.parametrize("number", range(10, 20))
def test_every_exercise_of_the_chapters_has_an_answer(number):
    path, = (ROOT / "nbs").glob(f"{number}_*.ipynb")
    exercises, answers, empty, text = count(path)
    assert 3 <= exercises <= 4 and answers == empty == exercises
    assert "Predict before you run" in text and "Write it yourself" in text and "# check" in text
    assert "code-summary" not in text.replace("code-summary: \"How", "")


def test_slides_become_a_page(tmp_path):
    run = lambda *argv: subprocess.run([sys.executable, *argv], check=True, capture_output=True)
    run(ROOT / ".ci/student.py", tmp_path, "--slides", "05")
    run("-m", "nbconvert", "--to", "slides", *tmp_path.glob("*.ipynb"))
    page, = tmp_path.glob("05_loss.slides.html")
    text = page.read_text(encoding="utf-8")
    assert text.count("<section>") > 10 and "nbdev_export" not in text and "#| " not in text


def test_the_notebooks_themselves_are_not_overwritten():
    command = [sys.executable, ROOT / ".ci/student.py", ROOT / "nbs"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 1 and b"name another folder" in done.stderr
