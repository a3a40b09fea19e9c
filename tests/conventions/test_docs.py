"""Pages of docs/ with tables that are generated from the code are up to date."""

import subprocess
import sys


def test_the_table_of_parameters_is_that_of_the_code(root):
    """The tables in docs/semantics.md and docs/profiles.md are those that tests/tools/docs_tables.py writes."""
    done = subprocess.run([sys.executable, root / "tests" / "tools" / "docs_tables.py", "--check"], check=False)
    assert done.returncode == 0, "run: python tests/tools/docs_tables.py"


def test_every_decision_is_in_the_index(root):
    """docs/adr/index.md has a line for each record, and marks those that name a successor."""
    folder = root / "docs" / "adr"
    lines = {
        line.split("](")[1].split(")")[0]: line
        for line in (folder / "index.md").read_text().splitlines()
        if line.startswith("| [0")
    }
    records = {path.name: path.read_text() for path in folder.glob("0*.md")}
    assert lines.keys() == records.keys()
    marked = {name for name, line in lines.items() if "superseded by" in line}
    assert marked == {name for name, text in records.items() if "\nSuperseded by [ADR" in text}
