"""Task: a request as the scheduler and the engine see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from decoding.engine.candidate import Candidate
    from decoding.engine.outputs import Metrics
    from decoding.engine.sequence import Sequence
    from decoding.engine.share import Share
    from decoding.errors import DecodingError
    from decoding.models.batch import Logits
    from decoding.sampling.sampler import Sampler


class Task(Protocol):
    """A request: makes its sequences one by one, and receives the results that the engine computes for them.

    Sequences are made lazily, because a request may have a million candidates. The engine calls the methods in the
    order of their definition here.
    """

    metrics: Metrics
    share: Share
    is_streamed: bool
    """True if each token is wanted as soon as it is drawn."""

    @property
    def arrival(self) -> int:
        """Number of the request; smaller is older."""
        ...

    @property
    def num_unstarted(self) -> int:
        """The number of sequences that have not been made."""
        ...

    @property
    def max_score_rows(self) -> int:
        """Rows of logits that may be scored in one step; bounds the memory for them."""
        ...

    def next_sequence(self) -> Sequence:
        """Make the next sequence. Called only if num_unstarted is not 0."""
        ...

    def on_admitted(self, sequence: Sequence) -> None:
        """Note that a sequence has got memory; its first `num_computed` tokens come from the cache."""
        ...

    def on_logits(self, sequence: Sequence, first: int, logits: Logits, sampler: Sampler) -> None:
        """Score the tokens that follow positions first, first + 1, ... of a sequence, one per row of logits.

        Raises LogitsError for a row that is not finite; the task then fails.
        """
        ...

    def on_prompt_computed(self, sequence: Sequence, logits: Logits | None) -> Candidate | None:
        """Return the candidate to sample for; None if the sequence ends here.

        logits: [vocab], of the last token; None if the sequence was forked from one that had them.
        """
        ...

    @property
    def first_logits(self) -> Logits:
        """The logits [vocab] of the prompt's last token, for sequences that were forked there."""
        ...

    def on_sampled(self, candidate: Candidate) -> None:
        """Handle a candidate that has got a token or has ended."""
        ...

    def on_preempted(self) -> None:
        """Note that a sequence was preempted."""
        ...

    def fail(self, sequences: Iterable[Sequence], error: DecodingError) -> None:
        """End these sequences, which have been taken out of the scheduler, and all that have not started."""
        ...
