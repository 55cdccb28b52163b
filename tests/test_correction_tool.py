"The tool that corrects masks by clicks: by messages of a browser, and in a browser."
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from threading import Event

import pytest
import torch

import house
from gwm_nb import commands, correction
from gwm_nb.correction import Correction
from gwm_nb.explore import correct
from gwm_nb.files import current_job, read_mask
from gwm_nb.jobs import Result
from gwm_nb.methods import find_hints
from gwm_nb.refine import Hint
from inputs import write_frames
from test_hints import INCLUDE, PIXELS

X, Y = int(INCLUDE.x), int(INCLUDE.y)              # of an object that rests, which motion misses


def message(tool, buffers=(), **data):
    "A message arrives as the browser sends it."
    tool._handle_msg({"content": {"data": data}, "buffers": list(buffers)})


def test_a_hint_changes_the_masks_export_writes_them_and_undo_takes_it_back(tmp_path):
    clip, out = write_frames(tmp_path / "clip", PIXELS, first=3), tmp_path / "out"
    tool, hint = correct(clip, out), asdict(INCLUDE)
    hints = lambda *wanted: message(tool, method="update", state=dict(hints=list(wanted)))
    outlines, plain = tool.outlines, tool.masks
    hints(hint)
    assert tool.masks[1, Y, X] and not plain[1, Y, X] and tool.outlines[1] != outlines[1]
    assert tool.correction.hints == [INCLUDE] == tool.hints and tool.used == 1
    message(tool, method="custom", content="export")
    tool.wait()
    saved = Result(out)
    assert (torch.stack([*saved.masks]).numpy() == tool.masks).all()
    assert saved.report["command"] in tool.status["text"] and str(out) in tool.status["text"]
    assert (out / "overlay.mp4").exists() and (out / "cutout.webm").exists()
    for bad, error in (replace(INCLUDE, x=1000), ValueError), (hint, TypeError):
        with pytest.raises(error, match="a hint must be a Hint|outside"):
            tool.hints = [bad]
    assert correct(clip, out).hints == [INCLUDE] == Correction(clip).restore(out)
    other = write_frames(tmp_path / "other", PIXELS, first=3)
    assert [] == correct(clip, out, hints=[]).hints == Correction(other).restore(out)
    assert [] == Correction(clip, end=4).restore(out)
    hints()
    assert (tool.masks == plain).all() and tool.correction.hints == []


def test_reading_never_waits_changes_wait_for_each_other_and_what_is_unwanted_stops(
        tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tool = correct(write_frames(tmp_path / "my.clip", PIXELS), preset="fast", start=1)
    c, found, working, slow = tool.correction, tool.correction.refine(), [], Event()
    assert tool.out.name == "my.clip_corrected"

    def refine_clip(*_, hints, **__):
        working.append(len(working))
        for _ in range(300):
            if slow.wait(.01):
                break
            current_job().at("slow", 0)
        time.sleep(.05)
        assert working.pop() == 0
        return found
    monkeypatch.setattr(correction, "refine_clip", refine_clip)
    for unwanted in lambda: setattr(tool, "hints", []), tool.stop:
        tool.hints = [INCLUDE]
        while not working:
            time.sleep(.01)
        assert (c.mask(0) == found[0]).all() and c.hints == []
        unwanted()
        tool.wait()
        assert working.pop() == 0 == tool.used == len(tool.hints)
        assert tool.status == dict(kind="ready", text="stopped")
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(lambda x=x: c.add(Hint(0, x, 0))) for x in (1, 2)]
        slow.set()
    assert [b.result() for b in both] == [found] * 2 and len(c.hints) == 2
    message(tool, method="update", state=dict(hints=[asdict(INCLUDE)]))
    tool.wait()
    assert tool.hints == [replace(INCLUDE, frame=2)] and c.hints == [INCLUDE]


def test_what_is_no_clip_or_no_option_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(TypeError, match="ndarray.*folder"):
        correct(PIXELS[0])
    with pytest.raises(TypeError, match="'hint'; use hints"):
        correct(tmp_path, hint=[])


