"""Tests of `decoding explain` with a scripted model."""

import pytest

from decoding import cli, llm
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """Replace LLM(path) by a scripted model, without a tokenizer if the path is "ids"."""

    def make(path=None):
        tokenizer = None if path == "ids" else byte_tokenizer(special=["<eos>"])
        return real.from_parts(ScriptedModel(hashed_logits(), 257, eos_token_ids=(256,)), tokenizer, name=str(path))

    real = llm.LLM
    monkeypatch.setattr(llm, "LLM", make)
    return make


@pytest.fixture
def run(capsys):
    """Return a function that runs `decoding explain` and returns (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main(["explain", *arguments])
        return code, *capsys.readouterr()

    return call


def sections(out):
    """Return the lines of each token's table."""
    return [section.splitlines() for section in out.split("--- token ")[1:]]


def test_a_table_for_each_token(run, scripted):
    """Each token that `complete` draws has a table of its stages."""
    code, out, err = run("ab", "--seed=3", "--top-k=20", "--top-p=.9", "--temperature=.7", "--max-tokens=4")
    params = SamplingParams(seed=3, top_k=20, top_p=0.9, temperature=0.7, max_tokens=4)
    choice = scripted().complete("ab", params).choices[0]
    assert (code, err) == (0, "")
    found = sections(out)
    assert [lines[0] for lines in found] == [f"{number} ---" for number in range(1, 5)]
    for lines, token_id in zip(found, choice.token_ids, strict=True):
        assert [line.split()[0] for line in lines[1:-1]] == [
            "stage",
            "logits",
            "temperature=0.7",
            "top_k=20",
            "top_p=0.9",
        ]
        text = bytes((token_id,)).decode("latin-1") if token_id < 128 else f"bytes:\\x{token_id:02x}"
        assert lines[-1].startswith(f"drawn: {text!r} ")


def test_eight_tokens_by_default(run):
    """By default eight tokens are explained."""
    _, out, _ = run("ab", "--ignore-eos", "--seed=1")
    assert len(sections(out)) == 8


def test_why_not(run):
    """--why-not prints for each token the reason why it cannot be drawn, or that it can."""
    _, out, _ = run(
        "ab", "--max-tokens=1", "--seed=0", "--banned-token-ids=65", "--allowed-token-ids=65,66", "--why-not=65,66,67"
    )
    assert out.splitlines()[-3:] == [
        "65 'A': banned by banned_token_ids",
        "66 'B': could be drawn",
        "67 'C': banned by allowed_token_ids",
    ]


def test_number_of_shown_tokens(run):
    """--top sets the number of tokens shown per stage."""
    _, out, _ = run("ab", "--max-tokens=1", "--seed=0", "--top=2", "--allowed-token-ids=97,98,99")
    assert out.splitlines()[-2].count("'") == 4


def test_ids_without_a_tokenizer(run):
    """A text prompt for a model without a tokenizer is an error."""
    code, _, err = run("ab", "--model=ids")
    assert code == 2
    assert "tokenizer" in err


def test_a_stop_string_ends_the_text(run, scripted):
    """A stop string ends the text as in `complete`, and every sampled token has a table."""
    params = SamplingParams(seed=5, allowed_token_ids=[97, 98], max_tokens=30, stop="ab")
    result = scripted().complete("x", params)
    _, out, _ = run("x", "--seed=5", "--allowed-token-ids=97,98", "--max-tokens=30", "--stop=ab")
    assert len(sections(out)) == result.usage.completion_tokens


@pytest.mark.parametrize("flag", ["--n=2", "--best-of=2"])
def test_one_text_is_explained(run, flag):
    """--n and --best-of above 1 are refused."""
    code, _, err = run("ab", flag)
    assert code == 2
    assert "must be 1" in err


def test_a_row_that_fails(run):
    """A failing row is explained up to its error, which is then printed on stderr."""
    code, out, err = run("ab", "--allowed-token-ids=65", "--banned-token-ids=65", "--why-not=65")
    assert code == 2
    assert "fails: logits[0]: no token is left" in out
    assert out.splitlines()[-1] == "65 'A': banned by banned_token_ids"
    assert err.startswith("decoding: error: logits[0]: no token is left")
