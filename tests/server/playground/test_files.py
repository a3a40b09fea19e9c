"""The playground's files: their headers, who may read them, and what their script never does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import decoding.server.playground
from decoding.params import PARAMETERS

FOLDER = Path(decoding.server.playground.__file__).parent
SCRIPTS = sorted(FOLDER.glob("*.js"))
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def policy_of(answer):
    """The Content-Security-Policy by directive."""
    parts = (one.split() for one in answer.headers["content-security-policy"].split(";"))
    return {name: values for name, *values in parts}


def test_every_file(server):
    """Each has its media type, and headers by which the page runs its own script and talks to its server alone."""
    names = {path.name for path in FOLDER.iterdir() if path.suffix in TYPES}
    assert {"index.html", "main.js", "playground.css", "icon.svg"} <= names
    for path in ("/", *(f"/playground/{name}" for name in names)):
        answer = server.request("GET", path)
        kind = TYPES[Path(path).suffix or ".html"]
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = policy_of(answer)
        assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == ["'none'"]
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
        assert server.request("HEAD", path).headers["content-length"] == answer.headers["content-length"]


@pytest.mark.parametrize("path", ["/playground/", "/playground/pages.py", "/playground/..%2fapp.py", "/playground"])
def test_nothing_else_is_served(server, path):
    """Other paths get the API's 404."""
    answer = server.request("GET", path)
    assert (answer.status, answer.error["code"]) == (404, "no_such_route")


def test_a_key_is_for_the_api_alone(serve, tmp_path):
    """With keys, the page and its files are open, everything that they ask for is not."""
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    server = serve(f"--api-key-file={keys}")
    for path in ("/", "/playground/main.js", "/openapi.json"):
        assert server.request("GET", path).status == 200
    assert server.request("GET", "/v1/models").status == 401
    assert server.request("POST", "/v1/explain", {"prompt": "a"}).status == 401
    closed = serve("--no-playground", f"--api-key-file={keys}")
    assert closed.request("GET", "/").status == 401


def test_text_is_never_read_as_html():
    """No script writes HTML, evaluates text, or takes anything from another host; the page has no inline script."""
    assert len(SCRIPTS) >= 5
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|\beval\b|new Function|https?://"
    )
    for path in SCRIPTS:
        assert re.search(forbidden, path.read_text()) is None, path.name
    page = (FOLDER / "index.html").read_text()
    assert re.findall(r"<script(.*?)>(.*?)</script>", page, re.S) == [(' type="module" src="playground/main.js"', "")]
    assert re.search(r"\sstyle=|\son\w+=|https?://", page) is None
    assert "url(" not in (FOLDER / "playground.css").read_text()


def test_the_fields_tell_of_the_table(server):
    """/openapi.json has the row, group and stage of each parameter, of which the page makes its controls."""
    document = server.request("GET", "/openapi.json").json
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]
    fields = body["schema"]["properties"]
    rows = {name: field["x-parameter"] for name, field in fields.items() if "x-parameter" in field}
    assert sorted(rows, key=lambda name: rows[name]["row"]) == list(PARAMETERS)
    for name, row in rows.items():
        assert (row["group"], row["stage"]) == (PARAMETERS[name].group, PARAMETERS[name].stage)
    assert all(row["group"] for row in rows.values())
    assert "propertyNames" in json.dumps(fields["logit_bias"])
    assert "propertyNames" not in json.dumps([fields["structured"], fields["repetition_detection"]])
