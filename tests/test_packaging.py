"Requirements are what the modules import; workflows run what is there, on what is claimed."
import os
import re
import shutil
import subprocess
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench import requirements
from house import ROOT
from test_structure import settings

workflows = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8"))
             for p in sorted((ROOT / ".github/workflows").glob("*.yaml"))}


def declared(kind=""):
    lines = map(Requirement, settings()[f"{kind}requirements"].split())
    return {canonicalize_name(r.name) for r in lines}


def needed(packages):
    "The distributions that provide these packages; a package that is not installed is its own."
    there = packages_distributions()
    return {canonicalize_name(there.get(p, [p])[0]) for p in packages}


def test_what_is_imported_is_required_and_what_is_required_is_imported():
    found = needed(requirements.users())
    optional = set().union(*(declared(f"{k}_") for k in ("track", "onnx", "crf", "fast", "app")))
    assert declared() - found == set()
    assert found - declared() - optional == set()


def steps(name):
    return [s for job in workflows[name]["jobs"].values() for s in job["steps"]]


@pytest.mark.parametrize("name", workflows)
def test_workflows_run_files_that_are_there(name):
    commands = [word for s in steps(name) for word in s.get("run", "").split()]
    files = [word for word in commands if re.match(r"(\.ci|nbs|tests)/", word)]
    assert [f for f in files if not (ROOT / f).is_file()] == []


def test_every_python_that_is_claimed_is_tested():
    first = int(settings()["min_python"].split(".")[1])
    last = int(re.search(r"range\(minor, (\d+)\)", (ROOT / "setup.py").read_text())[1])
    matrix = workflows["test"]["jobs"]["fast"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{m}" for m in range(first, last)]


@pytest.mark.skipif(not shutil.which("sed"), reason="the step is a shell command with sed")
@pytest.mark.parametrize("tag, code", [("v{}", 0), ("{}", 1), ("v{}.1", 1), ("v9", 1)])
def test_only_the_tag_of_the_version_is_published(tag, code):
    step, = [s["run"] for s in steps("publish") if "GITHUB_REF_NAME" in s.get("run", "")]
    env = os.environ | {"GITHUB_REF_NAME": tag.format(settings()["version"])}
    assert subprocess.run(["bash", "-ec", step], cwd=ROOT, env=env).returncode == code
