"""The bytes of requests and answers: the parts of the contract that an SDK hides."""

from __future__ import annotations

import contextlib
import json
import re
import socket

import pytest

COMPLETION = {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
LOGPROBS = {"tokens", "token_logprobs", "top_logprobs", "text_offset", "token_ids", "bytes"}
CHOICE = {"index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids", "seed"}


def test_the_fields_of_a_completion(server):
    """A completion has exactly the documented fields, with JSON's own types."""
    answer = server.complete(max_tokens=3, seed=1)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert set(answer.json) == COMPLETION
    (choice,) = answer.json["choices"]
    assert set(choice) == CHOICE
    assert (choice["logprobs"], choice["finish_reason"], choice["seed"]) == (None, "length", 1)
    assert set(answer.json["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_the_events_of_a_stream(server):
    """A stream is `data: JSON` events of completion objects, separated by empty lines; the last event is [DONE]."""
    answer = server.complete(max_tokens=3, seed=1, stream=True, logprobs=0)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    *chunks, done = answer.events
    assert done == "[DONE]"
    for chunk in chunks:
        assert set(chunk) == COMPLETION
        assert [set(choice) for choice in chunk["choices"]] == [CHOICE]
        assert chunk["usage"] is None
        assert set(chunk["choices"][0]["logprobs"]) == LOGPROBS
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]


def test_an_answer_of_many_tokens(server):
    """An answer of thousands of tokens is one JSON object with every token of every choice."""
    answer = server.complete(max_tokens=100, n=20, logprobs=1, ignore_eos=True, seed=1)
    choices = answer.json["choices"]
    assert [len(choice["logprobs"]["tokens"]) for choice in choices] == [100] * 20
    assert answer.json["usage"]["completion_tokens"] == 2000


def test_an_event_of_many_tokens(server):
    """A long echoed prompt with log-probabilities is one event, with the values of the answer without streaming."""
    fields = {"prompt": [5] * 700, "echo": True, "logprobs": 2, "max_tokens": 2, "seed": 1, "ignore_eos": True}
    whole = server.complete(**fields).json["choices"][0]
    *chunks, done = server.complete(**fields, stream=True).events
    pieces = [chunk["choices"][0] for chunk in chunks]
    assert done == "[DONE]"
    assert len(pieces[0]["token_ids"]) >= 700
    logprobs = [value for piece in pieces for value in piece["logprobs"]["token_logprobs"]]
    assert logprobs == whole["logprobs"]["token_logprobs"]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]


def test_usage_in_every_chunk(server):
    """With continuous_usage_stats every chunk has a running count; include_usage adds a last chunk with the total."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, _ = server.complete(max_tokens=4, n=2, seed=1, stream=True, stream_options=options).events
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1], chunks[-1]["choices"]) == (1, 8, [])


def test_a_request_without_a_model(server):
    """A request whose `model` is absent or null goes to the only model, as evaluation harnesses expect."""
    fields = {"prompt": "def f(", "max_tokens": 0, "echo": True, "logprobs": 5}
    for more in ({}, {"model": None}):
        answer = server.request("POST", "/v1/completions", {**fields, **more})
        assert (answer.status, answer.json["model"]) == (200, "bundled")
        assert answer.json["choices"][0]["logprobs"]["token_logprobs"][0] is None
    error = server.request("POST", "/v1/completions", {**fields, "logprobs": 10}).error
    assert (error["param"], error["message"]) == (
        "logprobs",
        "logprobs=10: must be an integer from 0 to 5 (--max-logprobs)",
    )


def test_null_is_absent(server):
    """A null for every optional field gives the answer of a request without these fields."""
    from decoding.completions_api.fields import FIELDS, HARMLESS

    names = [field.name for field in FIELDS if field.name not in ("model", "prompt", "seed", "max_tokens")]
    bare = server.complete(seed=3)
    full = server.complete(seed=3, max_tokens=None, **dict.fromkeys([*names, *HARMLESS]))
    assert full.status == 200, full.body
    assert full.json["choices"] == bare.json["choices"]
    assert bare.json["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("field", ["metadata", "store", "service_tier"])
def test_harmless_fields_are_accepted(server, field):
    """Any JSON value in metadata, store and service_tier is accepted."""
    for value in ("x", {"a": [1, None]}, True, 5):
        assert server.complete(max_tokens=1, **{field: value}).status == 200


def test_the_user_has_no_effect(server):
    """The field `user` does not change the choices."""
    choices = [server.complete(seed=3, user=user).json["choices"] for user in ("one", "")]
    assert choices[0] == choices[1]


def test_an_unknown_field_is_an_error_by_default(server, serve):
    """An unknown field gets 400 with the nearest known name; --unknown-fields=ignore accepts it."""
    error = server.complete(tempreature=0.5).error
    assert (error["param"], error["code"]) == ("tempreature", "unknown_field")
    assert "did you mean temperature?" in error["message"]
    error = server.request("POST", "/tokenize", {"prompt": "a", "add_special_token": True}).error
    assert (error["param"], error["code"]) == ("add_special_token", "unknown_field")
    assert "did you mean add_special_tokens?" in error["message"]
    other = serve("--unknown-fields=ignore")
    assert other.complete(tempreature=0.5, max_tokens=1).status == 200
    assert other.request("POST", "/tokenize", {"prompt": "a", "add_special_token": True}).status == 200


def test_all_problems_are_reported_at_once(server):
    """An error names all wrong fields of a request; `param` is the first of them."""
    error = server.complete(n=0, temperature="hot", stop=[""]).error
    assert error["param"] == "n"
    assert all(f"{name}=" in error["message"] for name in ("n", "temperature", "stop"))


def test_the_index_of_a_prompt_that_is_too_long(server):
    """The error for a prompt that is too long has the prompt's index, even if the text was too long to be tokenised."""
    for long in ("x " * 2000, "x " * 100_000, [5] * 2000):
        error = server.complete(prompt=["a", long] if isinstance(long, str) else [[5], long]).error
        assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
        assert error["message"].startswith("prompt[1]=")


def test_repetition_penalty_has_two_meanings(serve, server):
    """Test that repetition_penalty is additive by default and multiplicative with --repetition-penalty-mode.

    If an additive value looks multiplicative, the log has one warning.
    """
    assert server.complete(repetition_penalty=-2, max_tokens=1).status == 200
    assert server.complete(repetition_penalty=2.5).error["param"] == "repetition_penalty"
    for _ in range(2):
        server.complete(repetition_penalty=1.1, max_tokens=1)
    assert sum("looks multiplicative" in line for line in server.lines) == 1
    other = serve("--repetition-penalty-mode=multiplicative")
    assert other.complete(repetition_penalty=2.5, max_tokens=1).status == 200
    assert other.complete(repetition_penalty=0).error["param"] == "repetition_penalty"
    plain = server.complete(seed=5, temperature=0.5).json["choices"][0]["text"]
    assert other.complete(seed=5, temperature=0.5, repetition_penalty=1.0).json["choices"][0]["text"] == plain


def test_errors_before_the_first_token_are_http_errors(server):
    """A streaming request with an error before its first token gets 400, even if only the engine finds the error."""
    for fields in ({"prompt": [10**6]}, {"allowed_token_ids": [5], "banned_token_ids": [5]}, {"prompt": "x " * 3000}):
        answer = server.complete(stream=True, **fields)
        assert answer.status == 400
        assert answer.error["param"] in ("prompt", "allowed_token_ids")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"null", "invalid_json", None),
        (b"\xff\xfe{}", "invalid_json", None),
        ('{"model": "bundled"}'.encode("utf-16"), "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b'{"a":' * 100_000, "invalid_json", None),
        (b'{"model": "bundled", "prompt": "a", "prompt": "b"}', "invalid_json", "prompt"),
        (b'{"model": "bundled", "prompt": "a", "logit_bias": {"5": 1, "5": 2}}', "invalid_value", "logit_bias"),
        (b'{"model": "bundled", "prompt": [{"n": 1, "n": 1}]}', "invalid_value", "prompt"),
        (b'{"model": "bundled", "prompt": "a", "metadata": {"x": 1, "x": 1}}', "invalid_json", None),
        (b'{"model": "bundled", "prompt": "a", "temperature": NaN}', "invalid_value", "temperature"),
        (b'{"model": "bundled", "prompt": "a", "metadata": {"x": Infinity}}', "invalid_json", None),
        (b'{"model": "bundled", "prompt": "a", "seed": ' + b"9" * 6000 + b"}", "invalid_value", "seed"),
        (b'{"model": "bundled", "prompt": "a", "top_p": ' + b"9" * 6000 + b"}", "invalid_value", "top_p"),
        (b'{"model": "bundled", "prompt": "\\ud800"}', "invalid_value", "prompt"),
        (b'{"model": "\\ud800", "prompt": "x"}', "invalid_value", "model"),
        (b'{"model": "bundled", "prompt": "x", "user": 5}', "invalid_value", "user"),
        (b'{"model": "bundled", "prompt": "x", "\\ud800": 1}', "unknown_field", "\\ud800"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "invalid_json", "\\ud800"),
        (b'{"model": "bundled"}', "missing_field", "prompt"),
        (b'{"model": "bundled", "prompt": []}', "invalid_value", "prompt"),
        (b'{"model": "bundled", "prompt": ["a", 1]}', "invalid_value", "prompt"),
        (b'{"model": "bundled", "prompt": [1, true]}', "invalid_value", "prompt"),
        (b'{"model": "bundled", "prompt": [[]]}', "invalid_value", "prompt"),
    ],
)
def test_wrong_bodies(server, body, code, param):
    """A malformed body gets 400 with a code, and with the field's name if one field is wrong."""
    answer = server.request("POST", "/v1/completions", body)
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == (code, param)
    assert len(answer.body) < 2000


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/completions", {}, 405),
        ("POST", "/v1/embeddings", {}, 404),
        ("GET", "/../etc/passwd", {}, 404),
        ("GET", "/v1/models/", {}, 404),
        ("OPTIONS", "/v1/completions", {"origin": "http://elsewhere"}, 405),
        ("POST", "/v1/completions", {"content-type": "text/plain"}, 415),
        ("POST", "/v1/completions", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/v1/completions", {"content-encoding": "gzip"}, 415),
        ("POST", "/tokenize", {"content-type": "text/html"}, 415),
    ],
)
def test_wrong_routes_methods_and_content_types(server, method, path, headers, status):
    """A wrong route, method or content type gets an error body of the API."""
    answer = server.request(method, path, b"{}", headers)
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"


