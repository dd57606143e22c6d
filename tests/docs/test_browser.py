"""The built pages in headless Chromium, on a phone and on a laptop.

Needs the built pages (see `test_site.py`) and a Chromium on the search path; no browser is downloaded.
"""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final
from urllib.parse import quote

import pytest
from typing_extensions import override

if "REBASIN_SITE" not in os.environ:
    pytest.skip("REBASIN_SITE names no folder with the built pages", allow_module_level=True)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium on the search path", allow_module_level=True)
if TYPE_CHECKING:
    from playwright.sync_api import Browser
playwright = pytest.importorskip("playwright.sync_api")

SITE = Path(os.environ["REBASIN_SITE"]).resolve()
WIDTHS = (390, 1280)  # pixels: a phone and a laptop
FOUND = sorted(path.parent.relative_to(SITE).as_posix() for path in SITE.rglob("index.html"))
# One page or a few of each layout; the nightly tests visit all.
SOME = {
    ".",
    "faq",
    "gallery",
    "api/matchers",
    "api/types",
    "results/matching",
    "reproduction",
    "checkpoints",
    "symmetries",
}
NAMES = [name for name in FOUND if name in SOME or name.startswith("tutorials/")]
# Elements of the content that are cut off at the right: wider than the screen, and not in an element that scrolls.
CUT_OFF = """() => [...document.querySelectorAll('.md-content *')].filter(element => {
    const box = element.getBoundingClientRect();
    if (box.width === 0 || box.right <= innerWidth + 1) return false;
    for (let around = element; around !== document.body; around = around.parentElement)
        if (getComputedStyle(around).overflowX !== 'visible') return false;
    return true;
}).map(element => element.outerHTML.slice(0, 80))"""
BROKEN = "() => [...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)"


@final
class Handler(SimpleHTTPRequestHandler):
    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(SITE)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("names", [NAMES, pytest.param(FOUND, marks=pytest.mark.nightly)], ids=["some", "all"])
def test_pages_fit_the_screen(browser: Browser, site: str, names: list[str]) -> None:
    assert len(names) > 10
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    for name in names:
        page.goto(f"{site}/{name}/", wait_until="load")
        problems += [f"{name}: {found}" for found in page.evaluate(BROKEN)]
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 844})
            problems += [f"{name} at {width} pixels: {found}" for found in page.evaluate(CUT_OFF)]
    page.close()
    assert not problems


@pytest.mark.parametrize("width", WIDTHS)
def test_elements_that_are_too_wide_are_found(browser: Browser, site: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto(f"{site}/faq/", wait_until="load")
    page.evaluate("""() => document.querySelector('article').insertAdjacentHTML(
        'beforeend', '<p style="width: 2000px">wide</p><img src="missing.png">')""")
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    assert [found[:3] for found in page.evaluate(CUT_OFF)] == ["<p "]
    assert len(page.evaluate(BROKEN)) == 1
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_are_drawn_for_the_scheme(browser: Browser, site: str, scheme: Literal["light", "dark"]) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(f"{site}/tutorials/two-checkpoints/", wait_until="load")
    sources = [image.get_attribute("src") or "" for image in page.locator("article img").all() if image.is_visible()]
    page.close()
    assert sources
    assert all(("-dark.svg" in source) == (scheme == "dark") for source in sources)


@pytest.mark.parametrize(
    ("query", "page_name"),
    [
        ("linear mode connectivity", "concepts"),
        ("variance collapse", "glossary"),
        ("batch norm barrier", "faq"),
        ("laplace", "laplace"),
    ],
)
def test_the_search_finds(browser: Browser, site: str, query: str, page_name: str) -> None:
    page = browser.new_page()
    page.goto(f"{site}/?q={quote(query)}", wait_until="load")
    links = page.locator(".md-search-result__link")
    links.first.wait_for(timeout=60_000)
    found = [link.get_attribute("href") or "" for link in links.all()]
    page.close()
    assert any(f"/{page_name}/" in link for link in found[:10])
