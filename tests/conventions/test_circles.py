"""No circular imports between Python modules, imports inside functions included, those for type checkers excluded."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest


def module_name(path):
    """Return "decoding.engine.engine" for "engine/engine.py", and a package's name for its __init__.py."""
    parts = ["decoding", *path.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree, modules):
    """Return the modules among `modules` that a file imports at any level."""
    names = set()
    for node in at_run_time(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= submodules if submodules <= modules else {node.module, *submodules}
    return names & modules


def at_run_time(node):
    """Yield the nodes of a tree, without the blocks for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from at_run_time(child)


def graph_of(trees):
    """Return {module: modules that it imports}."""
    modules = {module_name(path) for path in trees}
    return {module_name(path): imports_of(tree, modules) - {module_name(path)} for path, tree in trees.items()}


def test_no_circular_imports(trees):
    """The modules have an order in which each imports only earlier ones."""
    try:
        order = list(TopologicalSorter(graph_of(trees)).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")
    assert len(order) == len(trees)


def test_a_circle_is_found():
    """A circle through an import inside a function is found."""
    sources = {"a.py": "import decoding.b", "b.py": "def f():\n    from decoding import a", "c.py": "import numpy"}
    graph = graph_of({path: ast.parse(source) for path, source in sources.items()})
    assert graph == {"decoding.a": {"decoding.b"}, "decoding.b": {"decoding.a"}, "decoding.c": set()}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
