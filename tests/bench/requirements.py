"""What each requirement of a plain install costs, and which modules would miss it (Markdown).

    python tests/bench/requirements.py

MB: what would not be installed without it, with what only it brings along. Import: CPU time, where
NumPy and PyTorch are imported already. Run it where the package is installed without extras.
"""
import ast
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).resolve().parent.parent.parent / "gwm_nb"


def imported(text):
    "The packages outside the standard library that a module imports, at its top, later, or lazily."
    found = set(re.findall(r"^\w+ = lazily\(['\"]([\w.]+)", text, re.M))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {PACKAGE.name}


def users():
    "Imported package -> the modules of ours that import it."
    found = {}
    for path in sorted(PACKAGE.glob("*.py")):
        for name in imported(path.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(path.stem)
    return found


def needs(name, extras):
    "What a distribution requires here with these extras: names and their extras."
    for line in map(Requirement, requires(name) or []):
        if not line.marker or any(line.marker.evaluate({"extra": e}) for e in ("", *extras)):
            yield canonicalize_name(line.name), frozenset(line.extras)


def closure(wanted):
    "The names of these distributions, and of all that they bring along."
    found, waiting = set(), set(wanted)
    while waiting:
        found |= waiting
        waiting = {need for one in waiting for need in needs(*one)} - found
    return {name for name, _ in found}


def megabytes(names):
    files = [f.locate() for n in names for f in distribution(n).files or []]
    return sum(f.stat().st_size for f in files if f.is_file()) / 1e6


def milliseconds(package):
    "CPU time of an import, the median of three fresh processes."
    start = "" if package in ("torch", "numpy") else "import numpy, torch\n"
    code = f"{start}from time import process_time as t\na = t()\nimport {package}\nprint(t() - a)"
    run = [sys.executable, "-c", code]
    times = [float(subprocess.check_output(run, text=True)) for _ in range(3)]
    return 1000 * sorted(times)[1]


if __name__ == "__main__":
    direct, rows = set(needs(PACKAGE.name, [])), []
    for package, modules in users().items():
        provided = {canonicalize_name(d) for d in packages_distributions().get(package, [])}
        for one in [d for d in direct if d[0] in provided]:
            size = megabytes(closure(direct) - closure(direct - {one}))
            rows.append((size, one[0], milliseconds(package), modules))
    print("| requirement | MB | import, ms | imported by |\n|---|---|---|---|")
    for size, name, time, modules in sorted(rows, reverse=True):
        print(f"| {name} | {size:.0f} | {time:.0f} | {', '.join(modules)} |")
