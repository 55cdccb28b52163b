"The tool that corrects masks by clicks: by messages of a browser, and in a browser."
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from urllib.request import urlopen

import pytest

import house
from gwm_nb.explore import correct
from gwm_nb.files import read_mask
from inputs import write_frames
from test_hints import INCLUDE, PIXELS

X, Y = int(INCLUDE.x), int(INCLUDE.y)              # of an object that rests, which motion misses


def message(tool, buffers=(), **data):
    "A message arrives as the browser sends it."
    tool._handle_msg({"content": {"data": data}, "buffers": list(buffers)})


def test_a_hint_changes_the_masks_export_writes_them_and_undo_takes_it_back(tmp_path):
    clip, out = write_frames(tmp_path / "clip", PIXELS), tmp_path / "out"
    tool = correct(clip, out)
    hints = lambda *wanted: message(tool, method="update", state=dict(hints=list(wanted)))
    plain, hint = list(tool.masks), asdict(INCLUDE)
    hints(hint)
    assert tool.correction.hints == [INCLUDE] and tool.status["kind"] == "ready" and tool.used == 1
    assert tool.masks[1] != plain[1] and len(tool.masks) == len(tool.confidence) == 5
    message(tool, method="custom", content="export")
    assert read_mask(out / "00001.png")[Y, X] and str(out) in tool.status["text"]
    assert (out / "overlay.mp4").exists() and (out / "cutout.webm").exists()
    hints(hint, hint | dict(x=1000))
    assert tool.status["kind"] == "error" and "1000" in tool.status["text"]
    assert tool.hints == [hint] and tool.masks[1] != plain[1]
    hints()
    assert tool.masks == plain and tool.correction.hints == []


@contextmanager
def jupyterlab(folder):
    "The address at which JupyterLab serves a folder, with no settings of the user."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        home = f"http://127.0.0.1:{free.getsockname()[1]}/"
    places = "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", \
        "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR"
    env = os.environ | {place: str(folder / f".{place}") for place in places}
    options = ["--no-browser", "--allow-root", f"--port={home[17:-1]}", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={folder}"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env,
                                  cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(200):
            try:
                urlopen(home + "api")
                break
            except OSError:
                time.sleep(.3)
        yield home
    finally:
        server.terminate()
        server.wait()


def test_a_click_in_jupyterlab_changes_the_exported_mask(tmp_path):
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    pytest.importorskip("playwright", reason="playwright is not installed")
    browse = house.script("browse")
    if not browse.browser_there():
        pytest.skip("no Chromium or Chrome")
    write_frames(tmp_path / "clip", PIXELS)
    source = "from gwm_nb.explore import correct\ncorrect('clip', 'out')"
    cell = dict(cell_type="code", id="a", source=source, metadata={}, outputs=[],
                execution_count=None)
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3"))
    (tmp_path / "a.ipynb").write_text(json.dumps(
        dict(cells=[cell], metadata=kernel, nbformat=4, nbformat_minor=5)))

    def exported():
        page.locator(".gwm-correct [name=export]").click()
        page.get_by_text("files in out").wait_for()
        frame = page.locator(".gwm-correct [type=range]").input_value()
        return read_mask(tmp_path / f"out/{int(frame):05d}.png")[Y, X]

    with jupyterlab(tmp_path) as home, browse.opened((1200, 900), home) as (page, _):
        page.set_default_timeout(400_000)
        page.goto(home + "lab/tree/a.ipynb")
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for()
        page.locator(".jp-Cell .cm-content").click()
        page.keyboard.press("Shift+Enter")
        box = page.locator(".gwm-correct canvas").bounding_box()
        assert not exported()
        page.mouse.click(box["x"] + (X + .5) / 96 * box["width"],
                         box["y"] + (Y + .5) / 64 * box["height"])
        page.locator(".gwm-correct[data-kind=ready]").wait_for()
        assert exported()
