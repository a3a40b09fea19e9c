"""The script csrc/python/make_cdef.py declares to cffi all that decoding.h and the private headers declare."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cffi
import pytest
from decoding._kernel import ffi as compiled
from decoding._kernel import lib

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SCRIPT = CSRC / "python" / "make_cdef.py"


@pytest.fixture(scope="module")
def make_cdef() -> ModuleType:
    """Return the generator as a module. It is a script of the build, not part of the package."""
    spec = importlib.util.spec_from_file_location("make_cdef", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(declarations: str) -> cffi.FFI:
    """Return cffi's parser after it has read the declarations. It raises if it does not understand them."""
    ffi = cffi.FFI()
    ffi.cdef(declarations)
    return ffi


def test_the_module_has_every_constant_of_the_header() -> None:
    """Each integer constant of decoding.h is in the compiled module, with its value."""
    header = (CSRC / "decoding.h").read_text()
    constants = re.findall(r"^#define (DECODING_\w+) (\d+)u?\b", header, flags=re.MULTILINE)
    assert len(constants) > 40
    assert {name: getattr(lib, name) for name, _ in constants} == {name: int(value) for name, value in constants}


def test_the_module_has_every_function_and_struct_of_the_header() -> None:
    """Each DECODING_API function is callable, and each struct has all of its fields."""
    header = re.sub(r"/\*.*?\*/", "", (CSRC / "decoding.h").read_text(), flags=re.DOTALL)
    functions = re.findall(r"^DECODING_API [^;]*?(\w+)\(", header, flags=re.MULTILINE)
    assert len(functions) > 8
    assert [name for name in functions if not callable(getattr(lib, name, None))] == []
    structs = re.findall(r"^typedef struct \w+ {\n(.*?)^} (\w+);", header, flags=re.MULTILINE | re.DOTALL)
    assert len(structs) > 3
    for body, name in structs:
        fields = re.findall(r"(\w+)(?:\[\w+\])?;", body)
        assert [field for field, _ in compiled.typeof(name).fields] == fields


HEADER = """
/* A comment with code: int wrong(void); */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <stdint.h>

#if defined(_WIN32)
#define EXAMPLE_API __declspec(dllexport)
#elif defined(__GNUC__)
#define EXAMPLE_API __attribute__((visibility("default")))
#else
#define EXAMPLE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define EXAMPLE_COUNT 3 /* a comment
                         * of two lines */
#define EXAMPLE_MASK 0x10u
#define EXAMPLE_LOWEST -5
#define EXAMPLE_ALL INT32_MAX
#define EXAMPLE_BIT (1u << 4)
#define EXAMPLE_LONG \\
  7
#define EXAMPLE_SQUARE(x) ((x) * (x))

enum example_color { EXAMPLE_RED, EXAMPLE_GREEN = 5 };

typedef void (*example_task)(void *context, int32_t index);
typedef int32_t (*example_parallel_for)(void *pool, int32_t n, example_task task, void *context);

typedef struct example_layer {
  int32_t sizes[EXAMPLE_COUNT]; // one per axis
  struct {
    float low, high;
  } range;
  union {
    int32_t integer;
    float real;
  } value;
  example_parallel_for run;
} example_layer;

typedef struct example_opaque example_opaque;

EXAMPLE_API int32_t example_run(const example_layer *layers,
                                int32_t num_layers);
EXAMPLE_API example_opaque *example_open(void);

#ifdef __cplusplus
}
#endif

#endif
"""


def test_declarations_of_a_public_header(make_cdef: ModuleType) -> None:
    """Constants, enums, function pointers, structs, opaque types and functions are declared; macros and C++ are not."""
    cdef = make_cdef.declarations(HEADER)
    assert cdef.splitlines()[:6] == [
        "#define EXAMPLE_COUNT 3",
        "#define EXAMPLE_MASK 0x10u",
        "#define EXAMPLE_LOWEST -5",
        "#define EXAMPLE_ALL ...",
        "#define EXAMPLE_BIT ...",
        "#define EXAMPLE_LONG 7",
    ]
    assert not re.search("wrong|EXAMPLE_API|SQUARE|__|extern", cdef)
    ffi = parsed(cdef)
    layer = dict(ffi.typeof("example_layer").fields)
    assert list(layer) == ["sizes", "range", "value", "run"]
    assert layer["sizes"].type.length == 3
    assert layer["run"].type is ffi.typeof("example_parallel_for")
    assert ffi.typeof("enum example_color").relements == {"EXAMPLE_RED": 0, "EXAMPLE_GREEN": 5}
    assert "\nint32_t example_run(const example_layer *layers, int32_t num_layers);\n" in cdef
    assert "\nexample_opaque *example_open(void);\n" in cdef


def test_a_private_header_exposes_its_prototypes(make_cdef: ModuleType) -> None:
    """Functions that a private header only defines are not declared, even if a body depends on the processor."""
    header = """
#ifndef PRIVATE_H
#define PRIVATE_H
struct dk_pool;
static int dk_wait(struct dk_pool *pool, int64_t delay);
int dk_start(struct dk_pool *pool);

static void pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

static inline int dk_wait(struct dk_pool *pool, int64_t delay) {
  for (;;) {
    pause();
  }
}
#endif
"""
    cdef = make_cdef.declarations(header)
    assert cdef.splitlines() == [
        "struct dk_pool;",
        "int dk_wait(struct dk_pool *pool, int64_t delay);",
        "int dk_start(struct dk_pool *pool);",
    ]
    parsed(cdef)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("#if defined(_WIN32)\nint f(void);\n#endif\n", "declaration in a conditional block: int f"),
        ("struct s {\n#if defined(_WIN32)\nint x;\n#endif\n};\n", "declaration in a conditional block: int x"),
        ("#define EXAMPLE_RATIO 0.5f\n", "not an integer constant: #define EXAMPLE_RATIO"),
        ('#define EXAMPLE_NAME "x"\n', "not an integer constant: #define EXAMPLE_NAME"),
        ("struct s {\n int x;\n", "not understood: struct s"),
    ],
)
def test_unreadable_declarations_are_errors(make_cdef: ModuleType, header: str, message: str) -> None:
    """A declaration that cffi cannot read is an error, not silently dropped."""
    with pytest.raises(make_cdef.HeaderError, match=re.escape(message)):
        make_cdef.declarations(header)


def test_included_headers_are_read(tmp_path: Path) -> None:
    """The generator reads the headers that the C source includes; an error names its header."""
    (tmp_path / "public.h").write_text("int f(void);\n")
    (tmp_path / "private.h").write_text("int g(void);\n")
    source, output = tmp_path / "source.c", tmp_path / "cdef.txt"
    source.write_text('#include <math.h>\n#include "public.h"\n#include "private.h" /* after the other */\n')
    command = [sys.executable, SCRIPT, source, tmp_path, output]
    subprocess.run(command, check=True)
    assert output.read_text() == "int f(void);\nint g(void);\n"
    (tmp_path / "private.h").write_text("#define PI 3.14\n")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("private.h: not an integer constant")
