"Where the reference data lies, if it is there at all."
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")       # before torch is imported, and for the programs that tests start: sums in one order

import pytest


@pytest.fixture(scope="session")
def shared():
    "The folder named by GWM_SHARED; tests that need it are skipped where it is absent."
    folder = os.environ.get("GWM_SHARED")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GWM_SHARED names no folder with reference data")
    return Path(folder)


@pytest.fixture(scope="session")
def golden(shared):
    return shared / "golden"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    "Keep the tests' flow out of the user's cache."
    monkeypatch.setenv("GWM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
