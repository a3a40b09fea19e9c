"""Explanations as HTML: in a notebook, and as the page of `decoding explain --html`."""

import numpy as np
import pytest

from decoding import Sampler, SamplingParams, SamplingState, cli, llm
from decoding.cli import explanation_page
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """LLM(path) is a scripted model."""

    def make(path=None):
        tokenizer = byte_tokenizer(special=["<eos>"])
        return real.from_parts(ScriptedModel(hashed_logits(), 257, eos_token_ids=(256,)), tokenizer, name=str(path))

    real = llm.LLM
    monkeypatch.setattr(llm, "LLM", make)


def explain(*arguments):
    """Run `decoding explain`; return the exit code."""
    return cli.main(["explain", "<b>prompt", "--seed=1", *arguments])


def test_a_row_per_stage(read_html):
    """The table has the stages of the text table, and the token that was drawn."""
    state = SamplingState(SamplingParams(top_k=3, temperature=0.5, seed=2))
    explanation = Sampler(8).explain(np.arange(8, dtype=np.float32), state)
    source = explanation._repr_html_()
    read = read_html(source)
    assert read.names.count("tr") == 1 + len(explanation.steps)
    assert all(f">{step.title}</td>" in source for step in explanation.steps)
    probability = explanation.probabilities[explanation.token_id]
    assert f"{explanation.token_id} {probability:.4f}" in source.split("drawn:")[1]


def test_a_row_that_fails(read_html):
    """The error is in the place of the token."""
    params = SamplingParams(allowed_token_ids=[1], banned_token_ids=[1])
    explanation = Sampler(8).explain(np.zeros(8, np.float32), SamplingState(params))
    source = explanation._repr_html_()
    read_html(source)
    assert "fails: " in source
    assert "no token is left" in source


def test_the_page_has_what_is_printed(read_html, tmp_path, capsys):
    """A table per token, the prompt as text, the reasons of --why-not; stdout has the tables of text as before."""
    path = tmp_path / "page.html"
    arguments = ("--max-tokens=3", "--banned-token-ids=65", "--why-not=65", "--top=2")
    assert explain(*arguments, f"--html={path}") == 0
    out = capsys.readouterr().out
    assert explain(*arguments) == 0
    assert capsys.readouterr().out == out
    page = path.read_text()
    read = read_html(page)
    assert read.text == "<b>prompt"
    assert read.names.count("table") == 3
    assert page.count("65 &#x27;A&#x27;: banned by banned_token_ids") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_script_in_a_token_is_text(read_html, tmp_path):
    """Tokens are written in quotes, and their characters make no element."""
    path = tmp_path / "page.html"
    assert explain("--max-tokens=6", "--allowed-token-ids=60,62,34,39,38", f"--html={path}") == 0
    read = read_html(path.read_text())
    assert set(read.names) <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "pre", "p", "small", "span", "div"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }


def test_an_error_comes_after_the_page(read_html, tmp_path, capsys):
    """A row that fails is on the page, and the exit code is that of the error."""
    path = tmp_path / "page.html"
    assert explain("--allowed-token-ids=65", "--banned-token-ids=65", f"--html={path}") == 2
    assert "no token is left" in capsys.readouterr().err
    page = path.read_text()
    read_html(page)
    assert "fails: " in page


def test_a_long_page_says_what_it_leaves_out(read_html, tmp_path, capsys, monkeypatch):
    """Tokens beyond the limit are counted on the page and on stderr."""
    monkeypatch.setattr(explanation_page, "MAX_TOKENS", 2)
    path = tmp_path / "page.html"
    assert explain("--max-tokens=5", "--ignore-eos", f"--html={path}") == 0
    line = "3 more tokens are not on this page, which shows 2"
    assert line in capsys.readouterr().err
    page = path.read_text()
    assert line in page
    assert read_html(page).names.count("table") == 2


def test_a_page_that_cannot_be_written(tmp_path, capsys):
    """A folder that is not there is one line, exit code 2."""
    assert explain("--max-tokens=1", f"--html={tmp_path / 'missing' / 'page.html'}") == 2
    assert capsys.readouterr().err.startswith("decoding: error: cannot read or write: ")
