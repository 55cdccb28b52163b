"Where the reference data lies, and how tests call a command."
import os
import sys
from pathlib import Path

# before torch is imported, and for the programs that tests start: sums in one order
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
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


@pytest.fixture
def call(capsys, monkeypatch):
    "Call a command in this process: (what it printed, the one line it stopped with or None)."
    def run(command, *argv, cwd=None):
        if cwd:
            monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, argv)])
        capsys.readouterr()
        try:
            command()
            end = None
        except SystemExit as stop:
            end = stop.code
            assert end in (None, 0) or isinstance(end, str) and "\n" not in end, end
            assert not end or end.startswith(f"{command.__name__}: "), end
        return capsys.readouterr().out, end
    return run


@pytest.fixture(scope="session")
def davis(tmp_path_factory):
    "A miniature of DAVIS, which no test may change."
    from inputs import write_davis
    return write_davis(tmp_path_factory.mktemp("davis"))


@pytest.fixture(scope="session")
def disk():
    "A moving disk: the motion of its frames (a `Window`), and its masks (T,h,w) bool."
    from gwm_nb.superpixels import estimate_motion
    from inputs import moving_disk
    frames, masks = moving_disk()
    pixels = [f.permute(1, 2, 0).contiguous().numpy() for f in frames]
    return estimate_motion(pixels), np.stack(masks)


@pytest.fixture(scope="session")
def disk_graph(disk):
    "Its superpixels, without features."
    from gwm_nb.superpixels import build_graph
    return build_graph(disk[0], None, None, superpixels=150)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    "A server with a made-up DAVIS checkpoint in the published format, and an empty cache."
    import torch
    from gwm_nb import checkpoints
    from inputs import blob, fill_network, place, serve, tiny_paper
    theirs = fill_network(tiny_paper())
    torch.save({"model": theirs.state_dict(), "iteration": 5000}, tmp_path / "release.pth")
    data = (tmp_path / "release.pth").read_bytes()
    blobs = dict.fromkeys(checkpoints.published_blobs, blob(data))
    monkeypatch.setattr(checkpoints, "published_blobs", blobs)
    theirs.built_with, theirs.data = [], data

    def build(K, pretrained):
        theirs.built_with.append(pretrained)
        return tiny_paper(K)
    monkeypatch.setattr(checkpoints, "paper_network", build)
    with serve({place("DAVIS"): data, place("DAVIS%2BFBMS%2BSTv2"): data}) as server:
        for name, value in dict(GWM_CACHE=str(tmp_path / "cache"), GWM_RELEASE=server,
                                NO_PROXY="127.0.0.1", no_proxy="127.0.0.1").items():
            monkeypatch.setenv(name, value)
        yield theirs
