"The page of `gwm_app`, over HTTP and in a browser: who may read what, waiting, cancelling, errors."
import http.client
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

import gwm_nb.app
from gwm_nb.commands import gwm_app
from house import ROOT, script
from inputs import moving_disk, write_video

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the server is ended by a signal")
(FRAMES, MASKS), JSON = moving_disk(), {"Content-Type": "application/json"}
CODE = """if True:                              # slow.mp4 takes for ever, and leaves a trace
    from gwm_nb import app, commands
    from gwm_nb.files import show_progress
    class Slow(app.Correction):
        def refine(self, *hints):
            if self.job.clip.name == "slow.mp4":
                for _ in show_progress(iter(int, 1), "waiting", 0):
                    with open("trace", "a") as file: file.write(".")
            return super().refine(*hints)
    app.Correction = Slow
    commands.gwm_app()"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "The address (host:port) of a page that takes uploads of 1 MB, and the folder where it runs."
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    folder = tmp_path_factory.mktemp("served")
    undo = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)       # a background job ignores it
    running = subprocess.Popen([sys.executable, "-c", CODE, "--max-mb", "1"], cwd=folder, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=undo,
                               env=os.environ | dict(TMPDIR=str(folder), PYTHONPATH=str(ROOT)))
    yield re.search(r"127\.0\.0\.1:\d+", running.stdout.readline())[0], folder
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate(timeout=60)
    assert (running.returncode, out) == (0, "ended\n")
    assert errors.count("Traceback") == errors.count("it was not uploaded by a user")
    assert list(folder.glob("gwm-app-*")) == []           # all files have gone


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    draw = lambda t: FRAMES[t].permute(1, 2, 0).contiguous().numpy()
    for name, n in (("disk", 6), ("slow", 6), ("single", 1)):
        write_video(folder / f"{name}.mp4", n, size=(64, 96), draw=draw)
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture
def visit(server):
    "A function that makes a visitor, whose session ends with the test."
    from gradio_client import Client
    made = []

    def new():
        made.append(Client(f"http://{server[0]}", verbose=False, download_files=False,
                           analytics_enabled=False))
        return made[-1]
    yield new
    for client in made:
        client.close()


def start(client, clip):
    from gradio_client import handle_file
    client.predict(handle_file(clip), api_name="/keep")
    client.predict("fast", "", "", api_name="/start")
    return client.submit(api_name="/work")


def ask(server, method, path, *args):
    "Status and content of the answer; the path is sent as it is."
    connection = http.client.HTTPConnection(server[0], timeout=20)
    connection.request(method, f"/gradio_api/{path}", *args)
    response = connection.getresponse()
    return response.status, response.read()


def wait_for(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(.1)
    assert true()


def test_files_of_others_are_out_of_reach(server, clips, visit):
    visitor, other = visit(), visit()
    for v in (visitor, other):
        start(v, clips / "disk.mp4").result(90)
    own, foreign = (Path(v.predict(0, "outline", api_name="/turn")[0]["path"])
                    for v in (visitor, other))
    assert ask(server, "GET", f"file={own}")[0] == 200 and own.parent != foreign.parent
    up = "../" * 12
    for name in ("/etc/passwd", f"{up}etc/passwd", up.replace("/", "%2F") + "etc%2Fpasswd",
                 f"{own.parent}/{up}etc/passwd", own.parent, own.parent.parent, server[1],
                 own.parent.parent / foreign.name, clips / "disk.mp4", gwm_nb.app.__file__):
        assert ask(server, "GET", f"file={name}")[0] in (403, 404), name
    stolen = dict(path=str(clips / "disk.mp4"), meta={"_type": "gradio.FileData"})
    body = dict(data=[stolen], session_hash="thief")
    event = json.loads(ask(server, "POST", "call/keep", json.dumps(body), JSON)[1])["event_id"]
    assert b"event: error" in ask(server, "GET", f"call/keep/{event}")[1]
    visitor.close()
    wait_for(lambda: not own.parent.exists())
    assert ask(server, "GET", f"file={foreign}")[0] == 200


def test_uploads_have_a_limit(server):
    def upload(size):
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        return ask(server, "POST", "upload", head + bytes(size) + b"\r\n--x--\r\n",
                   {"Content-Type": "multipart/form-data; boundary=x"})[0]
    assert upload(900_000) == 200 and upload(1_200_000) == 413


@pytest.mark.parametrize("name, said", [("text.mp4", "text.mp4: "), ("single.mp4", "1 frame")])
def test_a_clip_that_cannot_be_used_is_one_line(server, clips, visit, name, said):
    shown, *_ = start(visit(), clips / name).result(60)
    assert said in shown and "class=\"gwm error\"" in shown and shown.count("<p") == 1
    assert "Traceback" not in shown and "gwm-app-" not in shown


def test_a_second_visitor_waits_and_cancel_ends_the_work(server, clips, visit):
    trace = server[1] / "trace"
    first, second = visit(), visit()
    start(first, clips / "slow.mp4")
    wait_for(trace.exists)
    waiting = start(second, clips / "disk.mp4")
    wait_for(lambda: waiting.status().rank == 0 and not waiting.done())
    first.predict(api_name="/cancel")
    time.sleep(1)
    size = trace.stat().st_size
    assert "6 frames" in waiting.result(60)[0] and trace.stat().st_size == size


def test_clicks_belong_to_their_masks_and_nothing_is_lost(clips, tmp_path):
    gradio = pytest.importorskip("gradio", reason="the extra `app` is not installed")
    who, visitors = SimpleNamespace(session_hash="who"), gwm_nb.app.Visitors(tmp_path)
    do, visitor = gwm_nb.app.handlers(visitors), visitors["who"]
    work = lambda: do.work(who, lambda *args, **more: None)
    click = lambda seen, x: do.click(seen, "include", SimpleNamespace(index=(x, 500)), who)

    def segment(name, *part):
        visitor.upload = clips / name
        assert not do.start("fast", *part, who)[1].visible        # the old image can't be clicked
        return work()
    assert "4 frames" in segment("disk.mp4", "0.04", "0:00.2")[0]
    assert "(00001 to 00004)" in visitor.summary()
    image, seen = do.turn(2, "outline", who)
    assert click(seen, 100)[0] == "" and do.turn(2, "outline", who)[0] != image     # drawn at once
    with pytest.raises(gradio.Error, match="wait"):
        click(seen, 700)
    state = work()
    assert "1 click" in state[0] and "this click: " in state[0] and "value" not in state[2]
    with pytest.raises(gradio.Error, match="again"):                # the masks are other ones
        click(seen, 700)
    click(do.turn(1, "outline", who)[1], 700)
    first, second = dict(work()[4].choices)
    assert do.choose(first, "outline", who)[0] == 2 and do.choose(second, "outline", who)[0] == 1
    do.remove(first, who)
    assert list(dict(work()[4].choices)) == [second] and visitor.hints[0].frame == 1
    do.write(who)
    assert "6 files" in work()[0]
    kept, files = visitor.found, visitor.files
    report = json.loads(next(f for f in files if f.name == "disk_result.json").read_text())
    assert (report["settings"]["clip"], report["settings"]["hints"][0]["frame"]) == ("disk.mp4", 2)
    assert segment("text.mp4", "", "")[1].visible                 # with an error, the old ones stay
    visitor.upload = clips / "disk.mp4"
    do.start("fast", "", "", who)
    assert do.cancel(who)[1].visible and visitor.job is None
    assert visitor.found is kept and visitor.files is files and len(visitor.hints) == 1
    assert len(segment("disk.mp4", "", "")) == 7 and visitor.hints == ()            # a new clip


def test_without_gradio_the_command_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    importlib.reload(gwm_nb.app)
    assert call(gwm_app)[1] == "gwm_app: needs gradio: pip install 'gwm_nb[app]'"
    assert "at least 1" in call(gwm_app, "--max-mb", "0")[1]


def test_from_an_upload_by_a_click_to_files(server, clips):
    browse = script("browse")
    if not browse.browser_there():
        pytest.skip("no Chromium or Chrome")
    home = f"http://{server[0]}/"
    with browse.opened((1280, 900), home) as (page, errors):
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(home, wait_until="load")
        button = lambda name: page.get_by_role("button", name=name, exact=True)
        page.get_by_role("radio", name="fast").check()
        page.set_input_files("input[type=file]", clips / "disk.mp4")
        page.get_by_text("6 frames of 96x64, 0:00 long").wait_for()
        button("Segment").click()
        page.get_by_text("96x64, preset fast").wait_for(timeout=90000)
        page.locator("input[type=range]").fill("2")
        shown = "(start) => document.querySelector('#frame img').src.split('/').pop()"
        page.wait_for_function(f"{shown}.startsWith(start)", arg="1-2-")
        x, y, image = 10, 50, page.locator("#frame img")    # the background, in the clip's pixels
        box = image.bounding_box()
        scale = min(box["width"] / 96, box["height"] / 64)
        left, top = (box["width"] - 96 * scale) / 2, (box["height"] - 64 * scale) / 2
        image.click(position=dict(x=left + (x + .5) * scale, y=top + (y + .5) * scale))
        page.locator("input[type=range]").fill("3")             # it stays there, with its image
        page.get_by_text("1 click").wait_for(timeout=90000)
        page.wait_for_function(f"{shown}.startsWith(start)", arg="2-3-")
        page.get_by_role("radio", name="frame 2: include 10,50").check()
        page.wait_for_function(f"{shown}.startsWith(start)", arg="2-2-")
        shown = Image.open(io.BytesIO(page.request.get(image.get_attribute("src")).body()))
        red, green, blue = np.array(shown).transpose(2, 0, 1).astype(int)
        rows, columns = ((green > 150) & (red < 90) & (blue < 90)).nonzero()
        middle = rows.mean() * 64 / shown.height - .5, columns.mean() * 96 / shown.width - .5
        assert np.abs(np.subtract(middle, (y, x))).max() < .5     # the ring is where the click was
        button("Download").click()
        with page.expect_download(timeout=60000) as download:
            page.locator('a[download="disk_masks.zip"]').click(timeout=60000)
        masks = ZipFile(download.value.path())
        assert masks.namelist() == [f"disk_masks/{t:05d}.png" for t in range(6)]
        inside = np.array(Image.open(masks.open("disk_masks/00002.png"))) > 0
        assert (inside & MASKS[2].numpy()).sum() > .7 * (inside | MASKS[2].numpy()).sum()
        assert download.value.suggested_filename == "disk_masks.zip" and errors == []
        assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []
        assert list(server[1].glob("gwm-app-*/**/disk.mp4"))
    wait_for(lambda: not list(server[1].glob("gwm-app-*/**/disk.mp4")))     # the page is closed
