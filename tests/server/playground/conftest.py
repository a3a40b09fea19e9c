"""A real browser at a real server; skipped with a reason where there is none."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

CHROMIUM = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "chromium.py"))

LAPTOP, PHONE = {"width": 1200, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium, headless."""
    if reason := CHROMIUM["missing"]():
        pytest.skip(reason)
    with CHROMIUM["browser"]() as browser:
        yield browser


@pytest.fixture
def visit(chromium):
    """Open pages of a server, ready to use. What the console says against them fails the test.

    A message about an answer that is an error, or breaks off, is the browser's own and no fault of the page.
    """
    contexts, faults = [], []

    def told(message):
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def open_page(server, *, is_ready=True, size=LAPTOP, **options):
        context = chromium.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", told)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/")
        if is_ready:
            page.get_by_text("Ready.").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(visit, server):
    """The page of the bundled model."""
    return visit(server)
