"""Flags that say which model to load and how to run it, and the LLM that follows from them.

A flag and the argument of LLM that it stands for have one name. A flag that is not given leaves LLM's own default.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoding.cli.console import CommandError, loading_line, progress_line, show_warnings
from decoding.cli.flags import integer

if TYPE_CHECKING:
    from decoding.llm import LLM

BACKENDS = ("native", "numpy", "llama-cpp", "transformers", "onnxruntime")
BATCHINGS = ("exact", "shared")
QUANTIZATIONS = ("q8_0", "q4_0")
MODEL_HELP = "a .gguf file, or the folder of a Hugging Face checkpoint (default: bundled)"

_ARGUMENTS = {
    "num_threads": "num_threads",
    "backend": "backend",
    "batching": "batching",
    "quantization": "quantization",
    "max_num_seqs": "max_num_seqs",
    "max_num_seqs_per_request": "max_num_seqs_per_request",
    "max_num_batched_tokens": "max_batched_tokens",
    "kv_cache_bytes": "kv_cache_bytes",
    "prefix_cache": "prefix_cache",
    "fim_template": "fim_template",
    "profile": "profile",
    "num_scheduler_steps": "num_scheduler_steps",
    "num_draft_tokens": "num_draft_tokens",
}
"""Destinations of flags -> arguments of LLM."""

_OLDER_FLAGS = {"--max-running": "max_num_seqs", "--max-batched-tokens": "max_num_batched_tokens"}


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the flags of a command that runs one model."""
    command.add_argument("--model", metavar="PATH", help=MODEL_HELP)
    add_compute(command)


def add_profile(group: Any) -> None:
    """Add the flag for the order of the sampler's stages."""
    group.add_argument(
        "--profile",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="order and rules of the sampler's stages: openai, transformers, llama_cpp or vllm (default: openai)",
    )


def add_compute(group: Any) -> None:
    """Add the flags for the forward pass."""
    group.add_argument(
        "--num-threads",
        type=integer,
        default=argparse.SUPPRESS,
        metavar="N",
        help="threads of the forward pass and of large draws (default: one per CPU that the process may use)",
    )
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default=argparse.SUPPRESS,
        help="native is the compiled forward pass, numpy the readable reference; the others are libraries that run it"
        " (default: native)",
    )
    group.add_argument(
        "--batching",
        choices=BATCHINGS,
        default=argparse.SUPPRESS,
        help="with another library: exact computes a token alike in any company, shared is faster (default: exact)",
    )
    group.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        default=argparse.SUPPRESS,
        help="quantise the weights of a checkpoint as they are loaded (default: the types of the file)",
    )


def add_fim_template(group: Any) -> None:
    """Add the flag for fill-in-the-middle prompts."""
    group.add_argument(
        "--fim-template",
        default=argparse.SUPPRESS,
        metavar="TEMPLATE",
        help="how prompt and suffix are combined, such as '<PRE>{prefix}<SUF>{suffix}<MID>' (default: the model's way)",
    )


def add_chat_template(group: Any) -> None:
    """Add the flag for the template of conversations."""
    group.add_argument(
        "--chat-template",
        metavar="FILE",
        help="a file with the Jinja template that makes messages a prompt (default: the model's own)",
    )


def set_chat_template(llm: LLM, options: argparse.Namespace) -> None:
    """Give a model the chat template of the flag. Raise CommandError if its file cannot be read."""
    if options.chat_template is None:
        return
    from decoding.chat import ChatFormat

    try:
        text = Path(options.chat_template).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CommandError(f"--chat-template {options.chat_template}: must be UTF-8") from None
    except OSError as error:
        raise CommandError(f"--chat-template {options.chat_template}: cannot be read ({error.strerror})") from None
    llm.chat_format = ChatFormat(llm.tokenizer, chat_template=text)


def add_engine(group: Any) -> None:
    """Add the flags of an engine that runs many requests."""
    add_compute(group)
    add_profile(group)
    group.add_argument(
        "--max-num-seqs",
        type=integer,
        default=argparse.SUPPRESS,
        metavar="N",
        help="sequences that run at the same time (default: 32)",
    )
    group.add_argument(
        "--max-num-batched-tokens",
        type=integer,
        default=argparse.SUPPRESS,
        metavar="N",
        help="tokens computed per step; a longer prompt takes several steps (default: 512)",
    )
    group.add_argument(
        "--kv-cache-bytes",
        type=integer,
        default=argparse.SUPPRESS,
        metavar="N",
        help="memory for keys and values (default: enough, up to 2 GiB)",
    )
    group.add_argument(
        "--prefix-cache",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="keep what was computed for prompts, for later prompts that begin alike (default: on)",
    )
    group.add_argument(
        "--num-scheduler-steps",
        type=integer,
        default=argparse.SUPPRESS,
        metavar="N",
        help="decoding steps in a row at most, after which a stream gets several tokens at once (default: 1 beside a"
        " stream, otherwise as many as take little time)",
    )
    group.add_argument(
        "--speculation",
        metavar="prompt_lookup|PATH",
        help="propose draft tokens from the text itself, or by a smaller model of the same vocabulary (default: none)",
    )
    group.add_argument(
        "--num-draft-tokens",
        type=integer,
        default=argparse.SUPPRESS,
        metavar="N",
        help="draft tokens proposed per step (default: 4)",
    )
    add_fim_template(group)
    for older, name in _OLDER_FLAGS.items():
        group.add_argument(older, dest=name, type=integer, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_share(group: Any) -> None:
    """Add the flag that bounds one request's share of the engine."""
    group.add_argument(
        "--max-num-seqs-per-request",
        type=integer,
        default=argparse.SUPPRESS,
        metavar="N",
        help="sequences of one request that run at the same time (default: half of --max-num-seqs)",
    )


def share_seats(options: argparse.Namespace) -> None:
    """Give one request half of the engine's sequences, unless the flag says otherwise."""
    from decoding.engine.settings import EngineSettings

    if not hasattr(options, "max_num_seqs_per_request"):
        max_num_seqs = getattr(options, "max_num_seqs", EngineSettings().max_num_seqs)
        options.max_num_seqs_per_request = max(1, max_num_seqs // 2)


def load_llm(path: str | None, options: argparse.Namespace) -> LLM:
    """Load a model (None is the bundled one) with the settings that were given. Raise ModelError or ParameterError."""
    show_warnings()
    with loading_line("the bundled model" if path is None else path):
        return _loaded(path, options)


def _loaded(path: str | None, options: argparse.Namespace) -> LLM:
    from decoding.llm import LLM

    given = {argument: getattr(options, flag) for flag, argument in _ARGUMENTS.items() if hasattr(options, flag)}
    speculation = getattr(options, "speculation", None)
    if speculation == "prompt_lookup":
        given["speculation"] = speculation
    elif speculation is not None:
        compute = {name: given[name] for name in ("num_threads", "backend", "batching") if name in given}
        given["speculation"] = LLM(speculation, **compute)
    if (progress := progress_line()) is not None:
        given["progress"] = progress
    return LLM(path, **given)
