"""Conventions of the source that a test can check."""

import ast
import re

import decoding
from decoding.sampling.stages import PIPELINE

LONGEST_FUNCTION = 60

PUBLIC_NAMES = [
    "LLM",
    "AsyncEngine",
    "BatchSampler",
    "BeamSearchParams",
    "Choice",
    "CompletionResult",
    "DecodingError",
    "Delta",
    "LogitsError",
    "Logprobs",
    "ModelError",
    "ParameterError",
    "PromptError",
    "Sampler",
    "SamplerOutput",
    "SamplingParams",
    "SamplingState",
    "Usage",
    "__version__",
]

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_the_public_names():
    """The public names of `decoding` are exactly these, and at most 24."""
    assert decoding.__all__ == PUBLIC_NAMES
    assert all(hasattr(decoding, name) for name in PUBLIC_NAMES)
    assert len(PUBLIC_NAMES) <= 24


def test_no_function_is_longer_than_a_screen(trees):
    """No Python function has more than 60 lines, docstring included."""
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert long == []


def test_no_c_function_is_longer_than_a_screen(root):
    """No C function has more than 60 lines; it ends with a brace in the first column."""
    for path in root.glob("csrc/**/*.[ch]"):
        start = 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not start and line.endswith(") {"):
                start = number
            elif start and line == "}":
                assert number - start < LONGEST_FUNCTION, f"{path.name}:{start}"
                start = 0


def test_only_the_command_line_prints(trees):
    """Only the command line calls `print`."""
    printing = {
        path.split("/")[0]
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing <= {"cli"}


def test_public_names_have_docstrings(trees):
    """Every module and every public class, function and method of the package has a docstring."""
    bare = [
        f"{path}:{getattr(node, 'lineno', 1)}"
        for path, tree in trees.items()
        for node in (tree, *public_definitions(tree))
        if ast.get_docstring(node) is None
    ]
    assert bare == []


def public_definitions(tree):
    """Yield public classes and functions, and public methods of public classes."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_"):
            if not needs_no_docstring(node):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node)


def needs_no_docstring(node):
    """Return True for overloads and methods of protocols, whose body is `...`, and for setters."""
    setter = any(ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list)
    return setter or ast.unparse(node.body[-1]) == "..."


def test_every_test_has_a_docstring(root):
    """Every test function and every test file has a docstring."""
    bare = []
    for path in root.glob("tests/**/test_*.py"):
        tree = ast.parse(path.read_text())
        tests = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS) and node.name.startswith("test_")]
        bare += [f"{path.name}:{getattr(n, 'lineno', 1)}" for n in (tree, *tests) if ast.get_docstring(n) is None]
    assert bare == []


def test_stages_are_those_of_the_header(root):
    """The constants DECODING_STAGE_<NAME> in decoding.h are exactly the stages of PIPELINE."""
    header = (root / "csrc" / "decoding.h").read_text()
    constants = re.findall(r"^#define DECODING_STAGE_(\w+) (\d+)$", header, flags=re.MULTILINE)
    assert constants == [(stage.name.upper(), str(stage.number)) for stage in PIPELINE]


def test_stages_are_those_of_the_documentation(root):
    """The table in docs/semantics.md has the numbers and names of PIPELINE in order."""
    table = re.findall(r"^\| (\d+) \| (\w+) \|", (root / "docs" / "semantics.md").read_text(), flags=re.MULTILINE)
    assert table == [(str(stage.number), stage.name) for stage in PIPELINE]


def test_versions_are_those_of_the_header(root):
    """The header has the ABI version and the stream version once, and Python reads them from the header."""
    header = (root / "csrc" / "decoding.h").read_text()
    for name in ("ABI_VERSION", "STREAM_VERSION"):
        (value,) = re.findall(rf"^#define DECODING_{name} (\d+)$", header, flags=re.MULTILINE)
        assert getattr(decoding.sampling.kernel, name) == int(value)
