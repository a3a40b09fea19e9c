"""The kit itself: how much it asks of a server, what it reports, and how it is run."""

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


def test_checks_say_what_and_why():
    """Every check has an id of its own in a group, a sentence and a reason."""
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
    """Counts completions that are being made at the same time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def complete(self, body):
        """Long enough for others to come."""
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
def test_never_more_at_once_than_asked_for(concurrency):
    """The server counts: as many requests at once as were allowed, and not one more."""
    app = Counting()
    with serving(app) as url:
        only = ["greedy.company", "draws.plain", "error.half"]
        report = run_conformance(url, MODEL, only=only, num_draws=320, load=Load(concurrency=concurrency))
    assert report.passed, table(report)
    assert app.most == concurrency
    assert report.most_at_once == concurrency


def test_never_more_requests_than_asked_for():
    """With 25 requests the rest does not run, and says so; the server has seen 25."""
    app = MockServer()
    with serving(app) as url:
        report = run_conformance(url, MODEL, load=Load(max_requests=25))
    assert app.num_requests <= 25
    assert report.num_requests == 25
    left = [result for result in report.results if result.status == "not run"]
    assert len(left) > 50
    assert {result.evidence for result in left} == {"max_requests=25 are used up"}
    assert not [result for result in report.results if result.status == "fail"]


def test_never_more_tokens_than_asked_for():
    """max_tokens times candidates times prompts is counted before it is sent."""
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
    """A limit is a positive number."""
    with pytest.raises(ParameterError):
        Load(**bad)


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", ""])
def test_bad_urls_are_refused(url):
    """Http or https, and a host."""
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
def test_urls_mean_what_people_write(url, base):
    """With or without scheme, version and path."""
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
    """Earliest end, then earliest start."""
    assert cut_at(text, stops) == left


def test_nobody_there_is_an_error_not_a_report():
    """A port that nobody listens on: one line, exit code 2."""
    with serving(MockServer()) as url:
        pass
    with pytest.raises(NoAnswerError):
        run_conformance(url, MODEL)
    assert main(["conformance", url, "--model", MODEL]) == 2


def test_a_curl_line_shows_the_failure_again():
    """The line of a failed check, run by a shell, brings the same answer."""
    with serving(Model()) as url:
        (result,) = run_conformance(url, MODEL, only=["error.model"]).results
        assert result.status == "fail"
        shown = subprocess.run(result.curl, shell=True, capture_output=True, text=True, check=True, timeout=30)
    assert "no-such-model-anywhere" in result.curl
    assert shown.stdout.startswith("HTTP/1.0 200")
    assert '"text_completion"' in shown.stdout


def test_a_key_is_sent_and_not_shown():
    """The curl line reads it from the environment."""
    seen = []

    class Secret(MockServer):
        """Looks at the header."""

        def answer(self, handler, data):
            """Before everything else."""
            seen.append(handler.headers["Authorization"])
            handler.send_json(401, {"error": {"message": "no"}})

    with serving(Secret()) as url:
        (result,) = run_conformance(url, MODEL, only=["shape.object"], api_key="sk-1").results
    assert set(seen) == {"Bearer sk-1"}
    assert "sk-1" not in result.curl
    assert "$API_KEY" in result.curl


def test_the_command_reports(tmp_path, capsys):
    """A table, JSON and HTML; exit code 1 where a check failed, 0 where none did."""
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
    """Without a server."""
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
def test_wrong_arguments_are_told(arguments, told, capsys):
    """One line that names what is wrong, exit code 2."""
    assert main(["conformance", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


class Tags(HTMLParser):
    """Names of a page's elements."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attrs):
        """Collect."""
        self.found.add(tag)


def test_what_a_server_says_is_no_markup():
    """Evidence with tags in it is text on the page."""
    evil = "<script>alert(1)</script>"
    result = Result("stop.cut", "Sentence.", "Reason.", "fail", evil, f"curl {evil}", 0.1)
    page = html_page(Report("http://h/v1", evil, 0.0, 1.0, [result], 1, 1))
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.found
    assert {"table", "pre", "h1"} <= tags.found
    assert json_object(Report("u", "m", 0.0, 1.0, [result], 1, 1))["results"][0]["evidence"] == evil


def test_a_pytest_plugin(tmp_path):
    """Each check is a test: passed, failed with the evidence, skipped with the reason; -k chooses among them."""
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
    """Nothing is added to anybody's tests."""
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert True\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "decoding.conformance.pytest_plugin"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "1 passed" in done.stdout


def test_the_page_lists_every_check():
    """docs/conformance.md has each check as it is, in the order of the run, and says how many there are."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text()
    rows = [line for line in page.split("## The checks")[1].splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {check.id} | {check.sentence} | {check.reason} |" for check in CHECKS]
    assert f"runs {len(CHECKS)} checks" in page


def test_the_kit_needs_no_hypothesis():
    """It works after a plain install."""
    program = "import sys, decoding.conformance, decoding.testing.assertions; print('hypothesis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
