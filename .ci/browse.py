"""Open every page of the site in a browser, as a visitor does, and name what is wrong with it.

    python .ci/browse.py _docs

Each page is opened as wide as a desktop and as wide as a phone: errors in the console, images and
videos that do not come, and pages wider than the screen are named. On the first page the search is
asked for a word and its first answer followed, and the light is switched off. Nothing outside the
site is loaded. Needs playwright and an installed Chromium or Chrome; exit code 1 if something is
wrong, 3 if there is no browser.
"""
import functools
import http.server
import shutil
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = """async () => {
    const all = [...document.querySelectorAll('img, video')];
    all.forEach(e => { e.loading = 'eager'; });
    const address = e => e.currentSrc || e.src || e.querySelector('source').src;
    const there = e => e.tagName == 'IMG' ? e.decode().then(() => true, () => false)
        : fetch(address(e)).then(r => r.ok, () => false);
    const good = await Promise.all(all.map(there));
    const name = e => (e.getAttribute('src') || e.alt || e.tagName).slice(0, 80);
    return all.filter((e, i) => !good[i]).map(name);
}"""


def browser_there():
    "The path of an installed browser, or None."
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@contextmanager
def served(folder):
    "The address at which the folder is served while the block runs."
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


@contextmanager
def opened(size, home):
    "A page of a browser of that size, and the list that its errors go to."
    from playwright.sync_api import sync_playwright

    def answered(response):
        if response.status >= 400:
            errors.append(f"{response.status}: {response.url.removeprefix(home)}")

    def said(message):          # what is loaded from elsewhere was refused here
        inside = message.location["url"].startswith(home)
        if message.type == "error" and inside and "Failed to load resource" not in message.text:
            errors.append(f"console: {message.text}")

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=browser_there(), args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(zip(("width", "height"), size)))
        errors = []
        page.route(lambda url: not url.startswith(home), lambda route: route.abort())
        page.on("pageerror", lambda e: errors.append(f"error: {e}"))
        page.on("response", answered)
        page.on("console", said)
        yield page, errors
        browser.close()


def visit(page, errors, address):
    "What is wrong with one page."
    errors.clear()
    page.goto(address, wait_until="load")
    lacking = [f"does not come: {name}" for name in page.evaluate(MISSING)]
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return [*errors, *lacking, *([f"{wide} pixels wider than the screen"] if wide > 0 else [])]


def search(page, errors, home, word="ridge"):
    "What is wrong with the search: it has to offer pages for a word, the first has to hold it."
    errors.clear()
    page.goto(home + "index.html")
    box = page.locator("input[type=search]:visible").first
    box.click()
    box.press_sequentially(word)
    answer = page.locator(".search-result:visible").first
    try:
        answer.wait_for(timeout=5000)
        answer.click()
        page.wait_for_load_state("load")
    except Exception as e:
        return [f"search for {word}: {str(e).splitlines()[0]}"]
    if word not in page.inner_text("main").lower():
        errors.append(f"search for {word} leads to {page.url.removeprefix(home)}, "
                      "which does not have it")
    return [*errors]


def darkness(page, home):
    "What is wrong with the switch of the light."
    page.goto(home + "index.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    switch = page.locator(".quarto-color-scheme-toggle:visible").first
    if switch.count():
        switch.click()
        page.wait_for_timeout(300)
    return [] if page.evaluate(colour) != light else ["the light cannot be switched off"]


def problems(folder):
    "Everything that a visitor would stumble over, one line each."
    folder, found = Path(folder), []
    pages = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.html"))
    if not pages:
        return [f"no pages in {folder}"]
    with served(folder) as home:
        for kind, size in WIDTHS.items():
            with opened(size, home) as (page, errors):
                for name in pages:
                    wrong = visit(page, errors, home + name)
                    found += [f"{name}, {kind}: {what}" for what in wrong]
                if kind == "desktop":
                    found += search(page, errors, home) + darkness(page, home)
    return found


if __name__ == "__main__":
    if not browser_there():
        print("no Chromium or Chrome: the pages are not opened")
        sys.exit(3)
    found = problems(sys.argv[1])
    print(*found or ["every page opens, at both widths; the search finds, the light switches"],
          sep="\n")
    sys.exit(1 if found else 0)
