"""Layers: a module imports from lower layers only, or from its own layer in the listed order.

Checked over the syntax trees, so imports inside functions count, too.
"""

import ast
import re
import subprocess
import sys

LAYERS = (
    (
        "version",
        "errors",
        "types",
        "json_file",
        "file_output",
        "validation",
        "sequence_table",
        "domains",
        "json_schema",
        "object_domains",
        "parameters",
        "params",
        "presentation",
    ),
    ("sampling", "reference"),
    ("text", "chat", "models", "backends"),
    ("engine", "async_engine", "model_loading", "llm"),
    ("completions_api", "testing", "conformance"),
    ("server", "adapters"),
    ("__init__", "cli", "__main__"),
)
"""Top-level modules and packages, bottom to top, as in docs/architecture.md; a package may import itself."""

RANK = {name: rank for rank, name in enumerate(name for layer in LAYERS for name in layer)}

WEB = ("fastapi", "fastapi_offline", "starlette", "uvicorn", "h11", "pydantic", "prometheus_client")

OTHERS = ("torch", "transformers", "llama_cpp", "onnxruntime", "onnxruntime_genai", "vllm", "ray", "pyarrow")
"""Libraries of other engines, and what they bring: optional."""

ONLY_IN = {
    "tokenizers": ("text/tokenizer", "text/private_tokens.py"),
    "minijinja": ("chat/renderer.py",),
    "safetensors": ("models/checkpoint.py",),
    "decoding._kernel": ("sampling/kernel/library.py",),
    "decoding.sampling.kernel.library": ("sampling/kernel/", "models/native"),
    "hypothesis": ("testing/",),
    "scipy": ("testing/statistics.py",),
    "llguidance": ("engine/grammar.py",),
    "argparse": ("cli/",),
    "rich": ("cli/colour.py",),
    **dict.fromkeys(WEB, ("server/",)),
    **dict.fromkeys(OTHERS, ("backends/", "adapters/")),
    "pytest": ("conformance/pytest_plugin.py",),
    "asyncio": ("server/", "async_engine/"),
}
"""Modules that only these files, or files of these folders, may import."""

THIRD_PARTY = {"llguidance", "numpy", "minijinja", "rich", "tokenizers", "safetensors", "hypothesis", "scipy", "pytest"}
THIRD_PARTY |= {*WEB, *OTHERS}


def imports_of(tree):
    """Yield absolute dotted names of all imports of a module; `from decoding import x` counts as decoding.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            whole = node.module == "decoding"
            yield from ([f"decoding.{alias.name}" for alias in node.names] if whole else [node.module])


def top(path):
    """Return the name of a file's module or package in LAYERS."""
    return path.split("/")[0].removesuffix(".py")


def test_every_module_is_in_a_layer(trees):
    """A new top-level module must be put into a layer, and every name here exists."""
    assert {top(path) for path in trees} == set(RANK)


def test_the_layers_are_those_of_the_documentation(root):
    """The table in docs/architecture.md has these names in this order."""
    rows = re.findall(r"^\| \d \| (.*) \|$", (root / "docs" / "architecture.md").read_text(), flags=re.M)
    assert [tuple(row.replace("`", "").split(", ")) for row in rows] == list(LAYERS)


def test_imports_go_down(trees):
    """No module imports from a higher layer, or from a later name of its own layer."""
    wrong = [
        f"{path} imports {name}"
        for path, tree in trees.items()
        for name in imports_of(tree)
        if name.startswith("decoding.") and name != "decoding._kernel"
        if RANK[name.split(".")[1]] > RANK[top(path)]
    ]
    assert wrong == []


def test_reference_and_kernel_never_meet(trees):
    """The definition and its implementation share the order of the stages and no other code."""
    for path, tree in trees.items():
        mine = set(imports_of(tree))
        if path.startswith("reference/"):
            ours = {name for name in mine if name.startswith(("decoding.sampling", "decoding._kernel"))}
            assert ours <= {"decoding.sampling.stages"}, path
        if path.startswith("sampling/"):
            assert not any(name.startswith("decoding.reference") for name in mine), path


def test_each_dependency_has_one_place(trees):
    """tokenizers, safetensors, the compiled module, hypothesis, scipy, argparse and asyncio stay where they belong."""
    wrong = [
        f"{path} imports {name}"
        for path, tree in trees.items()
        for name in imports_of(tree)
        for guarded, places in ONLY_IN.items()
        if f"{name}.".startswith(f"{guarded}.") and not path.startswith(places)
    ]
    assert wrong == []


def test_nothing_else_is_needed(trees):
    """Only declared dependencies are imported, and the lowest layer needs none of them."""
    for path, tree in trees.items():
        roots = {name.split(".")[0] for name in imports_of(tree)} - {"decoding"}
        assert roots - sys.stdlib_module_names <= THIRD_PARTY, path
        if top(path) in LAYERS[0]:
            assert roots <= sys.stdlib_module_names, path


def test_policy_is_plain_integers(trees):
    """Scheduling and memory are decided without arrays, models or clocks."""
    policy = {f"decoding.engine.{name}" for name in ("block_manager", "block_table", "sequence", "tasks.protocol")}
    for path in ("engine/block_manager.py", "engine/scheduler.py"):
        ours = {name for name in imports_of(trees[path]) if name.startswith("decoding.")}
        others = {name.split(".")[0] for name in imports_of(trees[path])} - {"decoding"}
        assert ours <= policy
        assert others <= sys.stdlib_module_names - {"time"}


def test_import_is_light():
    """`import decoding` brings in no test tool, no web or training framework, no event loop, no command line."""
    heavy = (
        "hypothesis",
        "rich",
        "scipy",
        "pytest",
        *OTHERS,
        "asyncio",
        "argparse",
        *WEB,
        "decoding.testing",
        "decoding.adapters",
        "decoding.cli",
    )
    program = f"import sys, decoding; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
