"""One header: what cffi is told is what decoding.h says."""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"


def declarations(header: str) -> list[str]:
    """The header's declarations in cffi's dialect: no comments, no macros but names of constants."""
    body = header[header.index("/* Raised when a struct") : header.index("#ifdef __cplusplus\n}")]
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.S).replace("DECODING_API ", "")
    lines = [re.sub(r"^#define (\w+) .*", r"#define \1 ...", line.rstrip()) for line in body.splitlines()]
    return [line for line in lines if line]


def of_the_module(header: str) -> list[str]:
    """What a header defines for the Python module alone, declared."""
    return [f"{name};" for name in re.findall(r"^static (\w+ dk_watch\(.*\)) {", header, flags=re.M)]


def prototypes(header: str) -> list[str]:
    """What a header of prototypes declares."""
    body = re.sub(r"/\*.*?\*/", "", header[header.index("typedef") : header.rindex("#endif")], flags=re.S)
    return [line for line in body.splitlines() if line]


def test_cdef_is_the_headers() -> None:
    """csrc/python/ffi.cdef.txt is the headers without comments, so they cannot drift apart."""
    cdef = (CSRC / "python" / "ffi.cdef.txt").read_text().splitlines()
    own = of_the_module((CSRC / "python" / "ffi.watch.h").read_text())
    assert len(own) == 1
    pool = prototypes((CSRC / "python" / "thread_pool.h").read_text())
    assert cdef == declarations((CSRC / "decoding.h").read_text()) + own + pool
