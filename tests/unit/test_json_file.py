"""read_json_object: an object, or a ValueError whose text is the rule."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from decoding.json_file import read_json_object


def test_an_object_is_returned(tmp_path: Path) -> None:
    """Valid JSON with an object at its top is what it is."""
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, {"b": null}]}')
    assert read_json_object(path) == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "is not valid JSON"),
        (b'{"a": 1', "is not valid JSON"),
        (b"\xff\xfe\xfd", "is not valid JSON"),
        (b"[1]", "must be a JSON object, not list"),
        (b"null", "must be a JSON object, not NoneType"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    ],
)
def test_anything_else_is_a_rule(tmp_path: Path, content: bytes, rule: str) -> None:
    """Broken, deep, enormous: always ValueError, never another exception."""
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rule):
        read_json_object(path)


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    """A folder or a named pipe (reading one would wait for ever) is refused, and so is a file of a gigabyte."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent"):
        with pytest.raises(ValueError, match="must be a regular file"):
            read_json_object(path)
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="must have at most"):
        read_json_object(tmp_path / "big")


@pytest.mark.parametrize("verdict", ["y", "n"])
def test_published_json_suite(shared: Path, verdict: str) -> None:
    """JSONTestSuite: every y_ file with an object reads, no file raises anything but ValueError."""
    for path in sorted((shared / "vectors" / "json_test_suite").glob(f"{verdict}_*.json")):
        try:
            read = isinstance(read_json_object(path), dict)
        except ValueError as error:
            read = "must be a JSON object" in str(error)
        assert read or verdict == "n", path.name
