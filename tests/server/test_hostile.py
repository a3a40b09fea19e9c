"""Thousands of bad requests: each is refused with the name of its field and never gets a 5xx status.

A sample runs by default, all with `pytest -m slow tests/server/test_hostile.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random

import pytest

from decoding.completions_api.fields import FIELDS

HUGE = "9" * 6000
NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-0.0",
    "5e-324",
    "-1",
    "0",
    f"{2**31}",
    f"{2**63}",
    HUGE,
    f"-{HUGE}",
)
LISTS = ("[]", "{}", "[null]", "[[]]", '{"a": 1}', "[1e400]", f"[{HUGE}]")
OTHERS = ("null", "true", '"1"', '""', '"\\ud800"', "1.5", "1e2", *LISTS)
IDS = (-(2**63), -1, 4096, 4097, 2**31, 2**63 - 1)
ID_FIELDS = ("prompt", "stop_token_ids", "allowed_token_ids", "banned_token_ids", "bad_words", "dry_sequence_breakers")
PLAIN = {"model": '"bundled"', "prompt": '"a"', "max_tokens": "1"}


def body(**fields):
    """Return the body of a request with values that are JSON already."""
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in {**PLAIN, **fields}.items()) + "}").encode()


def single_fields():
    """Yield a body per field and odd value, with the `param` that its error may have."""
    for field, value in itertools.product(FIELDS, (*NUMBERS, *OTHERS)):
        yield body(**{field.name: value}), {field.name}


def token_ids():
    """Yield bodies with ids outside of the vocabulary in every field that takes ids."""
    for name, one in itertools.product(ID_FIELDS, IDS):
        value = f"[[{one}]]" if name in ("bad_words", "dry_sequence_breakers") else f"[{one}]"
        active = {"dry_multiplier": "1"} if name.startswith("dry") else {}
        yield body(**{name: value, **active}), {name}
    for one in IDS:
        yield body(logit_bias=f'{{"{one}": 1}}'), {"logit_bias"}
    for key in ("01", "+1", " 1", "1.0", "1e1", "a", "", "\u0663", HUGE):
        yield body(logit_bias=json.dumps({key: 1})), {"logit_bias"}


def pairs(count):
    """Yield bodies with two odd fields, some with a third unknown field."""
    chance = random.Random(20)
    for _ in range(count):
        chosen = chance.sample([field.name for field in FIELDS], 2)
        fields = {name: chance.choice((*NUMBERS, *OTHERS)) for name in chosen}
        if chance.random() < 0.2:
            fields[f"unknown_{chance.randrange(1000)}"] = "1"
        yield body(**fields), set(fields) | {"model", "prompt"}


def truncated(count):
    """Yield valid bodies that are cut or have one random byte."""
    whole = body(stop='["a", "b"]', logit_bias='{"5": 1.5}', seed="-7")
    chance = random.Random(21)
    for _ in range(count):
        if chance.random() < 0.5:
            yield whole[: chance.randrange(len(whole))], None
        else:
            place = chance.randrange(len(whole))
            yield whole[:place] + bytes((chance.randrange(256),)) + whole[place + 1 :], None


def drive(server, requests):
    """Send the requests on one connection, check each answer, and return the number of refused requests."""
    num_refused = 0
    with contextlib.closing(server.connect()) as connection:
        for data, fields in requests:
            connection.request("POST", "/v1/completions", data, {"content-type": "application/json"})
            answer = server.answer(connection)
            assert answer.status in (200, 400, 404), (data[:300], answer)
            assert len(answer.body) < 5000
            if answer.status != 200:
                num_refused += 1
                param = answer.error["param"]
                assert fields is None or param in fields, (data[:300], answer.body)
    return num_refused


def test_every_field_with_every_odd_value(server):
    """An odd value is refused under its field's name, or served if it is valid (-0.0, null, 1e2)."""
    requests = list(single_fields())
    assert drive(server, requests) > len(requests) / 2


def test_token_ids_that_do_not_exist(server):
    """Ids outside of the vocabulary are always refused, in every field that takes ids."""
    requests = list(token_ids())
    assert drive(server, requests) == len(requests)


def test_several_things_wrong_at_once(server):
    """Requests with two odd fields and damaged bodies are answered or refused, and serving continues."""
    drive(server, pairs(300))
    drive(server, truncated(200))
    assert server.complete(max_tokens=1).status == 200


@pytest.mark.slow
def test_ten_thousand(server):
    """More than 10,000 distinct bad requests are answered or refused, and the server stays healthy."""
    requests = [*single_fields(), *token_ids(), *pairs(9000), *truncated(4000)]
    assert len({data for data, _ in requests}) > 10_000
    drive(server, requests)
    assert server.request("GET", "/health").status == 200
