"""The page docs/architecture.md names all modules and folders of tests."""

import re


def page(root):
    """Return the text of the page."""
    return (root / "docs" / "architecture.md").read_text()


def test_every_module_is_on_the_page(root, trees):
    """Each top-level module or package, and each module of the library's layers, is in the tree on the page."""
    words = set(re.findall(r"\w+", page(root)))
    top_level = {path.split("/")[0].removesuffix(".py") for path in trees} - {"__init__", "__main__"}
    packages = ("sampling", "completions_api", "server", "cli", "text")
    inside = {
        path.rsplit("/")[-1].removesuffix(".py")
        for path in trees
        if path.startswith(tuple(f"{package}/" for package in packages)) and path.count("/") == 1
    }
    assert top_level | inside - {"__init__"} <= words


def test_every_folder_of_tests_is_on_the_page(root):
    """Each folder of tests is on the page."""
    folders = {path.name for path in (root / "tests").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert {name for name in folders if f"{name}/" not in page(root)} == set()
