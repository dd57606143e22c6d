"""The report in headless Chromium, on a phone and on a laptop, in both color schemes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import pytest

import rebasin_core as rc
from rebasin_core.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium on the search path", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

TEXT = """
data: digits
architecture: {name: mlp, hidden: [10, 10]}
inference: {name: mean_field_vi, epochs: 2}
matchers: [weight, wasserstein, kl]
barrier: {name: marginalized, num_points: 3, num_samples: 4}
num_train: 300
"""
# Visible elements that exceed the screen, or scroll.
CUT_OFF = """() => [...document.body.querySelectorAll('*')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width && (box.right > innerWidth + 1 || element.scrollWidth > element.clientWidth + 1)
        && getComputedStyle(element).display !== 'inline' && element.tagName !== 'PRE';
}).map(element => element.outerHTML.slice(0, 80))"""
COLORS = "() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    (root / "run.yaml").write_text(TEXT)
    return write_report(rc.run(rc.load_run(root / "run.yaml"), root / "out").folder)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_part_is_cut_off(page: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        opened.goto(page.as_uri())
        cut_off, colors = opened.evaluate(CUT_OFF), opened.evaluate(COLORS)
        shown = opened.evaluate("() => [...document.images].every(image => image.complete && image.naturalWidth)")
        browser.close()
    assert not cut_off
    assert shown
    brightness = [sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(", "))) for color in colors]
    assert (brightness[0] > brightness[1]) == (scheme == "dark")