def test_the_command_of_a_correction_means_the_same_options(tmp_path, call, monkeypatch):
    "The program's own parser reads it, whatever the clip is called."
    write_frames(tmp_path / "it's a clip", PIXELS, first=3)
    options = dict(preset="fast", start="2", end="9s", max_side=64, objects=2, no_sound=True,
                   outputs=["webm", "masks"])
    monkeypatch.chdir(tmp_path)
    c = Correction("it's a clip", **options)
    c.hints = [Hint(1, 9.3, 4 / 300000, object=2), Hint(2, 1, 2, False), Hint(0, 7, 8)]
    taken = []
    monkeypatch.setattr(commands, "segment_all", lambda *given: taken.append(given))
    for correction in (c, Correction("it's a clip")):
        name, *words = shlex.split(correction.command)
        call(commands.gwm_segment, *words)
        clip, _, found = taken.pop()
        assert (name, clip) == ("gwm_segment", str(correction.job.clip))
        assert find_hints(correction.job, found.hints) == correction.hints
        assert replace(found, hints=()) == replace(correction.options, hints=())
    assert words == ["it's a clip"]


@pytest.fixture
def browse():
    pytest.importorskip("playwright", reason="playwright is not installed")
    browse = house.script("browse")
    if not browse.browser_there():
        pytest.skip("no Chromium or Chrome")
    return browse


def click(page):
    "Where the object that rests is."
    canvas = page.locator(".gwm-correct canvas")
    box = canvas.bounding_box()
    canvas.click(position=dict(x=(X + .5) / 96 * box["width"], y=(Y + .5) / 64 * box["height"]))


@contextmanager
def jupyterlab(folder):
    "The address at which JupyterLab serves a folder, with no settings of the user."
    places = "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"
    env = os.environ | {place: str(folder / f".{place}") for place in places}
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={folder}"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env,
                                  cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while not (found := list(folder.glob(".JUPYTER_RUNTIME_DIR/jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(.2)
        yield json.loads(found[0].read_text())["url"]
    finally:
        server.terminate()
        server.wait()


SLOW = """
from gwm_nb import correction, files
fast = correction.refine_clip
def slow(*args, hints=(), **kwargs):
    for _ in range(900 * len(hints)):
        files.time.sleep(.1)
        files.current_job().at('slow', 0)
    return fast(*args, hints=hints, **kwargs)
correction.refine_clip = slow
from gwm_nb.explore import correct
tool = correct('clip', 'out')
tool"""
FAST = "correction.refine_clip = fast\nprint('during', tool.correction.mask(0).shape)"


def test_a_click_in_jupyterlab_can_be_stopped_and_changes_the_exported_mask(tmp_path, browse):
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    write_frames(tmp_path / "clip", PIXELS)
    cells = [dict(cell_type="code", id=f"c{i}", source=source, metadata={}, outputs=[],
                  execution_count=None) for i, source in enumerate((SLOW, FAST))]
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3"))
    (tmp_path / "a.ipynb").write_text(json.dumps(
        dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)))

    def exported():
        page.locator(".gwm-correct [name=export]").click()
        page.get_by_text("files in out").wait_for()
        frame = page.locator(".gwm-correct [type=range]").input_value()
        return read_mask(tmp_path / f"out/{int(frame):05d}.png")[Y, X]

    def run(cell):
        page.locator(".jp-Cell .cm-content").nth(cell).click()
        page.keyboard.press("Shift+Enter")

    with jupyterlab(tmp_path) as home, browse.opened((1200, 900), home) as (page, _):
        page.set_default_timeout(120_000)                  # the first import takes its time
        page.goto(home + "lab/tree/a.ipynb")
        page.get_by_text("| Idle").wait_for()              # earlier, what is run gets lost
        run(0)
        page.locator(".gwm-correct[data-kind=ready]").wait_for()
        assert not exported()
        click(page)
        page.get_by_text("finding the masks").wait_for()
        run(1)
        page.get_by_text("during torch").wait_for()
        page.get_by_text("finding the masks").wait_for()
        page.locator(".gwm-correct").focus()
        page.keyboard.press("Escape")
        page.locator(".gwm-correct [role=status]:text('stopped')").wait_for(timeout=20_000)
        assert not exported()
        click(page)
        click(page)                                        # the same again is ignored
        page.locator(".gwm-correct[data-kind=ready]").wait_for()
        assert exported()
        page.locator(".gwm-correct").press("ArrowRight")
        page.locator(".gwm-correct").press("u")
        page.locator(".gwm-correct[data-kind=ready] [name=undo]:disabled").wait_for()
        assert not exported()
        page.locator(".jp-Cell .cm-content").nth(1).click()
        page.keyboard.press("Control+s")
        page.get_by_text("Saving completed").wait_for()
        outputs = json.loads((tmp_path / "a.ipynb").read_text())["cells"][0]["outputs"]
        kinds = [kind for output in outputs for kind in output["data"] if "/plain" not in kind]
        assert kinds == ["application/vnd.jupyter.widget-view+json", "image/jpeg"]
