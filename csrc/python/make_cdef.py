"""Generate the declarations that cffi needs from the headers themselves.

    python make_cdef.py SOURCE INCLUDE_DIR OUTPUT

SOURCE is the C file that cffi compiles into the module. Everything that its `#include "..."` headers declare is
written to OUTPUT: the public interface of decoding.h, and what private headers of the module add. A private header
exposes the functions for which it has a prototype; functions that it only defines stay internal.

The headers may use comments, include guards, `#ifdef __cplusplus`, constants, structs, unions, enums, typedefs and
prototypes. Other conditional blocks may only define macros for the compiler, such as an export attribute, which are
removed from the declarations. Anything else is an error, so that no declaration is dropped silently.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
GUARD = re.compile(r"\s*#ifndef\s+(\w+)\s*\n\s*#define\s+\1\s*\n(.*)#endif\s*", re.DOTALL)
DEFINE = re.compile(r"#define\s+(\w+)(\()?\s*(.*)")
INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)[uUlL]*")
EXPRESSION = re.compile(r"[\w\s()+\-*/<>|&~]*")
FUNCTION = re.compile(r"[^{]*\)\s*\{")
STORAGE = re.compile(r"\b(static|inline|extern)\b\s*")


class HeaderError(ValueError):
    """A header has something that this generator cannot declare to cffi."""


def headers_of(source: str) -> list[str]:
    """Return the names of the headers that a C file includes by `#include "..."`."""
    return INCLUDE.findall(source)


def declarations(header: str) -> str:
    """Return what a header declares, in the language of cffi: constants first, then all else in its order."""
    text = COMMENT.sub(" ", header).replace("\\\n", " ")
    guarded = GUARD.fullmatch(text)
    code, constants, compiler_macros = _without_directives((guarded[2] if guarded else text).splitlines())
    for name in compiler_macros:
        code = re.sub(rf"\b{name}\b", "", code)
    return "".join(f"{line}\n" for line in constants + _without_functions(code))


def _without_directives(lines: list[str]) -> tuple[str, list[str], list[str]]:
    """Return the code of a header, its constants, and the names of the macros that it defines for the compiler."""
    code = ""
    constants: list[str] = []
    compiler_macros: list[str] = []
    conditions: list[str] = []  # of the blocks around a line: "C", "C++" or "compiler"
    for line in map(str.strip, lines):
        define = DEFINE.match(line)
        if line.startswith("#if"):
            conditions.append(_condition(line))
        elif line.startswith("#else") and conditions[-1] != "compiler":
            conditions[-1] = "C" if conditions[-1] == "C++" else "C++"
        elif line.startswith("#endif"):
            conditions.pop()
        elif define and "compiler" in conditions:
            compiler_macros.append(define[1])
        elif define and "C++" not in conditions:
            constants += _constant(define)
        elif not line or line.startswith("#") or "C++" in conditions:
            continue
        elif "compiler" in conditions and not FUNCTION.match(_split(code)[1]):
            raise HeaderError(f"declaration in a conditional block: {line}")
        else:
            code += line + "\n"
    return code, constants, compiler_macros


def _condition(line: str) -> str:
    if not re.search(r"\b__cplusplus\b", line):
        return "compiler"
    return "C" if line.startswith("#ifndef") else "C++"


def _constant(define: re.Match[str]) -> list[str]:
    """Return the declaration of a constant; none for a macro that has no value or takes arguments."""
    name, has_arguments, value = define[1], define[2], define[3].strip()
    if has_arguments or not value:
        return []
    if INTEGER.fullmatch(value):
        return [f"#define {name} {value}"]  # may be the length of an array; the compiler checks the value
    if EXPRESSION.fullmatch(value) and not value[0].isdigit():
        return [f"#define {name} ..."]  # the compiler computes it
    raise HeaderError(f"not an integer constant: {define[0]}")


def _without_functions(code: str) -> list[str]:
    """Return the declarations of a header one by one, without the functions that it defines."""
    found, rest = _split(code)
    if rest.strip():
        raise HeaderError(f"not understood: {rest.strip()}")
    return [STORAGE.sub("", re.sub(r"\s+", " ", text).strip()) for text in found if not FUNCTION.match(text)]


def _split(code: str) -> tuple[list[str], str]:
    """Split code into complete declarations and functions, and the incomplete text at its end."""
    found: list[str] = []
    text, depth = "", 0
    for part in re.split(r"([{};])", code):
        text += part
        depth += (part == "{") - (part == "}")
        if depth == 0 and (part == ";" or (part == "}" and FUNCTION.match(text))):
            found.append(text)
            text = ""
    return found, text


def main(source: str, include_dir: str, output: str) -> None:
    """Write the declarations of every header that the source includes."""
    parts = []
    for name in headers_of(Path(source).read_text(encoding="utf-8")):
        try:
            parts.append(declarations((Path(include_dir) / name).read_text(encoding="utf-8")))
        except HeaderError as error:
            sys.exit(f"{name}: {error}")
    Path(output).write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
