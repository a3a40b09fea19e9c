"""`decoding explain`, around a scripted model."""

import pytest

from decoding import cli, llm
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """LLM(path) is a scripted model; a path of "ids" has no tokenizer."""

    def make(path=None):
        tokenizer = None if path == "ids" else byte_tokenizer(special=["<eos>"])
        return real.from_parts(ScriptedModel(hashed_logits(), 257, eos_token_ids=(256,)), tokenizer, name=str(path))

    real = llm.LLM
    monkeypatch.setattr(llm, "LLM", make)
    return make


@pytest.fixture
def run(capsys):
    """Run `decoding explain ...`; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main(["explain", *arguments])
        return code, *capsys.readouterr()

    return call


def sections(out):
    """The lines of each token's table."""
    return [section.splitlines() for section in out.split("--- token ")[1:]]


def test_a_table_for_each_token(run, scripted):
    """The tokens are those that `complete` draws, and each has its stages above it."""
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
    """As --help says."""
    _, out, _ = run("ab", "--ignore-eos", "--seed=1")
    assert len(sections(out)) == 8


def test_why_not(run):
    """--why-not names tokens; each gets its reason, or is said to be possible."""
    _, out, _ = run(
        "ab", "--max-tokens=1", "--seed=0", "--banned-token-ids=65", "--allowed-token-ids=65,66", "--why-not=65,66,67"
    )
    assert out.splitlines()[-3:] == [
        "65 'A': banned by banned_token_ids",
        "66 'B': could be drawn",
        "67 'C': banned by allowed_token_ids",
    ]


def test_how_many_are_shown(run):
    """--top."""
    _, out, _ = run("ab", "--max-tokens=1", "--seed=0", "--top=2", "--allowed-token-ids=97,98,99")
    assert out.splitlines()[-2].count("'") == 4


def test_ids_without_a_tokenizer(run):
    """A model without a tokenizer takes no text."""
    code, _, err = run("ab", "--model=ids")
    assert code == 2
    assert "tokenizer" in err


def test_a_stop_string_ends_it(run, scripted):
    """Stopping works as in `complete`: every sampled token has its table, also those that are held back."""
    params = SamplingParams(seed=5, allowed_token_ids=[97, 98], max_tokens=30, stop="ab")
    result = scripted().complete("x", params)
    _, out, _ = run("x", "--seed=5", "--allowed-token-ids=97,98", "--max-tokens=30", "--stop=ab")
    assert len(sections(out)) == result.usage.completion_tokens


@pytest.mark.parametrize("flag", ["--n=2", "--best-of=2"])
def test_one_text_is_explained(run, flag):
    """Several candidates would be several tables a step."""
    code, _, err = run("ab", flag)
    assert code == 2
    assert "must be 1" in err


def test_a_row_that_fails(run):
    """What there is to see is shown, then the error."""
    code, out, err = run("ab", "--allowed-token-ids=65", "--banned-token-ids=65", "--why-not=65")
    assert code == 2
    assert "fails: logits[0]: no token is left" in out
    assert out.splitlines()[-1] == "65 'A': banned by banned_token_ids"
    assert err.startswith("decoding: error: logits[0]: no token is left")
