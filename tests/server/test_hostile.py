"""Thousands of bad requests: each is refused as what it is, with the field named, and never by a 5xx.

A slice here; all of them with `pytest -m slow tests/server/test_hostile.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import time

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
SLOWEST = 5.0
"""Seconds. The bar is 0.25; a busy machine must not fail a test, so that is measured: python -m benchmarks.server."""


def body(**fields):
    """A request from values that are JSON already, right or not."""
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in {**PLAIN, **fields}.items()) + "}").encode()


def single_fields():
    """Every field with every odd value, and what param may be if it is refused."""
    for field, value in itertools.product(FIELDS, (*NUMBERS, *OTHERS)):
        yield body(**{field.name: value}), {field.name}


def token_ids():
    """Ids that the model does not have, wherever ids can stand."""
    for name, one in itertools.product(ID_FIELDS, IDS):
        value = f"[[{one}]]" if name in ("bad_words", "dry_sequence_breakers") else f"[{one}]"
        active = {"dry_multiplier": "1"} if name.startswith("dry") else {}
        yield body(**{name: value, **active}), {name}
    for one in IDS:
        yield body(logit_bias=f'{{"{one}": 1}}'), {"logit_bias"}
    for key in ("01", "+1", " 1", "1.0", "1e1", "a", "", "\u0663", HUGE):
        yield body(logit_bias=json.dumps({key: 1})), {"logit_bias"}


def pairs(count):
    """Two odd fields at a time, and sometimes a third that is unknown."""
    chance = random.Random(20)
    for _ in range(count):
        chosen = chance.sample([field.name for field in FIELDS], 2)
        fields = {name: chance.choice((*NUMBERS, *OTHERS)) for name in chosen}
        if chance.random() < 0.2:
            fields[f"unknown_{chance.randrange(1000)}"] = "1"
        yield body(**fields), set(fields) | {"model", "prompt"}


def truncated(count):
    """A good request that ends too early, or has a byte turned over."""
    whole = body(stop='["a", "b"]', logit_bias='{"5": 1.5}', seed="-7")
    chance = random.Random(21)
    for _ in range(count):
        if chance.random() < 0.5:
            yield whole[: chance.randrange(len(whole))], None
        else:
            place = chance.randrange(len(whole))
            yield whole[:place] + bytes((chance.randrange(256),)) + whole[place + 1 :], None


def drive(server, requests):
    """Send them all over a few kept connections; returns how many were refused."""
    num_refused = 0
    with contextlib.closing(server.connect()) as connection:
        for data, fields in requests:
            started = time.monotonic()
            connection.request("POST", "/v1/completions", data, {"content-type": "application/json"})
            answer = server.answer(connection)
            assert time.monotonic() - started < SLOWEST, data[:300]
            assert answer.status in (200, 400, 404), (data[:300], answer)
            assert len(answer.body) < 5000
            if answer.status != 200:
                num_refused += 1
                param = answer.error["param"]
                assert fields is None or param in fields, (data[:300], answer.body)
    return num_refused


def test_every_field_with_every_odd_value(server):
    """Refused under the field's own name, or served where the value is right after all (-0.0, null, 1e2)."""
    requests = list(single_fields())
    assert drive(server, requests) > len(requests) / 2


def test_token_ids_that_do_not_exist(server):
    """In prompt, bias, stop ids, bans: 400 with the field, never a row of a neighbour."""
    requests = list(token_ids())
    assert drive(server, requests) == len(requests)


def test_several_things_wrong_at_once(server):
    """Pairs of odd fields, and bodies that are cut or damaged."""
    drive(server, pairs(300))
    drive(server, truncated(200))
    assert server.complete(max_tokens=1).status == 200


@pytest.mark.slow
def test_ten_thousand(server):
    """The whole: more than 10,000 distinct requests."""
    requests = [*single_fields(), *token_ids(), *pairs(9000), *truncated(4000)]
    assert len({data for data, _ in requests}) > 10_000
    drive(server, requests)
    assert server.request("GET", "/health").status == 200
