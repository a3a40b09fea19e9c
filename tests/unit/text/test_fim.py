"""Fill-in-the-middle prompts from the tokenizer's own markers."""

import pytest

from decoding.errors import PromptError
from decoding.testing.scripted import byte_tokenizer
from decoding.text.fim import CONVENTIONS, fim_prompt


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda convention: convention.prefix)
def test_prefix_suffix_middle(convention):
    """Every known convention gives prefix, suffix and the request for the middle, in this order."""
    names = [text for text in convention if text]
    prompt = fim_prompt(byte_tokenizer(special=names), "ab", "c")
    assert prompt.token_ids == [256, 97, 98, 257, 99, 258]
    assert prompt.token_ids[prompt.prefix] == [97, 98]
    assert prompt.end_token_ids == ((259,) if convention.end else ())


def test_token_ids_are_taken_as_they_are():
    """A prefix of token ids goes between the markers unchanged."""
    tokenizer = byte_tokenizer(special=CONVENTIONS[0][:3])
    prompt = fim_prompt(tokenizer, [7, 8], "")
    assert prompt.token_ids == [256, 7, 8, 257, 258]
    assert prompt.token_ids[prompt.prefix] == [7, 8]


def test_a_start_token_comes_before_the_markers(shared):
    """Where the tokenizer puts a start token before every text, the prompt keeps it, once, in front."""
    from decoding.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(shared / "models" / "stories260K")
    tokenizer.token_to_id = {"<fim_prefix>": 10, "<fim_suffix>": 11, "<fim_middle>": 12}.get
    ids, prefix, _ = fim_prompt(tokenizer, "Once", "end")
    assert ids[:2] == [1, 10]
    assert ids.count(1) == 1
    assert ids[prefix] == tokenizer.encode("Once", add_special_tokens=False)


def test_without_markers():
    """A tokenizer with no (or not all) markers is a PromptError that names the suffix."""
    for special in ([], ["<fim_prefix>", "<fim_suffix>"]):
        with pytest.raises(PromptError, match=r"suffix='x'.*no fill-in-the-middle tokens"):
            fim_prompt(byte_tokenizer(special=special), "a", "x")
