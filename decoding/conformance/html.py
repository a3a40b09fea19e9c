"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from html import escape
from itertools import groupby

from decoding.conformance.report import Report, Result, shortened

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Conformance of {model}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }}
h2 {{ margin: 1.5em 0 .3em; font-size: 1.1em; }}
table {{ border-collapse: collapse; width: 100%; }}
td {{ border-top: 1px solid #8884; padding: .3em .8em .3em 0; vertical-align: top; }}
td.status {{ width: 7em; font-weight: 600; }}
td.id {{ width: 13em; font-family: ui-monospace, monospace; }}
.pass {{ color: #2a7d2e; }} .fail {{ color: #c62828; }} .other {{ color: #888; }}
pre {{ white-space: pre-wrap; word-break: break-word; background: #8882; padding: .6em; margin: .4em 0; }}
</style>
</head>
<body>
<h1>Conformance of {model}</h1>
<p>{url}, {date}<br>{summary}</p>
{groups}
</body>
</html>
"""


def html_page(report: Report) -> str:
    """Return the page; all text from the server is escaped."""
    groups = groupby(report.results, key=lambda result: result.id.split(".")[0])
    return _PAGE.format(
        model=escape(report.model),
        url=escape(report.url),
        date=escape(report.date),
        summary=escape(report.summary),
        groups="\n".join(_group(name, list(results)) for name, results in groups),
    )


def _group(name: str, results: list[Result]) -> str:
    rows = "\n".join(map(_row, results))
    return f"<h2>{escape(name)}</h2>\n<table>\n{rows}\n</table>"


def _row(result: Result) -> str:
    kind = result.status if result.status in ("pass", "fail") else "other"
    told = escape(result.sentence)
    if result.status != "pass":
        told += f"<pre>{escape(result.evidence)}</pre>"
    if result.status == "fail":
        told += f"Why it matters: {escape(result.reason)}"
        told += f"<pre>{escape(shortened(result.curl))}</pre>" if result.curl else ""
    status = f'<td class="status {kind}">{escape(result.status)}</td>'
    return f'<tr>{status}<td class="id">{escape(result.id)}</td><td>{told}</td></tr>'
