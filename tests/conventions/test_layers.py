"""Layers: a module imports only from lower layers, or from earlier modules of its own layer.

The tests read syntax trees, so imports inside functions count.
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
"""Optional libraries of other engines, and their dependencies."""

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
    """Return the name in LAYERS of a file's module or package."""
    return path.split("/")[0].removesuffix(".py")


def test_every_module_is_in_a_layer(trees):
    """Each top-level module is in a layer, and each name in LAYERS exists."""
    assert {top(path) for path in trees} == set(RANK)


def test_the_layers_are_those_of_the_documentation(root):
    """The table in docs/architecture.md has the names of LAYERS in the same order."""
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


def test_reference_and_kernel_are_independent(trees):
    """The reference and the kernel share only the order of the stages."""
    for path, tree in trees.items():
        mine = set(imports_of(tree))
        if path.startswith("reference/"):
            ours = {name for name in mine if name.startswith(("decoding.sampling", "decoding._kernel"))}
            assert ours <= {"decoding.sampling.stages"}, path
        if path.startswith("sampling/"):
            assert not any(name.startswith("decoding.reference") for name in mine), path


def test_each_dependency_has_one_place(trees):
    """Each module in ONLY_IN is imported only by its listed files."""
    wrong = [
        f"{path} imports {name}"
        for path, tree in trees.items()
        for name in imports_of(tree)
        for guarded, places in ONLY_IN.items()
        if f"{name}.".startswith(f"{guarded}.") and not path.startswith(places)
    ]
    assert wrong == []


def test_only_declared_dependencies_are_imported(trees):
    """Only declared dependencies are imported, and the lowest layer imports none."""
    for path, tree in trees.items():
        roots = {name.split(".")[0] for name in imports_of(tree)} - {"decoding"}
        assert roots - sys.stdlib_module_names <= THIRD_PARTY, path
        if top(path) in LAYERS[0]:
            assert roots <= sys.stdlib_module_names, path


def test_policy_is_plain_integers(trees):
    """The scheduler and block manager import no numpy, model or clock."""
    policy = {f"decoding.engine.{name}" for name in ("block_manager", "block_table", "sequence", "tasks.protocol")}
    for path in ("engine/block_manager.py", "engine/scheduler.py"):
        ours = {name for name in imports_of(trees[path]) if name.startswith("decoding.")}
        others = {name.split(".")[0] for name in imports_of(trees[path])} - {"decoding"}
        assert ours <= policy
        assert others <= sys.stdlib_module_names - {"time"}


def test_import_is_light():
    """Importing `decoding` loads no test tool, web framework, other engine, asyncio or command line."""
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
