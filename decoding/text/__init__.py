"""From text to token ids and back: tokenizers, incremental detokenising, stop strings."""

from decoding.text.detokenizer import Detokenizer, Utf8Decoder
from decoding.text.stop_strings import StopAutomaton, StopMatch, StopMatcher
from decoding.text.tokenizer import Tokenizer

__all__ = ["Detokenizer", "StopAutomaton", "StopMatch", "StopMatcher", "Tokenizer", "Utf8Decoder"]
