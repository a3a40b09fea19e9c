"""Files that LLM reads beside the weights: tokenizers, fill-in-the-middle formats, generation_config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from decoding import LLM, SamplingParams
from decoding.cli import main
from decoding.errors import CheckpointError, ContextLengthError, ParameterError, PromptError, TokenizerError
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, fixed_reply
from decoding.text.tokenizer import Tokenizer
from decoding.text.tokenizer_config import TokenizerConfig

MARKERS = ["<pre>", "<suf>", "<mid>", "<pad>"]
TEMPLATE = "<suf>{suffix}<pre>{prefix}<mid>"


def _scripted(reply: list[int], prompt_length: int, fim_template: str | None = None) -> LLM:
    """Return an LLM of bytes 0 to 255 and the markers from 256 on, which always generates `reply`."""
    model = ScriptedModel(fixed_reply(reply, prompt_length), 260)
    return LLM.from_parts(model, byte_tokenizer(special=MARKERS), fim_template=fim_template)


def test_a_prompt_follows_the_fim_template() -> None:
    """The prompt follows fim_template, and the text ends before any marker of it."""
    llm = _scripted([*b"xy", 256, *b"z"], prompt_length=6, fim_template=TEMPLATE)
    result = llm.complete("a", SamplingParams(suffix="bc", temperature=0.0, echo=True))
    assert result.prompt_token_ids == [257, *b"bc", 256, *b"a", 258]
    assert (result.choices[0].text, result.choices[0].finish_reason) == ("axy", "stop")


def test_without_markers_the_error_names_the_template() -> None:
    """A suffix without known markers raises a PromptError that names fim_template; a wrong template fails at once."""
    llm = _scripted([65], prompt_length=1)
    with pytest.raises(PromptError, match=r"suffix='x'.*no fill-in-the-middle tokens.*fim_template"):
        llm.complete("a", SamplingParams(suffix="x"))
    with pytest.raises(ParameterError, match="fim_template"):
        _scripted([65], prompt_length=1, fim_template="<PRE>{prefix}{suffix}")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        LLM.from_parts(ScriptedModel(fixed_reply([0], 1), 3), fim_template=TEMPLATE)


def _copy_of_stories(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared / "models" / "stories260K", tmp_path / "model"))


@pytest.mark.parametrize(("prompt", "suffix"), [("", ""), ("One", ""), ("", "."), ("One", ".")])
def test_a_middle_keeps_its_leading_space(shared: Path, prompt: str, suffix: str) -> None:
    """A generated middle keeps its leading space with a SentencePiece tokenizer, also without prefix and suffix."""
    raw = json.loads((shared / "models/stories260K/tokenizer.json").read_text())
    for index, name in enumerate(("▁<PRE>", "▁<SUF>", "▁<MID>")):
        raw["added_tokens"].append({**raw["added_tokens"][0], "id": 512 + index, "content": name, "special": True})
    tokenizer = Tokenizer(json.dumps(raw).encode(), TokenizerConfig({"bos_token": "<s>"}))
    middle = tokenizer.encode("day", add_special_tokens=False)
    probe = LLM.from_parts(ScriptedModel(fixed_reply(middle, 0), 515), tokenizer)
    length = len(probe.complete(prompt, SamplingParams(suffix=suffix, max_tokens=0)).prompt_token_ids)
    llm = LLM.from_parts(ScriptedModel(fixed_reply(middle, length), 515), tokenizer)
    params = SamplingParams(suffix=suffix, temperature=0.0, max_tokens=len(middle))
    assert llm.complete(prompt, params).choices[0].text == " day"
    assert "".join(delta.text for delta in llm.stream(prompt, params)) == " day"


def test_a_prompt_that_cannot_fit_is_not_tokenised(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt far longer than the context raises a ContextLengthError without being tokenised."""
    llm = LLM(shared / "models" / "stories260K")
    monkeypatch.setattr(llm.tokenizer, "_library", None)
    with pytest.raises(ContextLengthError, match=r"at least .* tokens: must fit the model's context of 512 tokens"):
        llm.complete("once " * 2_000_000)


def test_generation_defaults_are_not_applied(shared: Path, tmp_path: Path) -> None:
    """The values of generation_config.json are readable as generation_defaults, and are not applied."""
    folder = _copy_of_stories(shared, tmp_path)
    plain = LLM(folder).complete("Once", SamplingParams(seed=1)).choices[0].token_ids
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.01, "eos_token_id": [2, 3]}')
    llm = LLM(folder)
    assert llm.generation_defaults == {"temperature": 0.01}
    assert llm.complete("Once", SamplingParams(seed=1)).choices[0].token_ids == plain
    (folder / "generation_config.json").write_text('{"temperature": -3}')
    with pytest.raises(CheckpointError, match=r"generation_config\.json: recommends temperature=-3"):
        _ = LLM(folder).generation_defaults
    assert LLM.from_parts(ScriptedModel(fixed_reply([0], 1), 3)).generation_defaults == {}


def test_add_bos_token_overrides_the_post_processor(shared: Path, tmp_path: Path) -> None:
    """add_bos_token in tokenizer_config.json overrides the post-processor, and changes the fingerprint."""
    folder = _copy_of_stories(shared, tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    with_bos = LLM(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": False}))
    without = LLM(folder)
    params = SamplingParams(max_tokens=0)
    ids = [llm.complete("Once upon", params).prompt_token_ids for llm in (with_bos, without)]
    assert ids[0] == [1, *ids[1]]
    assert with_bos.system_fingerprint != without.system_fingerprint


def test_the_command_line_without_a_tokenizer(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a tokenizer the command prints one line on stderr that names the missing file."""
    folder = _copy_of_stories(shared, tmp_path)
    (folder / "tokenizer.json").unlink()
    assert main(["complete", "Once", "--model", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "prompt='Once': this model has no tokenizer: without a tokenizer.json in its folder" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_sizes_may_be_numpy_integers(shared: Path) -> None:
    """max_num_seqs may be a numpy integer, but not a float or a bool."""
    llm = LLM(shared / "models" / "stories260K", max_num_seqs=np.int64(2))
    assert len(llm.complete(["a", "b", "c"], SamplingParams(max_tokens=1))) == 3
    for refused in (np.int64(0), np.float64(2), np.bool_(True), True):
        with pytest.raises(ParameterError, match="max_num_seqs"):
            LLM(max_num_seqs=refused)
