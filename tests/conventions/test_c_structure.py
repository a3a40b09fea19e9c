"""The structure of csrc/: includes, declarations in headers, and the list of sources."""

from __future__ import annotations

import graphlib
import re
from pathlib import Path

import pytest

PUBLIC_HEADER = "decoding.h"

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
DECLARATOR = r"^(?!typedef\b|#)[^;@()=\n]*?\b(\w+)\([^;@]*\)"
PROTOTYPE = re.compile(rf"{DECLARATOR};", re.MULTILINE)
DEFINITION = re.compile(rf"{DECLARATOR}\s*@", re.MULTILINE)
"""Patterns for code at the outer level."""


@pytest.fixture(scope="module")
def csrc(root: Path) -> Path:
    """Return the folder of the C library."""
    return root / "csrc"


def code_of(path: Path) -> str:
    """Return a file without comments."""
    return COMMENT.sub(" ", path.read_text())


def outer_level(code: str) -> str:
    """Return code with every outermost pair of braces and its contents replaced by @."""
    while True:
        shorter = re.sub(r"\{[^{}]*\}", "@", code)
        if shorter == code:
            return code
        code = shorter


def unit_of(path: str) -> str:
    """Return the unit of a file; a.c and a.h are one unit."""
    return path.removesuffix(".c").removesuffix(".h")


def units(csrc: Path) -> dict[str, set[str]]:
    """Map each unit to the units whose headers it includes."""
    needs: dict[str, set[str]] = {}
    for path in sorted(csrc.rglob("*.[ch]")):
        name = unit_of(path.relative_to(csrc).as_posix())
        included = {unit_of(other) for other in INCLUDE.findall(code_of(path))}
        needs.setdefault(name, set()).update(included - {name})
    return needs


def circle_in(csrc: Path) -> list[str]:
    """Return units that include each other in a circle, or an empty list."""
    try:
        graphlib.TopologicalSorter(units(csrc)).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def foreign_declarations(csrc: Path) -> list[str]:
    """Return the functions that a header declares but the C file of the same name does not define."""
    found = []
    for header in sorted(csrc.rglob("*.h")):
        if header.name == PUBLIC_HEADER:
            continue
        code = outer_level(code_of(header))
        source = header.with_suffix(".c")
        defined = set(DEFINITION.findall(code))
        if source.exists():
            defined |= set(DEFINITION.findall(outer_level(code_of(source))))
        name = header.relative_to(csrc).as_posix()
        found += [f"{name}: {function}" for function in PROTOTYPE.findall(code) if function not in defined]
    return found


def unlisted_sources(csrc: Path) -> list[str]:
    """Return C files of the library that are neither in sources.txt nor compiled by CMake with flags of their own."""
    listed = (csrc / "sources.txt").read_text().split()
    built = {*listed, *re.findall(r"[\w/]+\.c\b", cmake_of(csrc))}
    library = {
        path.relative_to(csrc).as_posix() for folder in library_folders(csrc) for path in sorted(folder.rglob("*.c"))
    }
    return sorted(library - built)


def library_folders(csrc: Path) -> list[Path]:
    """Return the folders of the library, without the Python module's."""
    return [path for path in sorted(csrc.iterdir()) if path.is_dir() and path.name != "python"]


def cmake_of(csrc: Path) -> str:
    """Return the build script."""
    return (csrc / "CMakeLists.txt").read_text()


def test_no_circle_between_c_files(csrc: Path) -> None:
    """No two units (a.c and a.h) include each other's headers, directly or through others."""
    assert circle_in(csrc) == []


def test_a_header_declares_its_own_file(csrc: Path) -> None:
    """Each function in a header is defined in the C file of the same name or inline in the header."""
    assert foreign_declarations(csrc) == []
    declared = [name for path in csrc.rglob("*.h") for name in PROTOTYPE.findall(outer_level(code_of(path)))]
    assert {"dk_gather", "dk_fetch_copy", "dk_sample_row", "dk_active_isa"} <= set(declared)


def test_public_functions_are_defined_once(csrc: Path) -> None:
    """Each function of decoding.h is defined in exactly one C file, and no other function has its prefix."""
    declared = re.findall(r"^DECODING_API [^;]*?\b(\w+)\([^;]*\);", code_of(csrc / PUBLIC_HEADER), flags=re.MULTILINE)
    defined = [
        function
        for folder in library_folders(csrc)
        for path in sorted(folder.rglob("*.c"))
        for function in DEFINITION.findall(outer_level(code_of(path)))
        if function.startswith("decoding_")
    ]
    assert len(declared) > 8
    assert sorted(defined) == sorted(declared)


def test_every_source_is_built(csrc: Path) -> None:
    """A C file of the library is in sources.txt or has flags in CMake; each entry exists and is unique."""
    listed = (csrc / "sources.txt").read_text().split()
    assert unlisted_sources(csrc) == []
    assert len(set(listed)) == len(listed)
    assert [name for name in listed if not (csrc / name).exists()] == []


def test_c_files_have_at_most_400_lines(csrc: Path) -> None:
    """A C file has at most 400 lines, except decoding.h, which documents every struct and function."""
    lengths = {path.name: len(path.read_text().splitlines()) for path in csrc.rglob("*.[ch]")}
    assert {name: n for name, n in lengths.items() if n > 400 and name != PUBLIC_HEADER} == {}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a small correct folder with the structure of csrc/, for a test to break."""
    (tmp_path / "part").mkdir()
    (tmp_path / "decoding.h").write_text("DECODING_API int decoding_a(void);\n")
    (tmp_path / "CMakeLists.txt").write_text("target_sources(decoding_objects PRIVATE part/c.c)\n")
    (tmp_path / "sources.txt").write_text("part/a.c\npart/b.c\n")
    (tmp_path / "part" / "a.h").write_text(
        "/* int b(void); */\nint a(void);\nstatic inline int i(void) { return 1; }\n"
    )
    (tmp_path / "part" / "a.c").write_text('#include "part/a.h"\n#include "part/b.h"\nint a(void) { return b(); }\n')
    (tmp_path / "part" / "b.h").write_text("int b(void);\ntypedef int (*callback)(int x);\n")
    (tmp_path / "part" / "b.c").write_text('#include "part/b.h"\nint b(void) {\n  return 2;\n}\n')
    (tmp_path / "part" / "c.c").write_text("")
    assert circle_in(tmp_path) == []
    assert foreign_declarations(tmp_path) == []
    assert unlisted_sources(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize("file", ["b.c", "b.h"])
def test_a_circle_is_found(broken: Path, file: str) -> None:
    """A C file or header that includes a header of a unit that includes it is found."""
    path = broken / "part" / file
    path.write_text(f'#include "part/a.h"\n{path.read_text()}')
    assert set(circle_in(broken)) == {"part/a", "part/b"}


def test_a_foreign_declaration_is_found(broken: Path) -> None:
    """A header that declares another file's function, or one without a definition, is found."""
    header = broken / "part" / "a.h"
    header.write_text(f"{header.read_text()}int b(void);\nstruct thing *\nfar(int x,\n    int y);\n")
    assert foreign_declarations(broken) == ["part/a.h: b", "part/a.h: far"]


def test_an_unlisted_source_is_found(broken: Path) -> None:
    """A C file that no list names is found."""
    (broken / "part" / "new.c").write_text("")
    assert unlisted_sources(broken) == ["part/new.c"]
