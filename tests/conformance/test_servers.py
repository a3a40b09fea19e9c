"""The conformance kit on a correct server, and on servers with one fault each."""

import pytest
from mock_server import LIKELY, MODEL, BadRequestError, MockServer, script, serving
from wrong_servers import WRONG, NeverGivesUp

from decoding import LLM
from decoding.conformance import CHECKS, company, run_conformance
from decoding.testing.scripted import ScriptedModel, byte_tokenizer

DRAWS = 320


def statuses(url, **options):
    """Return the status of each check by id, and the statuses with evidence for a failure message."""
    report = run_conformance(url, MODEL, num_draws=DRAWS, **options)
    told = {result.id: (result.status, result.evidence) for result in report.results}
    return {check_id: status for check_id, (status, _) in told.items()}, told


def failures(url, **options):
    """Return the ids of the checks that failed."""
    found, _ = statuses(url, **options)
    return {check_id for check_id, status in found.items() if status == "fail"}


def test_a_correct_server_passes_every_check():
    """A correct server passes all checks but echo.agrees, which the mock's tokenizer does not allow to run."""
    with serving(MockServer()) as url:
        found, told = statuses(url)
    assert {check_id for check_id, status in found.items() if status != "pass"} == {"echo.agrees"}, told
    assert len(found) == len(CHECKS) >= 100


class Bytes(MockServer):
    """A mock server with one-byte tokens, so that a text always has the same tokens."""

    def __init__(self, worse=0.0):
        super().__init__()
        self.worse = worse
        model = ScriptedModel(self.script, 256, max_position_embeddings=2048)
        self.llm = LLM.from_parts(model, byte_tokenizer(), name=MODEL)

    def script(self, token_ids, vocab_size):
        """Return logits of one-byte tokens only."""
        logits = script(token_ids, 300)[:vocab_size]
        logits[[byte for byte in LIKELY if byte > 127 and byte < 256]] = -30.0
        return logits

    def complete(self, body):
        """Return the answer; subtract `worse` from the log-probabilities of a prompt."""
        whole = super().complete(body)
        if body.get("echo") and body.get("max_tokens") == 0 and self.worse:
            logprobs = whole["choices"][0]["logprobs"]
            logprobs["token_logprobs"] = [v and v - self.worse for v in logprobs["token_logprobs"]]
        return whole


def test_scores_of_prompt_and_completion_are_compared():
    """Scores of a text as prompt and as completion must agree; a difference of 0.2 fails echo.agrees."""
    with serving(Bytes()) as url:
        assert statuses(url, only=["echo.agrees"])[0] == {"echo.agrees": "pass"}
    with serving(Bytes(worse=0.2)) as url:
        assert statuses(url, only=["echo.agrees"])[0] == {"echo.agrees": "fail"}


@pytest.mark.parametrize("server", WRONG, ids=lambda server: server.__name__)
def test_a_wrong_server_fails_its_own_checks_alone(server, monkeypatch):
    """A planted fault fails exactly the checks for it, among the neighbouring checks."""
    only, expected = WRONG[server]
    monkeypatch.setattr(company, "PATIENCE", 1.0)
    with serving(server()) as url:
        assert failures(url, only=only) == expected


@pytest.mark.slow
@pytest.mark.parametrize("server", [s for s in WRONG if s is not NeverGivesUp], ids=lambda server: server.__name__)
def test_a_wrong_server_fails_in_a_whole_run(server):
    """In a run of all checks a planted fault fails at least the checks for it.

    The server that never cancels a stream is left out, because its run would be slow.
    """
    with serving(server()) as url:
        assert failures(url) >= WRONG[server][1]


class Refuses(MockServer):
    """A server that knows only prompt, max_tokens, temperature and stop."""

    def rule(self, name):
        """Refuse all but a few fields."""
        if name not in ("prompt", "max_tokens", "temperature", "stop"):
            raise BadRequestError(400, f"{name} is unknown", name)
        return super().rule(name)


def test_refused_fields_are_not_offered():
    """If a small server refuses unknown fields by name, their checks are reported as not offered, not as failed."""
    with serving(Refuses()) as url:
        found, told = statuses(url)
    assert {i for i, status in found.items() if status == "fail"} <= {"default.null"}, told
    assert {found[i] for i in ("n.count", "seed.repeats", "logprobs.top", "stream.text", "best_of.best")} == {
        "not offered"
    }
    assert found["stop.cut"] == "pass"
