"The browser that goes through the site sees what a visitor stumbles over: each fault is planted once."
import json

import pytest
from PIL import Image

import house

browse = house.script("browse")
pytestmark = pytest.mark.skipif(not browse.browser_there(), reason="no Chromium or Chrome is installed")

SEARCH = """<input type=search oninput="fetch('search.json').then(r => r.json()).then(hits =>
    { document.querySelector('div').innerHTML = hits.map(h => `<a class=search-result href=${h}>${h}</a>`).join('') })"><div></div>"""
LIGHT = """<a class="quarto-color-scheme-toggle" href="#" onclick="document.body.style.background = 'black'">light</a>"""
GOOD = SEARCH + LIGHT + '<main>A ridge. <img src="a.png" alt="a"> <script src="https://elsewhere.invalid/a.js"></script></main>'


def site(folder, text=GOOD):
    "A site of two pages: the first as given."
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "index.html").write_text(f'<link rel="icon" href="a.png"><body style="background: white">{text}</body>')
    (folder / "other.html").write_text('<link rel="icon" href="a.png"><main>The ridge is here.</main>')
    (folder / "search.json").write_text(json.dumps(["other.html"]))
    return folder


def test_a_good_site_passes_and_is_photographed(tmp_path):
    shots = tmp_path / "shots"
    shots.mkdir()
    assert browse.problems(site(tmp_path), shots) == []
    sizes = {p.name: Image.open(p).size for p in shots.iterdir()}
    assert sizes == {"index_desktop.png": (1280, 900), "index_phone.png": (390, 844), "other_desktop.png": (1280, 900),
                     "other_phone.png": (390, 844), "dark.png": (1280, 900)}


FAULTS = {"<script>nothing.there()</script>": "nothing is not defined", '<script>console.error("oh no")</script>': "oh no",
          '<img src="gone.png" alt="x">': "does not come: gone.png", '<script src="gone.js"></script>': "404: gone.js",
          '<div style="width: 2000px">wide</div>': "wider than the screen", '<video src="a.html"></video>': "does not come: a.html"}


def test_planted_faults_are_seen_at_both_widths(tmp_path):
    site(tmp_path)
    for i, planted in enumerate(FAULTS):
        (tmp_path / f"fault{i}.html").write_text(f'<link rel="icon" href="a.png"><main>{planted}</main>')
    found = browse.problems(tmp_path)
    for kind in browse.WIDTHS:
        for i, why in enumerate(FAULTS.values()):
            assert any(line.startswith(f"fault{i}.html, {kind}: ") and why in line for line in found), (i, found)
    assert all(line.startswith("fault") for line in found)


def test_search_and_light_must_work(tmp_path, monkeypatch):
    monkeypatch.setattr(browse, "WIDTHS", {"desktop": browse.WIDTHS["desktop"]})
    assert browse.problems(site(tmp_path, GOOD.replace("black", "white"))) == ["the light cannot be switched off"]
    assert browse.problems(site(tmp_path, GOOD.replace(LIGHT, ""))) == ["the light cannot be switched off"]
    site(tmp_path)
    (tmp_path / "search.json").write_text("[]")
    found, = browse.problems(tmp_path)
    assert found.startswith("search for ridge: ")
    site(tmp_path)
    (tmp_path / "other.html").write_text('<link rel="icon" href="a.png"><main>Nothing of it.</main>')
    assert browse.problems(tmp_path) == ["search for ridge leads to other.html, which does not have it"]


def test_an_empty_site_is_no_good_site(tmp_path):
    assert "no pages" in browse.problems(tmp_path)[0]
