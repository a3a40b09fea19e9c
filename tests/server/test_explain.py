"""POST /v1/explain: what the library says of the same draw, and the limits of every other route."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from decoding import LLM, SamplingParams
from decoding.completions_api.settings import Limits

PROMPT = "def f("
EXPLANATION = {"object", "model", "system_fingerprint", "position", "choice", "seed"} | {
    *("token_id", "drawn", "error", "tokens", "steps")
}
TOKEN = {"token_id", "token", "bytes", "logprob", "rank", "final_rank", "why_not"}
STEP = {"stage", "title", "num_kept", "mass_removed", "entropy", "probabilities"}
GIVEN = [
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "frequency_penalty": 0.5},
    {"mirostat_tau": 3.0},
    {"structured": {"choice": ["self, x):", "self):"]}},
    {"n": 3, "xtc_probability": 0.5, "typical_p": 0.8},
]


@pytest.fixture(scope="module")
def llm():
    """The server's model, in this process."""
    return LLM()


def explain(server, **fields):
    """POST /v1/explain."""
    return server.request("POST", "/v1/explain", {"prompt": PROMPT, "seed": 7, "max_tokens": 8, **fields})


def explanations(llm, given):
    """The library's own explanation of each draw, by choice and position."""
    found = {}

    def listen(sampler, logits, states):
        (state,) = states
        found[state.choice, state.position] = sampler.explain(logits[0], state)

    params = SamplingParams(seed=7, max_tokens=8, **given)
    for _ in llm.stream(PROMPT, params, on_sample=listen):
        pass
    return found


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: next(iter(given)))
def test_it_is_the_library_s_explanation(server, llm, given):
    """Every position of every choice: steps, probabilities, counts and entropies are those of Sampler.explain."""
    answer = server.complete(prompt=PROMPT, seed=7, max_tokens=8, logprobs=2, **given).json
    expected = explanations(llm, given)
    num_checked = 0
    for choice in answer["choices"]:
        for position, token_id in enumerate(choice["token_ids"]):
            fields = {"token_ids": choice["token_ids"], "position": position, "choice": choice["index"]}
            got, own = explain(server, **given, **fields).json, expected[choice["index"], position]
            assert (got["drawn"], got["token_id"], got["error"]) == (own.token_id, token_id, None)
            assert [step["title"] for step in got["steps"]] == [step.title for step in own.steps]
            ids = [token["token_id"] for token in got["tokens"]]
            for step, its in zip(got["steps"], own.steps, strict=True):
                assert step["probabilities"] == its.after[ids].tolist()
                numbers = (step["num_kept"], step["mass_removed"], step["entropy"])
                assert numbers == (its.num_kept, its.mass_removed, its.entropy)
            assert [token["why_not"] for token in got["tokens"]] == [own.why_not(token_id) for token_id in ids]
            logprobs = choice["logprobs"]["token_logprobs"]
            if position < len(logprobs):
                assert got["tokens"][0]["logprob"] == logprobs[position]
            num_checked += 1
    assert num_checked >= 2


def test_the_object(server):
    """Exactly these fields; the token at the position comes first, with its rank before and after the stages."""
    ids = server.complete(prompt=PROMPT, seed=7, max_tokens=3).json["choices"][0]["token_ids"]
    got = explain(server, token_ids=ids, position=1, top_k=3, top_logprobs=4, stream=True).json
    assert set(got) == EXPLANATION
    assert all(set(token) == TOKEN for token in got["tokens"])
    assert all(set(step) == STEP for step in got["steps"])
    assert (got["object"], got["position"], got["choice"], got["seed"]) == ("explanation", 1, 0, 7)
    assert got["tokens"][0]["token_id"] == ids[1]
    last = got["steps"][-1]
    assert (last["stage"], last["num_kept"]) == ("top_k", 3)
    kept = [token for token in got["tokens"] if token["final_rank"] is not None]
    assert sorted(token["final_rank"] for token in kept) == [1, 2, 3]
    out = [token for token in got["tokens"] if token["final_rank"] is None]
    assert [token["why_not"][:16] for token in out] == ["dropped by top_k"] * len(out)
    assert sum(token["rank"] <= 4 for token in got["tokens"]) == 4
    assert all(bytes(token["bytes"]).decode() == token["token"] for token in got["tokens"])
    assert np.isclose(sum(last["probabilities"]), 1)


def test_the_next_token_is_the_default(server):
    """Without a position it is the draw behind the given tokens."""
    ids = server.complete(prompt=PROMPT, seed=7, max_tokens=5).json["choices"][0]["token_ids"]
    got = explain(server, token_ids=ids[:4]).json
    assert (got["position"], got["drawn"], got["token_id"]) == (4, ids[4], ids[4])


def test_a_model_without_a_tokenizer(serve_script):
    """Tokens have no bytes there, and their ids as texts."""
    server = serve_script("ids")
    got = explain(server, prompt=[5, 6], token_ids=[]).json
    assert {token["token"] for token in got["tokens"]} == {f"token_id:{token['token_id']}" for token in got["tokens"]}
    assert all(token["bytes"] is None for token in got["tokens"])


