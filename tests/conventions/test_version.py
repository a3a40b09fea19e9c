"""One version: that of decoding/version.py."""

import re

import pytest

from decoding import __version__


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("csrc/CMakeLists.txt", r"^project\(decoding .*VERSION ([\d.]+)\)"),
        ("examples/rust/Cargo.toml", r'^version = "([\d.]+)"'),
        ("CHANGELOG.md", r"^## ([\d.]+) "),
    ],
)
def test_every_version_is_that_of_the_package(root, path, pattern):
    """The C library, the crates and the newest section of the changelog have it."""
    found = re.search(pattern, (root / path).read_text(), flags=re.MULTILINE)
    assert found is not None
    assert found[1] == __version__
