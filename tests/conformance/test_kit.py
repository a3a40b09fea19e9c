"""The conformance kit itself: its limits on requests, its reports, its command and plugin."""

import json
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mock_server import MODEL, MockServer, serving
from wrong_servers import Model, StopReasonLength

from decoding import ParameterError
from decoding.cli import main
from decoding.conformance import (
    CHECKS,
    Client,
    Load,
    NoAnswerError,
    Report,
    Result,
    html_page,
    json_object,
    run_conformance,
    table,
)
from decoding.conformance.client import tokens_asked_for
from decoding.conformance.stops import cut_at


def test_checks_have_ids_sentences_and_reasons():
    """Every check has a unique id with a group, a sentence and a reason."""
    ids = [check.id for check in CHECKS]
    assert len(set(ids)) == len(ids) >= 100
    for check in CHECKS:
        group, name = check.id.split(".")
        assert group.isidentifier()
        assert name.isidentifier()
        assert check.sentence.endswith(".")
        assert len(check.sentence) > 20
        assert check.reason.endswith(".")


class Counting(MockServer):
    """A server that counts concurrent completions."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def complete(self, body):
        """Count the completion and delay it, so that others overlap."""
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.01)
        try:
            return super().complete(body)
        finally:
            with self.lock:
                self.now -= 1


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_is_bounded(concurrency):
    """The maximum number of concurrent requests is exactly `concurrency`."""
    app = Counting()
    with serving(app) as url:
        only = ["greedy.company", "draws.plain", "error.half"]
        report = run_conformance(url, MODEL, only=only, num_draws=320, load=Load(concurrency=concurrency))
    assert report.passed, table(report)
    assert app.most == concurrency
    assert report.most_at_once == concurrency


def test_requests_are_bounded():
    """With max_requests=25 the server gets 25 requests, and the remaining checks are reported as not run."""
    app = MockServer()
    with serving(app) as url:
        report = run_conformance(url, MODEL, load=Load(max_requests=25))
    assert app.num_requests <= 25
    assert report.num_requests == 25
    left = [result for result in report.results if result.status == "not run"]
    assert len(left) > 50
    assert {result.evidence for result in left} == {"max_requests=25 are used up"}
    assert not [result for result in report.results if result.status == "fail"]


def test_tokens_are_bounded():
    """Tokens are counted before a request is sent, as max_tokens times candidates times prompts."""
    assert tokens_asked_for({}) == 16
    assert tokens_asked_for({"max_tokens": 5, "n": 3, "prompt": ["a", "b"]}) == 30
    assert tokens_asked_for({"max_tokens": 5, "best_of": 4, "n": 2, "prompt": [1, 2, 3]}) == 20
    assert tokens_asked_for({"max_tokens": -1}) == tokens_asked_for(b"{") == 0
    with serving(MockServer()) as url:
        report = run_conformance(url, MODEL, load=Load(max_tokens=200))
    evidence = {result.evidence for result in report.results if result.status == "not run"}
    assert evidence == {"max_tokens=200 are used up"}


@pytest.mark.parametrize("bad", [{"concurrency": 0}, {"max_requests": True}, {"timeout": float("nan")}])
def test_bad_limits_are_refused(bad):
    """A limit that is not a positive number raises ParameterError."""
    with pytest.raises(ParameterError):
        Load(**bad)


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", ""])
def test_bad_urls_are_refused(url):
    """A URL without http or https, or without a host, raises ParameterError."""
    with pytest.raises(ParameterError, match="url"):
        Client(url)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("localhost:80", "http://localhost:80/v1"),
        ("http://h/", "http://h/v1"),
        ("http://h/v1/", "http://h/v1"),
        ("https://h/api/v2/completions", "https://h/api/v2"),
    ],
)
def test_short_urls_are_completed(url, base):
    """A URL may omit scheme, version and path."""
    assert Client(url).base_url == base


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("abcdef", ["cd"], "ab"),
        ("abcdef", ["x"], "abcdef"),
        ("abcdef", ["def", "bc"], "a"),
        ("abcdef", ["bcde", "cd"], "ab"),
        ("abcd", ["cd", "bcd"], "a"),
    ],
)
def test_where_a_text_is_cut(text, stops, left):
    """A text is cut at the stop string with the earliest end, then the earliest start."""
    assert cut_at(text, stops) == left


def test_a_missing_server_is_an_error_not_a_report():
    """A port without a server raises NoAnswerError; the command ends with exit code 2."""
    with serving(MockServer()) as url:
        pass
    with pytest.raises(NoAnswerError):
        run_conformance(url, MODEL)
    assert main(["conformance", url, "--model", MODEL]) == 2


def test_a_curl_command_reproduces_the_failure():
    """The curl command of a failed check gets the wrong answer again."""
    with serving(Model()) as url:
        (result,) = run_conformance(url, MODEL, only=["error.model"]).results
        assert result.status == "fail"
        shown = subprocess.run(result.curl, shell=True, capture_output=True, text=True, check=True, timeout=30)
    assert "no-such-model-anywhere" in result.curl
    assert shown.stdout.startswith("HTTP/1.0 200")
    assert '"text_completion"' in shown.stdout


def test_a_key_is_sent_and_not_shown():
    """The API key is sent but not shown: the curl command reads it from the environment."""
    seen = []

    class Secret(MockServer):
        """A server that records the header."""

        def answer(self, handler, data):
            """Record the header and refuse the request."""
            seen.append(handler.headers["Authorization"])
            handler.send_json(401, {"error": {"message": "no"}})

    with serving(Secret()) as url:
        (result,) = run_conformance(url, MODEL, only=["shape.object"], api_key="sk-1").results
    assert set(seen) == {"Bearer sk-1"}
    assert "sk-1" not in result.curl
    assert "$API_KEY" in result.curl


def test_the_command_reports(tmp_path, capsys):
    """The command prints a table and writes JSON and HTML; a failed check gives exit code 1, otherwise 0."""
    files = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    with serving(StopReasonLength()) as url:
        code = main(["conformance", url, "--model", MODEL, "--only", "stop.c*", "--only", "stop.reason", *files])
        text = capsys.readouterr().out
        assert main(["conformance", url, "--model", MODEL, "--only", "stop.*", "--skip", "stop.reason"]) == 0
    assert code == 1
    assert "pass        stop.cut " in text
    assert "fail        stop.reason " in text
    assert "finish_reason is 'length'" in text
    assert "curl -sS" in text
    assert "1 pass, 1 fail, 0 not offered, 0 not run (" in text
    report = json.loads((tmp_path / "r.json").read_text())
    assert [(r["id"], r["status"]) for r in report["results"]] == [("stop.cut", "pass"), ("stop.reason", "fail")]
    assert "stop.reason" in (tmp_path / "r.html").read_text()


def test_the_command_lists_the_checks(capsys):
    """`--list` prints all checks without a server."""
    assert main(["conformance", "--list"]) == 0
    assert sum(line.startswith(" ") for line in capsys.readouterr().out.splitlines()) == len(CHECKS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "url"),
        (["http://h"], "model"),
        (["http://h", "--model", "m", "--only", "nothing.*"], "only='nothing.*'"),
        (["http://h", "--model", "m", "--api-key-env", "NOT_SET_ANYWHERE"], "api-key-env"),
        (["http://h", "--model", "m", "--timeout", "nan"], "timeout"),
    ],
)
def test_wrong_arguments_are_reported(arguments, told, capsys):
    """A wrong argument gives one line that describes the error, and exit code 2."""
    assert main(["conformance", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


class Tags(HTMLParser):
    """The names of a page's elements."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attrs):
        """Collect the name."""
        self.found.add(tag)


