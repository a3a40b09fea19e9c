"""The files of the Python standard library that the model is trained on, tests included, and the held-out files.

The files come from the interpreter that runs this script. Their digest is pinned, because another Python version has
other files and gives another model.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

STDLIB = Path(sysconfig.get_paths()["stdlib"])

# Chosen before any training, for variety: algorithms, parsers, files, networks, text, dates.
HELD_OUT = (
    "bisect.py",
    "calendar.py",
    "collections/__init__.py",
    "colorsys.py",
    "configparser.py",
    "csv.py",
    "email/header.py",
    "fractions.py",
    "glob.py",
    "graphlib.py",
    "heapq.py",
    "http/cookies.py",
    "json/decoder.py",
    "logging/handlers.py",
    "queue.py",
    "sched.py",
    "shlex.py",
    "tempfile.py",
    "textwrap.py",
    "urllib/robotparser.py",
)

# Not library code, or code that is mostly a table. Third-party code lives in site-packages.
SKIPPED_FOLDERS = frozenset(
    {
        "__phello__",
        "__pycache__",
        "dist-packages",
        "encodings",
        "ensurepip",
        "idle_test",
        "idlelib",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
    }
)
SKIPPED_FILES = frozenset({"_compat_pickle.py", "html/entities.py", "stringprep.py", "tkinter/__main__.py"})
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")

# Prefixes of the names of tests of held-out modules, because tests quote their modules.
HELD_OUT_TESTS = (
    "bisect",
    "calendar",
    "collections",
    "colorsys",
    "configparser",
    "cookie",
    "csv",
    "email",
    "fractions",
    "glob",
    "graphlib",
    "heapq",
    "http_cookie",
    "json",
    "logging",
    "queue",
    "robotparser",
    "sched",
    "shlex",
    "tempfile",
    "textwrap",
)

# The result of `digest()` for CPython 3.11.7 on Linux.
PINNED_DIGEST = "b2c142654d0eb7914409cf54b9503b43834e6a41acb39addfc83dc72746a8a6f"


def is_skipped(name: str) -> bool:
    """Return True if a path relative to the library's root is excluded."""
    folders = name.split("/")[:-1]
    return (
        name in SKIPPED_FILES
        or name.startswith(SKIPPED_PREFIXES)
        or any(folder in SKIPPED_FOLDERS for folder in folders)
    )


def training_names() -> list[str]:
    """Return the training files without the held-out files, in a fixed order."""
    names = (path.relative_to(STDLIB).as_posix() for path in STDLIB.rglob("*.py"))
    return sorted(name for name in names if name not in HELD_OUT and not is_skipped(name))


def test_names() -> list[str]:
    """Return the library's tests in UTF-8 except those of held-out modules, in a fixed order."""
    names = (path.relative_to(STDLIB).as_posix() for path in (STDLIB / "test").rglob("test_*.py") if is_utf8(path))
    held_out = tuple(f"test_{start}" for start in HELD_OUT_TESTS)
    return sorted(name for name in names if not any(part.startswith(held_out) for part in name.split("/")))


def is_utf8(path: Path) -> bool:
    """Return True if a file is UTF-8, the usual encoding of Python sources."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read(name: str) -> str:
    """Return the text of a library file."""
    return (STDLIB / name).read_text(encoding="utf-8")


def texts_of(names: list[str]) -> Iterator[str]:
    """Return the texts of the files that are not empty."""
    return (text for text in map(read, names) if text.strip())


def digest() -> str:
    """Return a SHA-256 of the names and contents of all files, trained on or held out."""
    total = hashlib.sha256()
    for name in [*training_names(), *test_names(), *HELD_OUT]:
        content = hashlib.sha256((STDLIB / name).read_bytes()).hexdigest()
        total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()


def warn_if_different() -> None:
    """Print a warning if the library differs from the one that the shipped model was trained on."""
    if digest() != PINNED_DIGEST:
        print("note: this standard library differs from the pinned one; the model will too", file=sys.stderr)


def size(names: list[str]) -> int:
    """Return the total number of bytes of some files."""
    return sum((STDLIB / name).stat().st_size for name in names)


def main() -> None:
    """Print the sizes and the digest of the corpus."""
    names = training_names()
    print(f"python    {sys.version.split()[0]}")
    print(f"training  {len(names)} files, {size(names):,} bytes")
    print(f"tests     {len(test_names())} files, {size(test_names()):,} bytes")
    print(f"held out  {len(HELD_OUT)} files, {size(list(HELD_OUT)):,} bytes")
    print(f"sha256    {digest()}")
    warn_if_different()


if __name__ == "__main__":
    main()
