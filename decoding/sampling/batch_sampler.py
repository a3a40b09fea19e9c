"""BatchSampler: a sampler that keeps the states of its sequences, for hosts that decode many of them together.

batch = BatchSampler(vocab_size)
chat = batch.add(SamplingParams(temperature=0.8, seed=7), prompt_token_ids=[1, 2, 3])
output = batch.step(logits)      # logits [sequences, vocab]; one call for all, whatever their number
state = batch.remove(chat)       # a SamplingState: pickle it, add it elsewhere
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

from decoding.errors import ParameterError
from decoding.params import SamplingParams
from decoding.sampling.kernel.sequences import KernelSequence, Sequences
from decoding.sampling.logits_input import matrix_of
from decoding.sampling.output import SamplerOutput
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import Profile
from decoding.sampling.state import SamplingState
from decoding.sampling.verify import checked_bitmasks
from decoding.validation import elements_of, is_integer


class _InPython:
    """A row whose state is updated in Python."""

    __slots__ = ("row", "state")

    def __init__(self, state: SamplingState) -> None:
        self.state, self.row = state, state.kernel_row

    def commit(self, token_id: int, output: SamplerOutput, row: int) -> None:
        """Record the token that was drawn."""
        self.state.commit(token_id, output, row)


class BatchSampler:
    """Draws one token per sequence and step, with a state per sequence that C updates (Python, with adaptive-p).

    Parameters are those of Sampler, and so are the tokens: a sequence gets the same tokens, to the bit, as a
    SamplingState with these parameters from `Sampler.sample`, whatever sequences share its steps.

    Sequences are named by integers that `add` and `fork` return, and which are never used twice. A BatchSampler may be
    used by one thread at a time.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        profile: str | Profile = "openai",
        num_valid_tokens: int | None = None,
        on_nonfinite: Literal["raise", "mask"] = "raise",
        num_threads: int = 1,
    ) -> None:
        self._sampler = Sampler(
            vocab_size,
            profile=profile,
            num_valid_tokens=num_valid_tokens,
            on_nonfinite=on_nonfinite,
            num_threads=num_threads,
        )
        self._names = count()
        self._states: dict[int, SamplingState] = {}  # as they were when C took over
        self._items: dict[int, KernelSequence | _InPython] = {}
        self._order: tuple[int, ...] | None = None
        self._rows = Sequences([])

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._items)

    def __contains__(self, sequence: object) -> bool:
        """Return True if the sequence was added and not removed."""
        return sequence in self._items

    def __repr__(self) -> str:
        """Show the sampler's arguments and the number of sequences."""
        return f"<Batch{self._sampler!r} with {len(self)} sequences>"

    @property
    def sampler(self) -> Sampler:
        """The sampler that draws, for `explain`, `score` and `probabilities`."""
        return self._sampler

    @property
    def sequences(self) -> tuple[int, ...]:
        """The sequences in the order of `add` and `fork`, which is the default order of rows."""
        return tuple(self._items)

    def add(
        self,
        params: SamplingParams | SamplingState,
        prompt_token_ids: Sequence[int] = (),
        *,
        choice: int = 0,
        stream: int = 0,
        eos_token_ids: Sequence[int] = (),
        host_parameters: bool = False,
    ) -> int:
        """Add a sequence and return its name.

        params: with the other arguments, those of SamplingState; or a SamplingState without a bitmask, which is copied,
            alone.
        Raise ParameterError if it does not fit the vocabulary or the profile.
        """
        if isinstance(params, SamplingState):
            if len(prompt_token_ids) or choice or stream or len(eos_token_ids):
                raise ParameterError.single("params", params, "must be alone, because a state has its own arguments")
            if params.bitmask is not None:
                raise ParameterError.single("params.bitmask", params.bitmask, "must be None: `step` takes the masks")
            state = params.fork(choice=params.choice)
        else:
            state = SamplingState(
                params,
                prompt_token_ids,
                choice=choice,
                stream=stream,
                eos_token_ids=eos_token_ids,
                host_parameters=host_parameters,
            )
        self._sampler.check(state)
        return self._keep(next(self._names), state)

    def fork(self, sequence: int, *, choice: int) -> int:
        """Add a copy of a sequence with the same tokens, for another `choice`, and return its name."""
        state = self.state(sequence).fork(choice=choice)
        return self._keep(next(self._names), state)

    def state(self, sequence: int) -> SamplingState:
        """Return a copy of the sequence's current state."""
        item = self._items[self._checked(sequence)]
        return (
            item.state.fork(choice=item.state.choice)
            if isinstance(item, _InPython)
            else self._states[sequence].after(item)
        )

    def remove(self, sequence: int) -> SamplingState:
        """Remove a sequence and return its state."""
        state = self.state(sequence)
        del self._items[sequence], self._states[sequence]
        self._order = None
        return state

    def truncate(self, sequence: int, num_tokens: int) -> None:
        """Keep the first `num_tokens` generated tokens of a sequence and undo the later ones."""
        state = self.state(sequence)
        state.truncate(num_tokens)
        self._keep(sequence, state)

    def append(self, sequence: int, token_id: int, surprise: float | None = None) -> None:
        """Record a token that was not drawn here, as `SamplingState.append` does."""
        state = self.state(sequence)
        state.append(token_id, surprise)
        self._sampler.check(state)
        self._keep(sequence, state)

    def step(
        self,
        logits: Any,
        sequences: Sequence[int] | None = None,
        *,
        bitmasks: Any = None,
        on_error: Literal["raise", "status"] = "raise",
    ) -> SamplerOutput:
        """Draw one token for each row and record it in the row's sequence.

        logits: [rows, vocab], as for `Sampler.sample`.
        sequences: the sequence of each row; None takes all, in the order of `sequences`. Steps that give the same
            sequences as the step before cost no time per row in Python.
        bitmasks: a grammar mask for each row, uint32 or int32 [rows, ceil(vocab / 32)], for this step alone.
        on_error: "raise" raises the LogitsError of the first row that fails, and nothing is recorded; "status" reports
            it in `errors`, and the other rows are recorded.
        """
        if on_error not in ("raise", "status"):
            raise ParameterError.single("on_error", on_error, "must be 'raise' or 'status'")
        matrix = matrix_of(logits, self._sampler.vocab_size)
        rows = self._rows_of(sequences)
        if len(rows) != len(matrix):
            rule = f"must have one row per sequence ({len(rows)})"
            raise ParameterError.single("logits.shape", matrix.shape, rule)
        masks = checked_bitmasks(bitmasks, len(matrix))
        output = self._sampler.draw(matrix, rows, masks)
        if output.failures and on_error == "raise":
            raise next(iter(output.failures.values()))
        rows.commit(output)
        return output

    def _rows_of(self, sequences: Sequence[int] | None) -> Sequences:
        """Return the rows of a step; the previous step's rows if the order is the same."""
        if sequences is None:
            order = self._order if self._order is not None and len(self._order) == len(self) else tuple(self._items)
        else:
            order = tuple(elements_of(sequences) or ())
        if order != self._order:
            items = [self._items[self._checked(sequence)] for sequence in order]
            if len(set(order)) != len(order):
                raise ParameterError.single("sequences", sequences, "must name each sequence once")
            self._rows, self._order = Sequences(items), order
        return self._rows

    def _keep(self, name: int, state: SamplingState) -> int:
        self._states[name] = state
        self._items[name] = state.to_sequence() if state.is_followed_in_c else _InPython(state)
        self._order = None
        return name

    def _checked(self, sequence: int) -> int:
        if not is_integer(sequence) or sequence not in self._items:
            raise ParameterError.single("sequence", sequence, "must be a sequence that was added and not removed")
        return int(sequence)
