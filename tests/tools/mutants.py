"""Hand-made mutants of the C sources: each is one slip that a programmer makes, and the tests must notice it.

    python tests/tools/mutants.py               # how many there are
    python tests/tools/mutants.py 3 CSRC        # plant the third one in the sources in the folder CSRC, and name it

tests/tools/mutants.sh builds them one by one and runs the tests against each.
"""

import sys
from pathlib import Path

MUTANTS = (
    ("draw.c", "block * DK_BLOCK + i)", "block * DK_BLOCK + (i > 0 ? i - 1 : 0))", "the search ends one token early"),
    ("draw.c", "if (ends[middle] > target)", "if (ends[middle] / 2 > target)", "blocks by half of their mass"),
    ("draw.c", "DK_DRAW_SAMPLING, attempt, words);", "DK_DRAW_SAMPLING, attempt + 1, words);", "begins with attempt 1"),
    ("draw.c", "below(largest, words[2]) <", "below(largest, words[2]) / 2 <", "accepts twice as often"),
    ("draw.c", "words[2]) < weight_at(d, place)", "words[1]) < weight_at(d, place)", "one word for place and coin"),
    (
        "edits.c",
        "? edits[i].value / r : edits[i].value * r",
        "? edits[i].value / r : edits[i].value / r",
        "divides all",
    ),
    ("edits.c", "if (counts[i] > 0)", "if (counts[i] >= 0)", "presence penalty for tokens of the prompt"),
    ("edits.c", "penalty = penalty + row->presence_penalty;", "penalty = penalty * 1.0f;", "no presence penalty"),
    ("edits.c", "(float)counts[i] * row->frequency_penalty", "row->frequency_penalty", "frequency without the count"),
    ("edits.c", "edit->value + row->bias_values[i]", "edit->raw + row->bias_values[i]", "a bias undoes penalties"),
    (
        "masks.c",
        "id = batch->num_valid_tokens; id <",
        "id = batch->num_valid_tokens + 1; id <",
        "one padding id is drawn",
    ),
    ("masks.c", "? 0 : 0xFF", "? 0 : 0x7F", "every eighth token is banned"),
    ("repetition.c", "row->no_repeat_ngram_size - 1)", "row->no_repeat_ngram_size)", "n-grams one longer"),
    ("repetition.c", "word, length - 1))", "word, length))", "a bad word must have come already"),
    ("repetition.c", "match < row->dry_allowed_length", "match <= row->dry_allowed_length", "DRY one token later"),
    ("truncate.c", "d->row->top_k >= d->view", "d->row->top_k >= 50 || d->row->top_k >= d->view", "top_k of 50 is off"),
    ("truncate.c", "by_entropy < eta ? by_entropy : eta", "by_entropy < eta ? eta : by_entropy", "eta's larger bound"),
    (
        "truncate.c",
        "dk_log((double)d->row->top_a) - dk_log_total(d)",
        "dk_log((double)d->row->top_a)",
        "top_a not squared",
    ),
    ("truncate.c", "#define CUT (-40.0 * DK_LN2)", "#define CUT (-20.0 * DK_LN2)", "the cut comes early"),
    ("truncate.c", "/ d->temperature;\n}", ";\n}", "log-probabilities forget the temperature"),
    (
        "mass.c",
        "ceil((double)top_p * (double)total)",
        "ceil((double)top_p * (double)total) + 1.0",
        "an exact prefix is not enough",
    ),
    ("mass.c", "(threshold.missing + each - 1) / each", "threshold.missing / each", "the token that crosses p is lost"),
    ("select.c", "if (count_from(view, middle) >= k)", "if (count_from(view, middle) > k)", "the k-th is missed"),
    ("survivors.c", "(double)row->xtc_probability * 0x1p64", "(double)row->xtc_probability * 0x1p63", "half the coins"),
    ("survivors.c", "list->values[i] <= last.value", "list->values[i] < last.value", "XTC keeps the first of ties"),
    ("shape.c", "(3.0 - curve) / 2.0", "(3.0 + curve) / 2.0", "another curve of smoothing"),
    ("shape.c", "sqrt(about_mean.second", "(about_mean.second", "variance for deviation"),
    ("report.c", "ids[a] > ids[b]", "ids[a] < ids[b]", "of ties in the top-N the higher id first"),
    ("report.c", "{value, token_id - 1}", "{value, token_id}", "ranks begin at two"),
    ("philox.h", "round < 10", "round < 9", "nine rounds of Philox"),
    ("philox.h", "c2 = p0.high ^ c3 ^ k1", "c2 = p0.high ^ c3 ^ k0", "one key word twice"),
)
"""(file, what stands there, what stands there instead, what it does)."""


def main(number=None, folder=None):
    """Print how many there are, or plant one."""
    if number is None:
        print(len(MUTANTS))
        return
    name, old, new, effect = MUTANTS[int(number) - 1]
    path = Path(folder) / name
    source = path.read_text()
    if source.count(old) != 1:
        sys.exit(f"{name}: {old!r} stands there {source.count(old)} times, not once")
    path.write_text(source.replace(old, new))
    print(f"{name}: {effect}")


if __name__ == "__main__":
    main(*sys.argv[1:])
