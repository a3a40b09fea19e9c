"""Write the generated tables of docs/semantics.md (from decoding.params) and docs/profiles.md.

python tests/tools/docs_tables.py            # rewrite the pages
python tests/tools/docs_tables.py --check    # exit code 1 if a page is not up to date
python tests/tools/docs_tables.py --print    # print the tables of docs/profiles.md
"""

import re
import runpy
import sys
from pathlib import Path

from decoding.completions_api.fields import BY_NAME
from decoding.params import PARAMETERS

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLES = runpy.run_path(str(Path(__file__).with_name("profile_tables.py")))["TABLES"]
PAGE, PROFILES_PAGE = DOCS / "semantics.md", DOCS / "profiles.md"
BEGIN = "<!-- --8<-- [start:parameters] written by tests/tools/docs_tables.py -->\n"
END = "<!-- --8<-- [end:parameters] -->\n"
HEAD = "| parameter | default | values | HTTP API | stage | meaning | source |\n|---|---|---|---|---|---|---|\n"


def line_of(row):
    """Return the line of a parameter."""
    values = row.domain.rule.removeprefix("must be ").removeprefix("must ")
    default = f"None ({row.none})" if row.default is None and row.none else repr(row.default)
    cells = (f"`{row.name}`", default, values, api_of(row), row.stage, row.help, row.source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def api_of(row):
    """Return the difference between the field of the HTTP API and the parameter, or ""."""
    schema = BY_NAME[row.name].schema
    words = []
    if row.name == "repetition_penalty":
        words.append("another quantity, section 8")
    elif "minimum" in schema and "maximum" in schema and (schema["minimum"], schema["maximum"]) != bounds_of(row):
        words.append(f"{schema['minimum']:g} to {schema['maximum']:,g}")
    if schema.get("minimum") == -1:
        words = ["0 and -1 are None"]
    if row.name == "logit_bias":
        words.append("numbers from -100 to 100")
    return "; ".join(words)


def bounds_of(row):
    """Return the bounds of the parameter's own domain as in a JSON Schema."""
    from decoding.completions_api.domain_schema import schema_of

    schema = schema_of(row.domain)
    return schema.get("minimum"), schema.get("maximum")


def page_with_tables(text):
    """Return the page with its table replaced."""
    table = HEAD + "".join(map(line_of, PARAMETERS.values()))
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda _: BEGIN + table + END, text, flags=re.DOTALL)


def page_with_profiles(text):
    """Return the page of the profiles with its tables replaced."""
    for name, make in TABLES.items():
        begin = f"<!-- begin: {name}, written by tests/tools/docs_tables.py -->\n"
        end = f"<!-- end: {name} -->\n"
        written = begin + make() + end
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _, new=written: new, text, flags=re.DOTALL)
    return text


def main(arguments):
    """Run the command and return its exit code."""
    if "--print" in arguments:
        print("\n".join(f"## {name}\n\n{make()}" for name, make in TABLES.items()))
        return 0
    pages = {PAGE: page_with_tables, PROFILES_PAGE: page_with_profiles}
    written = {page: make(page.read_text()) for page, make in pages.items()}
    if "--check" in arguments:
        return int(any(page.read_text() != text for page, text in written.items()))
    for page, text in written.items():
        page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
