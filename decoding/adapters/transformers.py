"""Our sampler in transformers' generate (the extra `transformers`).

    processor = SamplerProcessor.for_model(model, SamplingParams(temperature=0.8, top_p=0.9, seed=7))
    model.generate(**inputs, max_new_tokens=64, do_sample=False, logits_processor=[processor])

The processor draws the token, and leaves it as the only one that is possible; generate has
nothing left to decide. Streamers, stopping criteria and caches work as usual. One processor serves one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from decoding.adapters.rows import RowSampler
from decoding.params import SamplingParams
from decoding.sampling.stages import Profile


class SamplerProcessor(transformers.LogitsProcessor):  # type: ignore[misc]
    """A logits processor that draws with our sampler; the arguments are those of RowSampler.

    Processors before this one change the logits that it gets: leave transformers' own penalties at their defaults,
    and set them in `params`. Rows must not be reordered: no beam search.
    """

    def __init__(
        self,
        vocab_size: int,
        params: SamplingParams | Sequence[SamplingParams],
        *,
        eos_token_ids: Sequence[int] = (),
        pad_token_id: int | None = None,
        profile: str | Profile = "openai",
    ) -> None:
        self._rows = RowSampler(
            vocab_size, params, eos_token_ids=eos_token_ids, pad_token_id=pad_token_id, profile=profile
        )

    @classmethod
    def for_model(
        cls, model: Any, params: SamplingParams | Sequence[SamplingParams], *, profile: str | Profile = "openai"
    ) -> SamplerProcessor:
        """Return a processor with the vocabulary, end and padding tokens of a model.

        Without a padding token it is the first end token, as in `generate`.
        """
        config = model.generation_config
        eos = config.eos_token_id
        ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        pad = ids[0] if config.pad_token_id is None and ids else config.pad_token_id
        vocab_size = model.config.get_text_config(decoder=True).vocab_size
        return cls(vocab_size, params, eos_token_ids=ids, pad_token_id=pad, profile=profile)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """Return scores [rows, vocab] in which the drawn token of each row is 0, and all others are -inf."""
        drawn = self._rows.draw(input_ids.tolist(), scores.detach().to("cpu").contiguous())
        forced = torch.full_like(scores, -torch.inf)
        for row, token_id in enumerate(drawn):
            if token_id is None:
                forced[row] = scores[row]  # finished: generate pads it, whatever stands here
            else:
                forced[row, token_id] = 0.0
        return forced
