"""Sequence: one sequence of tokens as the scheduler, the block manager and the forward pass see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoding.engine.block_table import BlockTable

if TYPE_CHECKING:
    from decoding.engine.candidate import Candidate
    from decoding.engine.tasks.protocol import Task

NO_ROW = -1


class Sequence:
    """Known tokens, with the number of computed ones, their blocks in the KV cache, and their task.

    Identity
        task: the request that it belongs to; index: its number in the task.
        order: (arrival of the task, index); smaller is older.
        token_ids: all known tokens, prompt and output.
        num_shared: leading tokens that all sequences of the task have in common.
        score_from: position of the first token whose logits are wanted while the prompt is computed; None where
            only those of the last one are.
        candidate: the output, once the prompt is computed; None before, and if a text is only scored.
    In the KV cache
        num_computed: leading tokens whose keys and values are computed.
        block_table: the blocks that hold them.
        num_reserved: leading tokens that have blocks; blocks that will be written belong to it alone.
        rope_length: minimum length for the choice of its tokens' rotary factors; rope_regime: the model's number
            for these factors.
        digests: of its full blocks, as far as they were needed.
    In the current step
        num_scheduled: known tokens to compute. num_draft: draft tokens to check behind them, the first of `draft`.
        first_row, num_rows: its rows of logits; row: the one that predicts its next token, NO_ROW right after a fork.
        num_accepted: draft tokens that were accepted so far.
    """

    __slots__ = (
        "__weakref__",
        "block_table",
        "candidate",
        "digests",
        "draft",
        "first_row",
        "index",
        "is_running",
        "is_started",
        "num_accepted",
        "num_computed",
        "num_draft",
        "num_reserved",
        "num_rows",
        "num_scheduled",
        "num_shared",
        "order",
        "rope_length",
        "rope_regime",
        "row",
        "score_from",
        "task",
        "token_ids",
        "waits_for_shared",
    )

    def __init__(
        self,
        task: Task,
        index: int,
        token_ids: list[int],
        *,
        num_shared: int,
        rope_length: int,
        rope_regime: int = 0,
        score_from: int | None = None,
    ) -> None:
        """rope_length: the number of tokens of the prompt, or of the whole text that is scored."""
        self.task = task
        self.index = index
        self.order = (task.arrival, index)
        self.token_ids = token_ids
        self.num_shared = num_shared
        self.score_from = score_from
        self.candidate: Candidate | None = None
        self.num_computed = 0
        self.num_reserved = 0
        self.block_table = BlockTable()
        self.rope_length = rope_length
        self.rope_regime = rope_regime
        self.digests: list[bytes] = []
        self.is_running = False
        self.is_started = False  # has run before, and may have been preempted since
        self.waits_for_shared = True  # the next sequence of the task starts once this one has the shared tokens
        self.draft: list[int] = []
        self.num_scheduled = self.num_draft = self.num_accepted = 0
        self.first_row = self.num_rows = 0
        self.row = NO_ROW

    @property
    def num_pending(self) -> int:
        """Known tokens that are not computed yet; 0 right after a fork."""
        return len(self.token_ids) - self.num_computed

    @property
    def max_cached(self) -> int:
        """Number of leading tokens that may come from the prefix cache, because their logits are not needed."""
        return len(self.token_ids) - 1 if self.score_from is None else self.score_from

    def restart(self, rope_length: int, rope_regime: int) -> None:
        """Forget what was computed, to compute it again with other rotary factors; its blocks must be free already."""
        self.num_computed = 0
        self.digests = []
        self.rope_length, self.rope_regime = rope_length, rope_regime
