"""Tests of best_of: the order of candidates."""

from decoding.engine.best_of import Ranking
from decoding.engine.outputs import Choice


def candidate(index, mean, reason="stop"):
    """Return a finished candidate with the fields that ranking reads."""
    return Choice(index, f"text {index}", [], reason, None, None, 0, mean_logprob=mean)


def texts(ranking):
    """Return the texts of the kept candidates, in order."""
    return [choice.text for choice in ranking.best()]


def test_best_mean_first_ties_to_the_lower_index_failed_last():
    """Candidates rank by mean log-probability, then index; failed ones are last (docs/semantics.md, section 7)."""
    ranking = Ranking(5, ranked=True)
    for one in (
        candidate(4, -0.1, "error"),
        candidate(3, -1.0),
        candidate(0, -2.0),
        candidate(2, -1.0),
        candidate(1, -0.5),
    ):
        ranking.add(one)
    assert texts(ranking) == ["text 1", "text 2", "text 3", "text 0", "text 4"]
    assert [choice.index for choice in ranking.best()] == [0, 1, 2, 3, 4]


def test_keeps_only_the_best_n():
    """A ranking holds n candidates at most, and they are the n best of all that were added."""
    ranking = Ranking(2, ranked=True)
    for index in range(1000):
        ranking.add(candidate(index, -abs(index - 500.0)))
    assert texts(ranking) == ["text 500", "text 499"]
    assert len(ranking._heap) == 2


def test_minus_infinity_is_a_mean_like_any_other():
    """A candidate whose mean is -inf ranks below other candidates, but above failed ones."""
    ranking = Ranking(3, ranked=True)
    for one in (candidate(0, 0.0, "error"), candidate(1, float("-inf")), candidate(2, -9.0)):
        ranking.add(one)
    assert texts(ranking) == ["text 2", "text 1", "text 0"]


def test_without_ranking_the_candidates_keep_their_order():
    """If best_of equals n, the candidates are ordered by index."""
    ranking = Ranking(3, ranked=False)
    for index in (2, 0, 1):
        ranking.add(candidate(index, None))
    assert texts(ranking) == ["text 0", "text 1", "text 2"]