def test_head_is_get_without_its_body(server):
    """HEAD has the status and length of GET without the body and keeps the connection; without GET there is no HEAD."""
    with contextlib.closing(server.connect()) as connection:
        for path, status in (("/health", 200), ("/v1/models", 200), ("/v1/completions", 405), ("/nowhere", 404)):
            answers = []
            for method in ("HEAD", "GET"):
                connection.request(method, path)
                answers.append(server.answer(connection))
            head, get = answers
            assert (head.status, head.body) == (get.status, b"") == (status, b"")
            assert head.headers["content-length"] == str(len(get.body))


def test_two_lengths_of_one_body_end_the_connection(server):
    """A request with two body lengths gets 400 and ends the connection, so its body cannot hide a request."""
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 44\r\n"
    hidden = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(head + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b'"code": "invalid_http"' in answer


def raw_answer(server, data):
    """Send bytes and return all bytes that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as raw:
        raw.sendall(data)
        return b"".join(iter(lambda: raw.recv(4096), b""))


END = b"\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /health HTTP/1.0", 200),
        (b"GET /health HTTP/2.0", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET /health HTTP/0.9", 505),
        (b"GET http://somewhere:80/health HTTP/1.1", 200),
        (b"HEAD HTTPS://somewhere/v1/models?x=1 HTTP/1.1", 200),
        (b"GET http://somewhere HTTP/1.1", 200),
        (b"GET http:///health HTTP/1.1", 404),
        (b"\r\nGET /health HTTP/1.1", 200),
        (b"\r\n\r\n\r\nGET /health HTTP/1.1", 200),
        (b" GET /health HTTP/1.1", 400),
    ],
)
def test_request_lines(server, line, status):
    """The server accepts HTTP/1 only, whole URLs as targets, and empty lines before the request line."""
    assert raw_answer(server, line + END).startswith(b"HTTP/1.1 %d " % status)


def test_an_empty_line_behind_a_body(server):
    """An empty line that a client sends after a body is skipped before the next request."""
    body = json.dumps({"prompt": "a"}).encode()
    head = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    answer = raw_answer(server, head % len(body) + body + b"\r\n" + b"GET /health HTTP/1.1" + END)
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_a_request_may_choose_an_allowed_profile(serve, server):
    """A request may choose a profile of --allow-profiles; system_fingerprint depends on the profile."""
    error = server.complete(profile="vllm").error
    assert error["param"] == "profile"
    assert "--allow-profiles" in error["message"]
    other = serve("--allow-profiles=llama_cpp,openai", "--profile=vllm")
    fields = {"prompt": "def f(", "max_tokens": 4, "seed": 1, "temperature": 2.0, "top_k": 20, "min_p": 0.1}
    answers = {name: other.complete(**fields, profile=name).json for name in ("llama_cpp", "openai", None)}
    assert len({answer["system_fingerprint"] for answer in answers.values()}) == 3
    plain = server.complete(**fields).json
    assert plain["system_fingerprint"] == answers["openai"]["system_fingerprint"]
    assert plain["choices"][0]["token_ids"] == answers["openai"]["choices"][0]["token_ids"]
    assert "profile='vllm': must be 'llama_cpp' or 'openai'" in other.complete(profile="vllm").error["message"]
    events = other.complete(**fields, profile="llama_cpp", stream=True).events
    assert {event["system_fingerprint"] for event in events[:-1]} == {answers["llama_cpp"]["system_fingerprint"]}


def test_special_tokens_in_untrusted_text(server):
    """With parse_special=false the spelling of a special token is plain text, in a prompt as in /tokenize."""
    special = server.request("GET", "/tokenizer_info").json["eos_token"]
    tokenized = {
        flag: server.request("POST", "/tokenize", {"prompt": special, "parse_special": flag}).json["tokens"]
        for flag in (True, False)
    }
    assert len(tokenized[False]) > len(tokenized[True])
    answer = server.complete(prompt=special, parse_special=False, max_tokens=0, echo=True, logprobs=0).json
    (choice,) = answer["choices"]
    assert choice["token_ids"] == choice["logprobs"]["token_ids"] == tokenized[False]
    assert choice["text"] == special
    assert b"".join(map(bytes, choice["logprobs"]["bytes"])) == special.encode()


def test_a_missing_template_names_the_servers_flag(serve_script):
    """A suffix without a fill-in-the-middle template gets an error that names the server's flag, not an argument."""
    error = serve_script("plain").complete(suffix="x").error
    assert error["param"] == "suffix"
    assert "the server's --fim-template gives a template" in error["message"]
    assert "LLM(" not in error["message"]


def test_tokenize_and_back(server):
    """/detokenize inverts /tokenize; wrong fields get 400 with their name."""
    made = server.request("POST", "/tokenize", {"model": "bundled", "prompt": "def f(\u00e9):"}).json
    assert made["count"] == len(made["tokens"])
    again = server.request("POST", "/detokenize", {"model": "bundled", "tokens": made["tokens"]}).json
    assert again == {"prompt": "def f(\u00e9):"}
    for path, fields, param, code in [
        ("/tokenize", {"prompt": 5}, "prompt", "invalid_value"),
        ("/tokenize", {"prompt": "a", "extra": 1}, "extra", "unknown_field"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt", "invalid_value"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens", "invalid_value"),
        ("/detokenize", {"tokens": [10**9]}, "tokens", "invalid_value"),
        ("/detokenize", {}, "tokens", "missing_field"),
    ]:
        answer = server.request("POST", path, {"model": "bundled", **fields})
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, code)
    assert server.request("POST", "/tokenize", {"model": "x", "prompt": "a"}).status == 404