@pytest.mark.parametrize(
    ("fields", "param", "rule"),
    [
        ({}, "token_ids", "is required"),
        ({"token_ids": [1], "seed": None}, "seed", "must be the seed of the completion"),
        ({"token_ids": "1"}, "token_ids", "must be an array"),
        ({"token_ids": [1, True]}, "token_ids", "must be a token id"),
        ({"token_ids": [1, 4096]}, "token_ids", "must be a token id"),
        ({"token_ids": [1], "position": 2}, "position", "must be an integer from 0 to 1"),
        ({"token_ids": [1] * 8, "position": 8}, "position", "must be below 8"),
        ({"token_ids": [1], "choice": 1}, "choice", "must be an integer from 0 to 0"),
        ({"token_ids": [1], "prompt": ["a", "b"]}, "prompt", "must be one prompt"),
        ({"token_ids": [1], "best_of": 2}, "best_of", "must be null or n=1"),
        ({"token_ids": [1], "use_beam_search": True, "seed": None}, "use_beam_search", "a beam search draws nothing"),
        ({"token_ids": [1], "temprature": 1}, "temprature", "did you mean temperature?"),
        ({"token_ids": [1], "top_p": 2}, "top_p", "must be a number from 0 to 1"),
        ({"token_ids": [5], "structured": {"choice": ["a"]}}, "structured", "cannot be followed"),
        ({"token_ids": [5, 5], "mirostat_tau": 2}, "token_ids", "must be the tokens of the completion"),
    ],
)
def test_what_is_refused(server, fields, param, rule):
    """400 with the parameter, its value and its rule."""
    answer = explain(server, **fields)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert rule in answer.error["message"]


def test_its_limits(small, serve):
    """The limits on prompts and alternatives hold here, too; a body has room for what they allow."""
    assert explain(small, prompt=[5] * 10, token_ids=[5] * 7, max_tokens=40).status == 200
    refused = explain(small, prompt=[5], token_ids=[5] * 21, max_tokens=40)
    assert (refused.status, refused.error["param"]) == (400, "token_ids")
    assert "(--max-prompt-tokens)" in refused.error["message"]
    few = serve("--max-top-logprobs=3")
    assert explain(few, token_ids=[], top_logprobs=3).status == 200
    assert "(--max-top-logprobs)" in explain(few, token_ids=[], top_logprobs=4).error["message"]
    limits = Limits()
    whole = explain(few, prompt="\u6f22" * limits.prompt_chars, token_ids=[987654] * limits.max_prompt_tokens)
    assert (whole.status, whole.error["param"]) == (400, "prompt")


def test_a_long_context(server):
    """Prompt and tokens must fit the model's context together."""
    room = server.request("GET", "/v1/models").json["data"][0]["max_model_len"] - 10
    assert explain(server, prompt=[5] * 10, token_ids=[5] * room, max_tokens=100_000).status == 200
    beyond = explain(server, prompt=[5] * 10, token_ids=[5] * (room + 1), max_tokens=100_000)
    assert (beyond.status, beyond.error["param"]) == (400, "position")


def test_the_queue(serve_script):
    """With one sequence running and one request waiting, an explanation is refused with 429."""
    server = serve_script("paced", "max_running=1", "max_waiting=1")
    body = json.dumps({"model": "scripted", "prompt": "a", "max_tokens": 2000, "stream": True})
    with contextlib.ExitStack() as stack:
        for number in range(2):
            connection = stack.enter_context(contextlib.closing(server.connect()))
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            if number == 0:
                connection.getresponse().fp.readline()
        server.wait_until(lambda: server.metric("decoding_engine_waiting") >= 1)
        refused = explain(server, token_ids=[])
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
    server.wait_until(lambda: explain(server, token_ids=[]).status == 200)


def test_the_time_and_the_client(serve_script):
    """504 where the time is over; a client that leaves is counted, and its work is dropped."""
    server = serve_script("slow", "request_timeout=0.3")
    assert explain(server, token_ids=[]).error["code"] == "timeout"
    patient = serve_script("broken")
    with contextlib.closing(patient.connect()) as leaving:
        body = json.dumps({"prompt": "W", "seed": 1, "token_ids": []})
        leaving.request("POST", "/v1/explain", body, {"content-type": "application/json"})
        patient.wait_until(lambda: "waits for ever\n" in patient.lines)
    patient.wait_until(lambda: patient.metric("decoding_aborted_total") >= 1)


def test_a_row_that_is_not_finite(serve_script):
    """500 with the code of a model's fault, as of a completion."""
    answer = explain(serve_script("nan"), prompt="N", token_ids=[])
    assert (answer.status, answer.error["code"]) == (500, "model_error")


def test_a_row_without_a_token_left(server):
    """A row that fails at a stage is explained up to it: the error says why, and nothing is drawn."""
    got = explain(server, token_ids=[], allowed_token_ids=[5], banned_token_ids=[5]).json
    assert (got["drawn"], got["token_id"]) == (None, None)
    assert "hard_masks" in got["error"]
    assert "logits" in [step["stage"] for step in got["steps"]]


def test_without_the_playground(serve):
    """--no-playground takes away the page, its files and this route, each with the API's error."""
    server = serve("--no-playground")
    for method, path in (("GET", "/"), ("GET", "/playground/main.js"), ("POST", "/v1/explain")):
        answer = server.request(method, path, None if method == "GET" else {"prompt": "a"})
        assert (answer.status, answer.error["code"]) == (404, "no_such_route")
    assert "/v1/explain" not in server.request("GET", "/openapi.json").json["paths"]
