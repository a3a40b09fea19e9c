"""The documentation site: it is complete, loads nothing from the network, and its two tables of comparison are one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
STYLE_URL = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']*""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a broken link, anchor, snippet or reference is an error."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip("needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_comes_from_the_network(site: Path) -> None:
    """No script, style, font or image of any page has an address on another host."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert {found for page in pages for found in LOADED.findall(page.read_text())} == set()
    styles = [*pages, *site.rglob("*.css")]
    assert {found for style in styles for found in STYLE_URL.findall(style.read_text())} == set()


def test_links_of_the_reference(site: Path) -> None:
    """Documents that docstrings name are links to pages of the site; MkDocs does not check these."""
    pages = list((site / "reference").glob("*.html"))
    found = {(page, link) for page in pages for link in re.findall(r'href="(\.\./[\w/.-]+\.html)', page.read_text())}
    assert (site / "reference" / "sampler.html", "../semantics.html") in found
    assert {link for page, link in found if not (page.parent / link).exists()} == set()


@pytest.mark.parametrize("name", ["LLM", "SamplingParams", "Sampler", "SamplingState", "BatchSampler", "AsyncEngine"])
def test_public_names_are_in_the_reference(site: Path, name: str) -> None:
    """The reference has a heading for the name, with its members below it."""
    headings = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    assert re.search(rf'id="decoding\.[\w.]*\.{name}"', headings)


def test_every_error_is_in_the_reference(site: Path) -> None:
    """Each class of decoding.errors is on the page of errors."""
    page = (site / "reference" / "errors.html").read_text()
    names = re.findall(r"^class (\w+Error)\b", (ROOT / "decoding" / "errors.py").read_text(), flags=re.MULTILINE)
    assert [name for name in names if f'id="decoding.errors.{name}"' not in page] == []


def comparison(path: Path) -> str:
    """Return the section of a page that compares engines, with its links relative to the checkout."""
    section = path.read_text().split("## Compared with other engines\n")[1].split("\n## ")[0].strip()
    return section.replace("](docs/", "](")


def test_one_comparison() -> None:
    """README.md and the site's home have the same table and the same notes."""
    assert comparison(ROOT / "README.md") == comparison(ROOT / "docs" / "index.md")


def links(page: Path) -> set[str]:
    """Return the relative links of a page, without those of images."""
    found = re.findall(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)", page.read_text())
    return {link for link in found if not re.match(r"https?://|#", link)}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bundled_model/README.md"])
def test_links_outside_the_site(name: str) -> None:
    """Pages that MkDocs does not see link to files that exist."""
    page = ROOT / name
    assert {link for link in links(page) if not (page.parent / link.split("#")[0]).exists()} == set()