def test_a_model_without_a_tokenizer(serve_script):
    """Without a tokenizer, token ids are served, text gets 400 with its field, and errors do not name the folder."""
    server = serve_script("ids")
    assert server.complete(prompt=[1, 2], max_tokens=1).status == 200
    texts = {"prompt": "a", "stop": "a", "suffix": "a", "bad_words": ["a"]}
    answers = {name: server.complete(**{"prompt": [1], name: text}) for name, text in texts.items()}
    answers["model"] = server.request("POST", "/tokenize", {"prompt": "a"})
    assert {name: (answer.status, answer.error["param"]) for name, answer in answers.items()} == {
        name: (400, name) for name in answers
    }
    others = (server.request("POST", "/detokenize", {"tokens": [1]}), server.request("GET", "/tokenizer_info"))
    assert [(answer.status, answer.error["param"]) for answer in others] == [(400, "model")] * 2
    assert not any("folder:" in answer.error["message"] for answer in (*answers.values(), *others))


def test_health_and_metrics(server):
    """The server reports ready and live, and the metrics count the tokens and errors of requests."""
    assert server.request("GET", "/health").json["status"] == "ready"
    assert server.request("GET", "/health/live").json == {"status": "live"}
    before = server.metric("decoding_completion_tokens_total"), server.metric("decoding_prompt_tokens_total")
    usage = server.complete(max_tokens=5).json["usage"]
    assert server.metric("decoding_completion_tokens_total") - before[0] == usage["completion_tokens"]
    assert server.metric("decoding_prompt_tokens_total") - before[1] == usage["prompt_tokens"]
    errors = server.metric("decoding_errors_total")
    server.complete(n=0)
    assert server.metric("decoding_errors_total") == errors + 1


