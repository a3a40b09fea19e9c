"""Work on texts is bounded; the tests count it instead of timing it."""

from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library

from decoding.llm import LLM
from decoding.model_loading import bundled_model_folder
from decoding.params import SamplingParams
from decoding.testing.scripted import ScriptedModel, byte_tokenizer, hashed_logits
from decoding.text.tokenizer import Tokenizer

TEXTS = ("def f(a, b):\n    return a + b\n" * 200, "Ünïcode — 日本語 🙂 \ufffd\n\n  " * 300, "x" * 5000, " " * 4000)


class Counting:
    """The library's tokenizer with a counter of calls per method."""

    def __init__(self, library):
        self.library, self.calls = library, Counter()

    def __getattr__(self, name):
        self.calls[name] += 1
        return getattr(self.library, name)


def counted_llm():
    """Return a model of bytes and the counter of its tokenizer."""
    tokenizer = byte_tokenizer([b"ab", b"a\n"], ["<eos>"])
    tokenizer.encode("x", False, at_start=False)  # detects leading spaces, once
    tokenizer._library = Counting(tokenizer._library)
    return LLM.from_parts(ScriptedModel(hashed_logits(), tokenizer.vocab_size), tokenizer), tokenizer._library.calls


def test_texts_in_parameters_are_tokenised_once_for_all_prompts():
    """Texts in parameters are tokenised once for all prompts: 50 prompts + 40 breakers + 2 * 20 words."""
    llm, calls = counted_llm()
    params = SamplingParams(
        dry_sequence_breakers=[f"{i:02d}" for i in range(40)], bad_words=[f"w{i:02d}" for i in range(20)]
    )
    calls.clear()
    requests, _ = llm.engine.requests(["ab"] * 50, params)
    assert calls["encode"] == 50 + 40 + 2 * 20
    assert len({id(request.sampling.dry_sequence_breakers) for request in requests}) == 1


def test_breakers_read_the_vocabulary_once():
    """The first sequence breaker reads the bytes of all tokens; 100 later breakers do not."""
    llm, calls = counted_llm()
    llm.engine.requests("a", SamplingParams(dry_sequence_breakers=["0"]))
    assert calls["id_to_token"] >= llm.vocab_size
    calls.clear()
    for i in range(100):
        llm.engine.requests("a", SamplingParams(dry_sequence_breakers=[f"{i}"]))
    assert calls["id_to_token"] < llm.vocab_size


def test_abandoned_work_ends_between_two_texts():
    """An exception of `check` stops tokenising before the next text."""

    def check():
        if calls["encode"] == 3:
            raise InterruptedError

    llm, calls = counted_llm()
    for prompt, params in ((["ab"] * 50, None), ("ab", SamplingParams(dry_sequence_breakers=list("0123456789")))):
        calls.clear()
        with pytest.raises(InterruptedError):
            llm.engine.requests(prompt, params, check=check)
        assert calls["encode"] == 3


def test_long_texts_are_tokenised_without_the_gil():
    """Texts of 2,048 or more characters use encode_batch_fast, which releases the GIL."""
    llm, calls = counted_llm()
    llm.tokenizer.encode("x" * 2047)
    assert (calls["encode"], calls["encode_batch_fast"]) == (1, 0)
    llm.tokenizer.encode("x" * 2048)
    assert (calls["encode"], calls["encode_batch_fast"]) == (1, 1)


def tokenizer_folders(shared):
    """Return the folders of the bundled tokenizer and of other projects' tokenizers."""
    return [bundled_model_folder(), *sorted(path.parent for path in Path(shared).glob("*/*/tokenizer.json"))]


def test_both_encode_methods_give_the_same_ids(shared):
    """The methods encode_batch_fast and encode give the same ids, with and without special tokens."""
    for folder in tokenizer_folders(shared):
        library = Library.from_file(str(folder / "tokenizer.json"))
        library.no_truncation()
        library.no_padding()
        for text in TEXTS:
            for special in (False, True):
                (fast,) = library.encode_batch_fast([text], add_special_tokens=special)
                assert fast.ids == library.encode(text, add_special_tokens=special).ids, folder


def resident_mib():
    """Return the resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_texts_leave_nothing_in_the_tokenizer(shared):
    """Tokenising 5,000 texts grows memory by less than 10 MiB; the library's cache would grow by 25 MiB."""
    tokenizer = Tokenizer.from_folder(f"{shared}/models/stories260K")
    words = list(map("word{}".format, range(19)))
    before = resident_mib()
    for i in range(5000):
        tokenizer.encode(" ".join(words[(i * k) % len(words)] for k in range(1, 24)) + str(i))
    assert resident_mib() - before < 10
