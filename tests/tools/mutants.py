"""Mutants of the C sources: each is a typical mistake that the tests must find.

    python tests/tools/mutants.py               # print the number of mutants
    python tests/tools/mutants.py 3 CSRC        # plant the third mutant in the sources in the folder CSRC

The script tests/tools/mutants.sh builds them one by one and runs the tests against each.
"""

import sys
from pathlib import Path

MUTANTS = (
    (
        "sampling/draw.c",
        "block * DK_BLOCK + i)",
        "block * DK_BLOCK + (i > 0 ? i - 1 : 0))",
        "the search ends one token early",
    ),
    ("sampling/draw.c", "if (sums[middle] > target)", "if (sums[middle] / 2 > target)", "blocks by half of their mass"),
    (
        "sampling/draw.c",
        "DK_DRAW_SAMPLING, attempt, words);",
        "DK_DRAW_SAMPLING, attempt + 1, words);",
        "begins with attempt 1",
    ),
    ("sampling/draw.c", "below(largest, words[2]) <", "below(largest, words[2]) / 2 <", "accepts twice as often"),
    (
        "sampling/draw.c",
        "words[2]) < weight_at(d, index)",
        "words[1]) < weight_at(d, index)",
        "one word for index and acceptance",
    ),
    (
        "sampling/penalties.c",
        "? items[i].value / r : items[i].value * r",
        "? items[i].value / r : items[i].value / r",
        "divides all",
    ),
    ("sampling/penalties.c", "if (counts[i] > 0)", "if (counts[i] >= 0)", "presence penalty for tokens of the prompt"),
    (
        "sampling/penalties.c",
        "penalty = penalty + row->presence_penalty;",
        "penalty = penalty * 1.0f;",
        "no presence penalty",
    ),
    (
        "sampling/penalties.c",
        "(float)counts[i] * row->frequency_penalty",
        "row->frequency_penalty",
        "frequency without the count",
    ),
    (
        "sampling/penalties.c",
        "edit->value + row->bias_values[i]",
        "edit->raw + row->bias_values[i]",
        "a bias undoes penalties",
    ),
    (
        "sampling/token_mask.c",
        "id = batch->num_valid_tokens; id <",
        "id = batch->num_valid_tokens + 1; id <",
        "one padding id is drawn",
    ),
    ("sampling/token_mask.c", "? 0 : 0xFF", "? 0 : 0x7F", "every eighth token is banned"),
    ("sampling/repetition.c", "row->no_repeat_ngram_size - 1)", "row->no_repeat_ngram_size)", "n-grams one longer"),
    ("sampling/repetition.c", "word, length - 1))", "word, length))", "a bad word must have come already"),
    (
        "sampling/repetition.c",
        "match < row->dry_allowed_length",
        "match <= row->dry_allowed_length",
        "DRY one token later",
    ),
    (
        "sampling/truncation.c",
        "d->row->top_k >= d->view",
        "d->row->top_k >= 50 || d->row->top_k >= d->view",
        "top_k of 50 is off",
    ),
    (
        "sampling/truncation.c",
        "by_entropy < eta ? by_entropy : eta",
        "by_entropy < eta ? eta : by_entropy",
        "eta's larger bound",
    ),
    (
        "sampling/truncation.c",
        "dk_log((double)d->row->top_a) - dk_log_total(d)",
        "dk_log((double)d->row->top_a)",
        "top_a not squared",
    ),
    ("sampling/shape.c", "mass += weight;", "mass = weight;", "top_h does not renormalise"),
    ("sampling/shape.c", "bound = log_squares - log_total", "bound = log_squares", "p_less forgets the total"),
    ("sampling/shape.c", "/ (double)i;", ";", "min_k does not weigh the position"),
    ("sampling/shape.c", "dk_sorted_prefix(&sorted, k + 1)", "dk_sorted_prefix(&sorted, k + 2)", "tfs keeps one more"),
    ("sampling/mirostat.c", "return base / s;", "return base;", "mirostat 1 forgets Zipf's exponent"),
    ("sampling/reshape.c", "(1.0 + distance)", "1.0", "adaptive_p's curve stays a parabola"),
    ("sampling/reshape.c", "before += weight;", "before = weight;", "skew does not cumulate"),
    ("sampling/distribution.c", "#define CUT (-40.0 * DK_LN2)", "#define CUT (-20.0 * DK_LN2)", "the cut comes early"),
    ("sampling/distribution.c", "/ d->temperature;\n}", ";\n}", "log-probabilities forget the temperature"),
    (
        "sampling/top_p.c",
        ": ceil(part);",
        ": ceil(part) + 1.0;",
        "an exact prefix is not enough",
    ),
    (
        "sampling/top_p.c",
        "(threshold.missing + each - 1) / each",
        "threshold.missing / each",
        "the token that crosses p is lost",
    ),
    (
        "sampling/top_k.c",
        "if (count_from(view, middle) >= k)",
        "if (count_from(view, middle) > k)",
        "the k-th is missed",
    ),
    (
        "sampling/typical_xtc.c",
        "(double)row->xtc_probability * 0x1p64",
        "(double)row->xtc_probability * 0x1p63",
        "half the coins",
    ),
    (
        "sampling/typical_xtc.c",
        "list->values[i] <= last.value",
        "list->values[i] < last.value",
        "XTC keeps the first of ties",
    ),
    ("sampling/temperature.c", "(3.0 - curve) / 2.0", "(3.0 + curve) / 2.0", "another curve of smoothing"),
    ("sampling/moments.c", "sqrt(about_mean.second", "(about_mean.second", "variance for deviation"),
    ("sampling/logprobs.c", "ids[a] > ids[b]", "ids[a] < ids[b]", "of ties in the top-N the higher id first"),
    ("sampling/logprobs.c", "{value, token_id - 1}", "{value, token_id}", "ranks begin at two"),
    ("sampling/philox.h", "round < 10", "round < 9", "nine rounds of Philox"),
    ("sampling/philox.h", "c2 = p0.high ^ c3 ^ k1", "c2 = p0.high ^ c3 ^ k0", "one key word twice"),
)
"""(file, original code, mutated code, effect)."""


def main(number=None, folder=None):
    """Print the number of mutants, or plant one and print its effect."""
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
