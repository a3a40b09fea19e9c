"""The conformance kit on a right server, and on servers that are wrong in one way each."""

import pytest
from mock_server import LIKELY, MODEL, BadRequestError, MockServer, script, serving
from wrong_servers import WRONG, NeverGivesUp

from decoding import LLM
from decoding.conformance import CHECKS, company, run_conformance
from decoding.testing.scripted import ScriptedModel, byte_tokenizer

DRAWS = 320


def statuses(url, **options):
    """What came of each check, by id, and the failures as text for whoever reads a failing test."""
    report = run_conformance(url, MODEL, num_draws=DRAWS, **options)
    told = {result.id: (result.status, result.evidence) for result in report.results}
    return {check_id: status for check_id, (status, _) in told.items()}, told


def failures(url, **options):
    """Ids of the checks that failed."""
    found, _ = statuses(url, **options)
    return {check_id for check_id, status in found.items() if status == "fail"}


def test_a_right_server_passes_every_check():
    """All pass; one has no occasion, because the mock's tokenizer splits its own text into bytes."""
    with serving(MockServer()) as url:
        found, told = statuses(url)
    assert {check_id for check_id, status in found.items() if status != "pass"} == {"echo.agrees"}, told
    assert len(found) == len(CHECKS) >= 100


class Bytes(MockServer):
    """A mock whose every token is one byte, so that a text has the same tokens wherever it stands."""

    def __init__(self, worse=0.0):
        super().__init__()
        self.worse = worse
        model = ScriptedModel(self.script, 256, max_position_embeddings=2048)
        self.llm = LLM.from_parts(model, byte_tokenizer(), name=MODEL)

    def script(self, token_ids, vocab_size):
        """Tokens of one byte alone."""
        logits = script(token_ids, 300)[:vocab_size]
        logits[[byte for byte in LIKELY if byte > 127 and byte < 256]] = -30.0
        return logits

    def complete(self, body):
        """With `worse`, what a prefill reports is off."""
        whole = super().complete(body)
        if body.get("echo") and body.get("max_tokens") == 0 and self.worse:
            logprobs = whole["choices"][0]["logprobs"]
            logprobs["token_logprobs"] = [v and v - self.worse for v in logprobs["token_logprobs"]]
        return whole


def test_scores_of_prompt_and_completion_are_compared():
    """Where a text has the tokens that it was made of, its scores must be those; off by 0.2 they are not."""
    with serving(Bytes()) as url:
        assert statuses(url, only=["echo.agrees"])[0] == {"echo.agrees": "pass"}
    with serving(Bytes(worse=0.2)) as url:
        assert statuses(url, only=["echo.agrees"])[0] == {"echo.agrees": "fail"}


@pytest.mark.parametrize("server", WRONG, ids=lambda server: server.__name__)
def test_a_wrong_server_fails_its_own_checks_alone(server, monkeypatch):
    """Each planted fault is found by the checks that are there for it, and by no other of their neighbours."""
    only, expected = WRONG[server]
    monkeypatch.setattr(company, "PATIENCE", 1.0)
    with serving(server()) as url:
        assert failures(url, only=only) == expected


@pytest.mark.slow
@pytest.mark.parametrize("server", [s for s in WRONG if s is not NeverGivesUp], ids=lambda server: server.__name__)
def test_a_wrong_server_fails_in_a_whole_run(server):
    """The same with every check: those that are there for the fault are among the failures.

    But for the server that makes everybody wait: its whole run would take its time, and say no more.
    """
    with serving(server()) as url:
        assert failures(url) >= WRONG[server][1]


class Refuses(MockServer):
    """A server that has no more than prompt, max_tokens, temperature and stop."""

    def rule(self, name):
        """Of a few fields."""
        if name not in ("prompt", "max_tokens", "temperature", "stop"):
            raise BadRequestError(400, f"{name} is unknown", name)
        return super().rule(name)


def test_what_is_refused_by_name_is_not_offered():
    """A small server that says no to what it does not have has no failures but for the rule of nulls."""
    with serving(Refuses()) as url:
        found, told = statuses(url)
    assert {i for i, status in found.items() if status == "fail"} <= {"default.null"}, told
    assert {found[i] for i in ("n.count", "seed.repeats", "logprobs.top", "stream.text", "best_of.best")} == {
        "not offered"
    }
    assert found["stop.cut"] == "pass"