def test_one_line_in_the_log_for_each_request(server):
    """A request has one log line with id, route, status, tokens and time, and without the prompt."""
    server.request(
        "POST", "/v1/completions", {"model": "bundled", "prompt": "SECRET", "max_tokens": 2}, {"x-request-id": "the-id"}
    )
    server.request("GET", "/health")
    line = server.wait_for_log(request_id="the-id")
    assert [one.get("request_id") for one in server.log].count("the-id") == 1
    assert (line["path"], line["status"], line["model"], line["completion_tokens"]) == (
        "/v1/completions",
        200,
        "bundled",
        2,
    )
    assert line["seconds"] > 0
    assert "SECRET" not in "".join(server.lines)


def test_the_openapi_document_describes_every_parameter(server):
    """The OpenAPI document has every parameter with its description, the ranges and the error responses."""
    from decoding.completions_api.fields import FIELDS

    document = server.request("GET", "/openapi.json").json
    operation = document["paths"]["/v1/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert {field.name for field in FIELDS} <= set(schema["properties"])
    assert all(schema["properties"][field.name]["description"] for field in FIELDS)
    assert {"200", "400", "404", "413", "429", "503"} <= set(operation["responses"])
    assert "maximum" in json.dumps(schema["properties"]["n"])


def test_the_page_of_the_api_takes_nothing_from_the_network(server):
    """Every link of /docs is served by the server itself, and Swagger UI is complete."""
    page = server.request("GET", "/docs").body.decode()
    assert "://" not in page
    links = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page)
    assert {"/openapi.json", "/docs/static/swagger-ui-bundle.js"} <= set(links)
    answers = {link: server.request("GET", link) for link in links}
    assert {answer.status for answer in answers.values()} == {200}
    assert len(answers["/docs/static/swagger-ui-bundle.js"].body) > 500_000
    assert server.request("GET", "/docs/static/../../../../etc/passwd").error["code"] == "no_such_route"
