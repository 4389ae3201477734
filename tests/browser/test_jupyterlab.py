"""A learner's first minute, in a real browser: open notebook 01, Run All Cells, move a slider."""

import re
import shutil

import pytest

from tests.browser.lab import FLAGS, find_browser, jupyterlab

NOTEBOOK = "notebooks/01_noise_schedule.ipynb"
SECOND = 1000  # Playwright counts in milliseconds; on a busy machine a start can take minutes
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "build", "cache", "__pycache__", ".*_cache")

# The bytes of the picture that an <img> shows, as one string to compare.
PICTURE = """async image => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return bytes.length + ":" + Array.from(bytes).join();
}"""
# What the prompts of the cells say: [3] has run, [*] is waiting or running, [ ] neither.
PROMPTS = "[...document.querySelectorAll('.jp-InputPrompt')].map(prompt => prompt.textContent)"
ONE_HAS_RUN = f"() => {PROMPTS}.some(text => /[0-9]/.test(text))"
NONE_HAS_RUN = f"() => !{PROMPTS}.some(text => /[0-9]/.test(text))"
NONE_WAITS = f"() => !{PROMPTS}.some(text => text.includes('*'))"
# The status bar, once a kernel is there. Until then it reads "No Kernel | Initializing", while the
# execution indicator is idle already; who runs cells that early is asked which kernel to select.
KERNEL_IDLE = re.compile(r"^(?!No Kernel).+ \| Idle$")


@pytest.fixture
def page(tmp_path):
    """A page of headless Chromium. The course's tests need no download of a browser by Playwright."""
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium or Chrome is installed (on Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=browser, args=FLAGS, viewport={"width": 1280, "height": 1100}
        )
        yield context.pages[0]
        context.close()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("notebook", [NOTEBOOK])
def test_slider_moves_the_figure(root, tmp_path, page, notebook):
    copy = tmp_path / "course"
    shutil.copytree(root, copy, ignore=NOT_COPIED)
    scratch = tmp_path / "jupyter"
    scratch.mkdir()
    pictures = root / "build" / "browser"
    pictures.mkdir(parents=True, exist_ok=True)
    with jupyterlab(copy, scratch) as (address, token):
        page.goto(f"{address}/lab/tree/{notebook}?token={token}&reset", timeout=300 * SECOND)
        try:
            run_all_cells(page)
            slide(page)
        finally:
            page.screenshot(path=pictures / "notebook01.png")


def run_all_cells(page):
    """Run > Run All Cells, once the kernel is ready; returns when the last cell is done."""
    page.get_by_text(KERNEL_IDLE).first.wait_for(timeout=300 * SECOND)
    # The committed outputs would hide a kernel that never ran.
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells").click()
    page.wait_for_function(NONE_HAS_RUN, timeout=30 * SECOND)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(ONE_HAS_RUN, timeout=300 * SECOND)
    page.wait_for_function(NONE_WAITS, timeout=600 * SECOND)
    wait_until_idle(page)
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    assert errors.count() == 0, errors.first.inner_text()


def slide(page):
    """Move the first slider with the arrow keys; its own figure has to change, and change back."""
    output = page.locator(".jp-OutputArea-output:has(.noUi-handle):has(img)").first
    output.scroll_into_view_if_needed(timeout=30 * SECOND)
    handle = output.locator(".noUi-handle").first
    picture = output.locator("img").first
    before, start = picture.evaluate(PICTURE), handle.get_attribute("aria-valuenow")
    at_end = float(start) >= float(handle.get_attribute("aria-valuemax"))
    there, back = ("ArrowLeft", "ArrowRight") if at_end else ("ArrowRight", "ArrowLeft")
    press(page, handle, there)
    assert handle.get_attribute("aria-valuenow") != start
    wait_for_picture(page, picture, lambda now: now != before, "the slider moved, its figure did not")
    press(page, handle, back)
    wait_for_picture(page, picture, lambda now: now == before, "the slider went back, its figure did not")
    press(page, handle, there, times=3)
    wait_for_picture(page, picture, lambda now: now != before, "the slider moved, its figure did not")
    wait_until_idle(page)  # the screenshot shows the figure of the slider's last place


def wait_until_idle(page):
    idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first
    idle.wait_for(timeout=90 * SECOND)


def press(page, handle, key, times=1):
    handle.focus()
    for _ in range(times):
        page.keyboard.press(key)


def wait_for_picture(page, picture, is_right, message):
    for _ in range(300):
        if is_right(picture.evaluate(PICTURE)):
            return
        page.wait_for_timeout(0.2 * SECOND)
    pytest.fail(message)
