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
        (b'{"a": [{"b": 1, "c": 2, "b": 3}]}', "has the name 'b' twice in one object"),
        (b'{"a": [' + b"{}," * 300_000 + b"{}]}", "must have at most 524,288 values"),
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


def test_published_json_suite(shared: Path) -> None:
    """JSONTestSuite: no n_ file reads, every y_ file with an object does, unless it repeats a name; i_ never crash."""
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
