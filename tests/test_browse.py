"The browser that goes through the site sees what a visitor stumbles over."
import json

import pytest
from PIL import Image

import house

browse = house.script("browse")
pytestmark = pytest.mark.skipif(not browse.browser_there(), reason="no Chromium or Chrome")

SEARCH = """<input type=search oninput="fetch('search.json').then(r => r.json()).then(hits =>
    { const link = h => `<a class=search-result href=${h}>${h}</a>`;
      document.querySelector('div').innerHTML = hits.map(link).join('') })"><div></div>"""
LIGHT = """<a class="quarto-color-scheme-toggle" href="#"
    onclick="document.body.style.background = 'black'">light</a>"""
GOOD = f"""{SEARCH}{LIGHT}<main>A ridge. <img src="a.png" alt="a">
    <script src="https://elsewhere.invalid/a.js"></script></main>"""
ICON = '<link rel="icon" href="a.png">'


def site(folder, text=GOOD, hits=("other.html",), other="The ridge is here."):
    "A site of two pages: the first as given."
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    body = f'<body style="background: white">{text}</body>'
    (folder / "index.html").write_text(ICON + body)
    (folder / "other.html").write_text(f"{ICON}<main>{other}</main>")
    (folder / "search.json").write_text(json.dumps(hits))
    return folder


FAULTS = {"<script>nothing.there()</script>": "nothing is not defined",
          '<script>console.error("oh no")</script>': "oh no",
          '<img src="gone.png" alt="x">': "does not come: gone.png",
          '<script src="gone.js"></script>': "404: gone.js",
          '<div style="width: 2000px">wide</div>': "wider than the screen",
          '<video src="a.html"></video>': "does not come: a.html"}


def test_planted_faults_are_seen_at_both_widths(tmp_path):
    assert "no pages" in browse.problems(tmp_path)[0]
    site(tmp_path)
    for i, planted in enumerate(FAULTS):
        (tmp_path / f"fault{i}.html").write_text(f"{ICON}<main>{planted}</main>")
    found = browse.problems(tmp_path)
    for kind in browse.WIDTHS:
        for i, why in enumerate(FAULTS.values()):
            lines = [line for line in found if line.startswith(f"fault{i}.html, {kind}: ")]
            assert any(why in line for line in lines), (i, found)
    assert all(line.startswith("fault") for line in found)


def test_search_and_light_must_work(tmp_path, monkeypatch):
    monkeypatch.setattr(browse, "WIDTHS", {"desktop": browse.WIDTHS["desktop"]})
    for options, says in (({"text": GOOD.replace(LIGHT, "")}, "the light cannot be switched off"),
                          ({"hits": []}, "search for ridge: "),
                          ({"other": "Nothing of it."}, "search for ridge leads to other.html")):
        line, = browse.problems(site(tmp_path, **options))
        assert line.startswith(says)
