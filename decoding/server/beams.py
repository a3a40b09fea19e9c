"""Run the beam searches of requests: one search at a time per model, with other requests between its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from decoding.engine.beam_params import BeamSearchParams
from decoding.engine.outputs import CompletionResult
from decoding.llm import LLM
from decoding.types import Prompt

_TURNS: WeakKeyDictionary[LLM, asyncio.Lock] = WeakKeyDictionary()
"""A search has a KV cache of its own, so the searches of one model take turns."""


class BeamHandle:
    """A request for beam searches, with those methods of RequestHandle that a whole answer needs."""

    def __init__(self, llm: LLM, prompts: Sequence[Prompt], beams: BeamSearchParams) -> None:
        self._llm = llm
        self._prompts = prompts
        self._beams = beams

    async def results(self) -> list[CompletionResult]:
        """Run the searches of all prompts; cancelling ends them before the next step."""
        results = []
        async with _TURNS.setdefault(self._llm, asyncio.Lock()):
            for prompt in self._prompts:
                search = await asyncio.to_thread(self._llm.start_beam_search, prompt, self._beams)
                while not search.is_done:
                    await asyncio.to_thread(search.step)
                results.append(search.result(self._llm.name))
        return results

    def abort(self) -> None:
        """Do nothing: cancelling `results` is enough."""
