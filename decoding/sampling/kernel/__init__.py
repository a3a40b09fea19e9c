"""The compiled kernel, seen from Python: the only modules that touch `ffi` and `lib`.

They know dtypes, layouts, pointers and status codes, and nothing of requests. Arguments are checked before C
reads them: ids, sizes and masks by decoding.sampling.state, logits by decoding.sampling.logits_input.
"""

from decoding.sampling.kernel.call import Call, Kernel, output_of
from decoding.sampling.kernel.decode_steps import DecodeSteps, DrawnSteps, StepsAhead
from decoding.sampling.kernel.history import TokenHistory, append_tokens
from decoding.sampling.kernel.library import (
    ABI_VERSION,
    MAX_VOCAB_SIZE,
    STREAM_VERSION,
    active_isa,
    available_isas,
    checked_vocab_size,
    force_isa,
    forced_isa,
    num_mask_words,
    philox,
)
from decoding.sampling.kernel.row import KernelRow
from decoding.sampling.kernel.sequences import Sequences
from decoding.sampling.kernel.threads import ThreadPool

__all__ = [
    "ABI_VERSION",
    "MAX_VOCAB_SIZE",
    "STREAM_VERSION",
    "Call",
    "DecodeSteps",
    "DrawnSteps",
    "Kernel",
    "KernelRow",
    "Sequences",
    "StepsAhead",
    "ThreadPool",
    "TokenHistory",
    "active_isa",
    "append_tokens",
    "available_isas",
    "checked_vocab_size",
    "force_isa",
    "forced_isa",
    "num_mask_words",
    "output_of",
    "philox",
]
