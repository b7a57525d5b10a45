"""The page in a real browser. Installs nothing: skipped where Playwright or Chromium is missing."""

import shutil

import pytest
from evaluated import RECORDS, made_up

from cad.reports.report import write_report, write_training_report

api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install 'playwright>=1.40,<2'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    evaluation, pictures = made_up(30, {"CAD": 2, "a rather long name of some weights": 5, "zero-shot": 9})
    write_report(path, evaluation, pictures, {"CAD": RECORDS})
    return path


@pytest.fixture
def open_page(browser, report):
    """Opens the report, or another page, and checks at the end that nothing was complained about or asked for."""
    contexts, complaints = [], []

    def open_it(path=report, width=1280, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []


def names_of(page):
    return page.locator(".card:not([hidden]) h3").all_text_contents()


def look(page):
    """What the first card shows, after its fading."""
    page.wait_for_timeout(250)
    return page.locator(".card .frame").first.screenshot()


def test_arrow_keys_move_the_slider_and_change_what_is_seen(open_page):
    page = open_page()
    slider, frame = page.locator(".card input").first, page.locator(".card .frame").first
    assert slider.get_attribute("aria-valuetext") == "Errors of CAD"
    slider.focus()
    seen = [look(page)]
    for view in ("Prediction of CAD", "Truth", "Image"):
        page.keyboard.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == view
        assert frame.get_attribute("aria-label").startswith(view)
        seen.append(look(page))
    assert len(set(seen)) == 4
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "0"
    page.keyboard.press("End")
    assert look(page) == seen[0]


def test_one_slider_and_one_choice_of_method_rule_all_cards(open_page):
    page = open_page()
    before = look(page)
    page.get_by_role("radio", name="zero-shot").check()
    assert look(page) != before
    assert page.locator('.scores button[aria-pressed="true"]').all_text_contents()[5].startswith("zero-shot")
    page.locator("#view-all").focus()
    page.keyboard.press("Home")
    assert {slider.input_value() for slider in page.locator(".card input").all()} == {"0"}
    page.locator(".card").nth(1).get_by_role("button", name="CAD").click()
    assert page.locator('.card .scores button[aria-pressed="true"]').nth(1).text_content().startswith("CAD")
    assert page.locator('.card .scores button[aria-pressed="true"]').nth(2).text_content().startswith("zero-shot")


def test_sorting_and_grouping_change_the_order(open_page):
    page = open_page()
    chosen = names_of(page)
    page.get_by_label("Sort by").select_option("name")
    assert names_of(page) == sorted(chosen) != chosen
    page.get_by_role("button", name="Ascending").click()
    assert names_of(page) == sorted(chosen, reverse=True)
    page.get_by_label("Sort by").select_option("IoU of CAD")
    scores = [
        float(text) for text in page.locator(".card .scores li:first-child button :last-child").all_text_contents()
    ]
    assert scores == sorted(scores)
    page.get_by_label("Group").select_option("worst")
    assert len(names_of(page)) == 6


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_scrolls_sideways(open_page, width):
    page = open_page(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_and_light(open_page):
    colours = {
        scheme: open_page(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    }
    assert colours["light"] == "rgb(255, 255, 255)" != colours["dark"]


def test_focus_is_seen_and_motion_can_be_reduced(open_page):
    page = open_page(reduced_motion="reduce")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.evaluate("getComputedStyle(document.querySelector('.frame img')).transitionProperty") in ("none", "all")
    assert page.evaluate("getComputedStyle(document.querySelector('.frame img')).transitionDuration") == "0s"


def test_without_scripts_the_errors_are_seen(open_page):
    page = open_page(java_script_enabled=False)
    assert not page.locator(".controls").is_visible()
    assert page.locator('.frame img.shown[data-view="3"]').count() == 24


def test_training_report_loads(open_page, tmp_path):
    write_training_report(tmp_path, RECORDS, {"lr": 2e-4}, {"method": "cad"})
    page = open_page(tmp_path / "report.html", width=360)
    assert page.get_by_role("heading", name="Curves").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