def test_evidence_is_escaped():
    """Evidence with tags is escaped on the page."""
    evil = "<script>alert(1)</script>"
    result = Result("stop.cut", "Sentence.", "Reason.", "fail", evil, f"curl {evil}", 0.1)
    page = html_page(Report("http://h/v1", evil, 0.0, 1.0, [result], 1, 1))
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.found
    assert {"table", "pre", "h1"} <= tags.found
    assert json_object(Report("u", "m", 0.0, 1.0, [result], 1, 1))["results"][0]["evidence"] == evil


def test_a_pytest_plugin(tmp_path):
    """The pytest plugin makes a test per check: passed, failed with evidence, or skipped; -k selects them."""
    with serving(StopReasonLength()) as url:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "decoding.conformance.pytest_plugin",
            "-rs",
            "-k",
            "stop. or echo.agrees",
        ]
        command += ["-k", "stop. or echo.agrees"]
        options = [f"--conformance-url={url}", f"--conformance-model={MODEL}", f"--rootdir={tmp_path}"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "12 passed" in done.stdout or "11 passed" in done.stdout
    assert "1 failed" in done.stdout
    assert "finish_reason is 'length'" in done.stdout
    assert "not offered: the text has other tokens" in done.stdout
    refused = subprocess.run([*command, options[0]], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert refused.returncode == 4
    assert "needs --conformance-model" in refused.stderr


def test_the_plugin_is_silent_without_a_url(tmp_path):
    """Without a URL the plugin adds no tests."""
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert True\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "decoding.conformance.pytest_plugin"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "1 passed" in done.stdout


def test_the_page_lists_every_check():
    """The table in docs/conformance.md has every check in the order of the run, and the page has their number."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text()
    rows = [line for line in page.split("## The checks")[1].splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {check.id} | {check.sentence} | {check.reason} |" for check in CHECKS]
    assert f"runs {len(CHECKS)} checks" in page


def test_the_kit_needs_no_hypothesis():
    """Importing the kit does not import Hypothesis."""
    program = "import sys, decoding.conformance, decoding.testing.assertions; print('hypothesis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
