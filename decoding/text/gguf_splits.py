r"""The regular expressions that split a text into words for byte-level BPE, by the name in `tokenizer.ggml.pre`.

A pre-tokenizer is a list of regular expressions. Each splits the pieces of those before it: every match becomes a
piece, and so does the text between two matches. The names and expressions are llama.cpp's (llama-vocab.cpp);
where its expression differs from the one in a model's tokenizer.json (capital letters beyond ASCII in tekken and
gpt-4o), the ids that follow are llama.cpp's, too.
"""

from __future__ import annotations

from typing import NamedTuple

from decoding.errors import TokenizerError, shown


class PreTokenizer(NamedTuple):
    """The rules of one name.

    patterns: regular expressions in Oniguruma's dialect.
    ignore_merges: True if a word that is a token as a whole becomes that token, regardless of the merges.
    add_bos: True if a text begins with the start token, unless the metadata decide.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


# Parts of expressions

_BLANKS = r"\s+(?!\S)|\s+"  # the last blank before a word stays with the word
_LINES = r"\s*[\r\n]+"
_MARKS = r" ?[^\s\p{L}\p{N}]+"
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_ANY_CASE = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"

_DEEPSEEK_LETTERS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1"
    " 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77"
    " 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE"
    " 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124"
    " 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3"
    " A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A"
    " 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
"""Code points of the cased letters that DeepSeek LLM's tokenizer.json lists, in hexadecimal."""

_DEEPSEEK_MARKS = "21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3001-3002"
_DEEPSEEK_ASIAN = "4E00-9FA5 800-4E00 AC00-D7FF"
_HAN_AND_KANA = "4E00-9FA5 3040-309F 30A0-30FF"


def _one_of(code_points: str) -> str:
    """Return a class of the code points and ranges of them, given in hexadecimal."""
    ranges = ("-".join(rf"\x{{{point}}}" for point in part.split("-")) for part in code_points.split())
    return f"[{''.join(ranges)}]"


# Whole pre-tokenizers

_GPT2 = "|".join([_CONTRACTIONS, r" ?\p{L}+", r" ?\p{N}+", _MARKS, _BLANKS])
_LLAMA3 = "|".join([_ANY_CASE, _WORD, r"\p{N}{1,3}", _MARKS + r"[\r\n]*", _LINES, _BLANKS])
_QWEN2 = "|".join([_ANY_CASE, _WORD, r"\p{N}", _MARKS + r"[\r\n]*", _LINES, _BLANKS])
_QWEN35 = "|".join(
    [
        _ANY_CASE,
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        _LINES,
        _BLANKS,
    ]
)
_CASE_CHANGES = (
    r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
    r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*",
)
_TEKKEN = "|".join([*_CASE_CHANGES, r"\p{N}", _MARKS + r"[\r\n/]*", _LINES, _BLANKS])
_GPT4O = "|".join(
    [
        *(f"{words}(?:{_ANY_CASE})?" for words in _CASE_CHANGES),
        r"\p{N}{1,3}",
        _MARKS + r"[\r\n/]*",
        _LINES,
        _BLANKS,
    ]
)
_DEEPSEEK3 = "|".join(
    [
        r"[!-/:-@\[-`{-~][A-Za-z]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        _LINES,
        _BLANKS,
    ]
)
_SEED_CODER = "|".join([_ANY_CASE, _WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}\r\n]+", _LINES, _BLANKS])
_BAILING = "|".join(
    [
        "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
        _WORD,
        r"\p{N}",
        _MARKS + r"[\r\n]*",
        r"\s*[\r\n]",
        _BLANKS,
    ]
)
_BLOOM = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+"


def _family(names: str, *patterns: str, ignore_merges: bool = False, add_bos: bool = False) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), PreTokenizer(patterns, ignore_merges, add_bos))


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **_family("default", r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9]{3}"),
    **_family("gpt-2 phi-2 olmo mpt jais trillion mellum gigachat exaone4 a.x-4.0 granite-docling", _GPT2),
    **_family("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", r"\p{N}", _GPT2),
    **_family("falcon", r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9]{3}"),
    **_family(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 midm-2.0", _LLAMA3, ignore_merges=True, add_bos=True
    ),
    **_family("dbrx smaug-bpe chatglm-bpe", _LLAMA3),
    **_family("glm4", _LLAMA3, ignore_merges=True),
    **_family("qwen2 stablelm2 megrez deepseek-r1-qwen hunyuan grok-2 solar-open kormo", _QWEN2),
    **_family("qwen35", _QWEN35),
    **_family("tekken", _TEKKEN, ignore_merges=True, add_bos=True),
    **_family("gpt-4o llama4 kanana2 minimax-m2", _GPT4O),
    **_family(
        "deepseek-llm",
        r"[\r\n]",
        rf"\s?{_one_of(_DEEPSEEK_LETTERS)}+",
        rf"\s?{_one_of(_DEEPSEEK_MARKS)}+",
        r"\s+\z",
        f"{_one_of(_DEEPSEEK_ASIAN)}+",
        r"\p{N}+",
    ),
    **_family("deepseek-coder", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", f"{_one_of(_DEEPSEEK_ASIAN)}+", r"\p{N}"),
    **_family("deepseek-v3 hunyuan-dense", r"\p{N}{1,3}", f"{_one_of(_HAN_AND_KANA)}+", _DEEPSEEK3),
    **_family("seed-coder", _SEED_CODER),
    **_family("bailingmoe bailingmoe2", _BAILING),
    **_family("poro-chat bloom gpt3-finnish", _BLOOM),
    **_family("viking", _BLOOM, r"\p{N}"),
}


def pre_tokenizer(name: object) -> PreTokenizer:
    """Return the rules called `name`; TokenizerError, listing the known names, if there are none."""
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise TokenizerError(f"tokenizer.ggml.pre={shown(name)}: must be one of {known}")
    return PRE_TOKENIZERS[name]
