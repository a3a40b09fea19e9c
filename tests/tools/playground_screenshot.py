"""Make docs/playground.png, the picture of the playground: python tests/tools/playground_screenshot.py

Needs the extra `browser` and Debian's package chromium. The text is that of the bundled model with the seed below.
"""

import re
import runpy
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "playground.png"
CHROMIUM = runpy.run_path(str(Path(__file__).with_name("chromium.py")))
SIZE = {"width": 1200, "height": 800}

PROMPT = "def read_lines(path):\n    with open(path"
PARAMETERS = {
    "max_tokens": 64,
    "n": 2,
    "seed": 4,
    "frequency_penalty": 0.3,
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.02,
}
TOKEN = re.compile("^return,")


@contextmanager
def address():
    """The address of a server with the bundled model."""
    command = [sys.executable, "-m", "decoding", "serve", "--port=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield next(found[1] for line in process.stderr if (found := re.search(r"serving .* on (http://\S+)", line)))
    finally:
        process.terminate()
        process.wait()


def picture(page, url):
    """Fill in the request, run it, and select a token."""
    page.goto(url)
    page.get_by_text("Ready.").wait_for()
    page.get_by_label("Prompt").fill(PROMPT)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    for name, value in PARAMETERS.items():
        page.locator(f"#p-{name}").fill(str(value))
    page.evaluate("for (const one of [...document.querySelectorAll('details')].slice(1)) one.open = false")
    page.get_by_role("button", name="Generate").click()
    page.locator("#status.good").wait_for()
    page.get_by_role("option", name=TOKEN).first.click()
    page.locator(".stages").wait_for()
    page.locator("#request").evaluate("form => form.scrollTo(0, 0)")
    page.screenshot(path=PICTURE, animations="disabled")


def main():
    """Write the picture."""
    if reason := CHROMIUM["missing"]():
        sys.exit(reason)
    with address() as url, CHROMIUM["browser"]() as browser:
        picture(browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce"), url)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
