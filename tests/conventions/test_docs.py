"""Pages of docs/ with tables that are generated from the code are up to date."""

import subprocess
import sys


def test_the_table_of_parameters_is_that_of_the_code(root):
    """The tables in docs/semantics.md and docs/profiles.md are those that tests/tools/docs_tables.py writes."""
    done = subprocess.run([sys.executable, root / "tests" / "tools" / "docs_tables.py", "--check"], check=False)
    assert done.returncode == 0, "run: python tests/tools/docs_tables.py"
