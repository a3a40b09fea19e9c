"""Tests of read_json_object: it returns an object, or raises a ValueError whose text is the broken rule."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from decoding.json_file import read_json_object


def test_an_object_is_returned(tmp_path: Path) -> None:
    """Valid JSON with an object at the top is returned."""
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
        (b'{"a": [{"b": 1, "c": 2, "b": 3}]}', "has the name 'b' twice in one object"),
        (b'{"a": [' + b"{}," * 300_000 + b"{}]}", "must have at most 524,288 values"),
    ],
)
def test_invalid_json_is_a_value_error(tmp_path: Path, content: bytes, rule: str) -> None:
    """Broken, deeply nested and enormous JSON raises ValueError, never another exception."""
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rule):
        read_json_object(path)


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    """A folder, a named pipe (which would block) and a file of a gigabyte are refused."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent"):
        with pytest.raises(ValueError, match="must be a regular file"):
            read_json_object(path)
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="must have at most"):
        read_json_object(tmp_path / "big")


def test_published_json_suite(shared: Path) -> None:
    """JSONTestSuite: invalid files are refused, and valid files are read if they hold an object of unique names."""
    for path in sorted((shared / "vectors" / "json_test_suite").glob("*.json")):
        try:
            read_json_object(path)
            rule = None
        except ValueError as error:
            rule = str(error)
        if path.name.startswith("n_"):
            assert rule, path.name
        elif path.name.startswith("y_object_duplicated_key"):
            assert rule == "has the name 'a' twice in one object"
        elif path.name.startswith("y_"):
            assert rule is None or "must be a JSON object" in rule, path.name
