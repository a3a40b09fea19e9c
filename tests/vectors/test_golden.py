"""The bits are what they were: golden hashes, equal on every instruction set.

Where a change of a drawn token is meant, raise the stream version and run the command in golden.json.
"""

import json
import runpy
from pathlib import Path

import pytest

from decoding.kernel import STREAM_VERSION, active_isa, available_isas, forced_isa

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())
MAKER = runpy.run_path(str(HERE / "make_golden.py"))
RECIPES = MAKER["recipes"]()


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_golden_hash(recipe, isa):
    """Tokens, ranks and log-probability bits of this recipe have the published hash."""
    with forced_isa(isa):
        assert active_isa() == isa
        assert MAKER["digest"](recipe) == GOLDEN["digests"][recipe.name]


def test_the_file_is_that_of_this_stream_version():
    """One hash a recipe and none left over, made for the stream version of the kernel."""
    assert GOLDEN["stream_version"] == STREAM_VERSION
    assert list(GOLDEN["digests"]) == [recipe.name for recipe in RECIPES]


def test_a_hash_depends_on_one_bit():
    """Raising the largest logit of one row by its last bit changes the hash: the hashes look closely."""

    def nudged(recipe, step):
        logits = MAKER["make_logits"](recipe, step)
        logits[0, logits[0].argmax()] += 2.0**-19
        return logits

    assert MAKER["digest"](RECIPES[0], nudged) != MAKER["digest"](RECIPES[0])
