"""Debian's Chromium for tests and screenshots: headless, without its own requests to the network."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

ARGUMENTS = (
    "--no-sandbox",  # as root in a container, where user namespaces are closed
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing():
    """Return what is missing for a browser, in words; "" if nothing is."""
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "needs the package playwright (extra `browser`)"
    return "" if executable() else "needs the program chromium (Debian's package)"


def executable():
    """Return the path of the browser, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser():
    """A browser from its start to its end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable(), args=list(ARGUMENTS))
        yield running
        running.close()
