"""`decoding serve`: the Completions API over HTTP."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoding.cli.console import say
from decoding.cli.flags import integer, real
from decoding.cli.model_flags import MODEL_HELP, add_chat_template, add_engine, load_llm, set_chat_template
from decoding.completions_api.settings import ApiSettings, Limits
from decoding.errors import ParameterError, shown
from decoding.server.settings import ServerSettings
from decoding.validation import is_unicode

if TYPE_CHECKING:
    from decoding.llm import LLM

DEFAULT_PORT = 8000

_LARGEST_PORT = 65_535
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_KIND = {"int": integer, "float": real}

_LIMITS = {
    "max_n": "n of a request",
    "max_best_of": "best_of of a request",
    "max_logprobs": "logprobs of a request",
    "max_top_logprobs": "top_logprobs of a chat request",
    "max_prompts": "prompts in a request",
    "max_sequences": "prompts times candidates in a request",
    "max_prompt_tokens": "token ids in all prompts of a request",
    "max_stop": "stop strings in a request",
    "max_stop_bytes": "bytes in all stop strings of a request",
    "max_list_entries": "entries of logit_bias, or of another list",
}
_SERVER = {
    "max_waiting": "prompts of a model that wait for their first token; one more gets 429",
    "max_open_requests": "open requests; one more gets 503",
    "max_body_bytes": "bytes of a request's body",
    "max_header_bytes": "bytes of a request's headers",
    "header_timeout": "seconds until a request's headers have arrived",
    "body_timeout": "seconds until its body has arrived",
    "request_timeout": "seconds for a completion",
    "send_timeout": "seconds for a client to continue reading when its answer waits",
    "keep_alive": "seconds between comments in a silent stream",
    "shutdown_grace": "seconds for running requests after SIGTERM",
}


def add_serve(commands: Any) -> None:
    """Add the command to the parser."""
    serve = commands.add_parser(
        "serve",
        help="serve the Completions API over HTTP",
        description="Serve the bundled model, or others, as an OpenAI-compatible Completions API; /docs describes it.",
    )
    serve.add_argument("path", nargs="?", metavar="PATH", help=MODEL_HELP)
    serve.add_argument(
        "--model", action="append", default=[], metavar="NAME=PATH", help="serve this model by this name; repeatable"
    )
    serve.add_argument("--host", default=_LOOPBACK[0], help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=integer, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)")
    serve.add_argument("--api-key-file", metavar="FILE", help="require one of the keys in this file, one per line")
    serve.add_argument(
        "--repetition-penalty-mode",
        choices=("additive", "multiplicative"),
        default="additive",
        help="the meaning of the field repetition_penalty (default: %(default)s)",
    )
    serve.add_argument(
        "--unknown-fields",
        choices=("error", "ignore"),
        default="error",
        help="refuse or ignore a field that is not in the API (default: %(default)s)",
    )
    serve.add_argument(
        "--log-level",
        choices=("error", "warning", "info"),
        default="warning",
        help="info: one line per request (default: %(default)s)",
    )
    serve.add_argument("--log-prompts", action="store_true", help="with --log-level info: log prompts, too")
    add_chat_template(serve)
    add_engine(serve.add_argument_group("the engine of each model"))
    _add_settings(serve.add_argument_group("limits on a request"), Limits, _LIMITS)
    _add_settings(serve.add_argument_group("limits of the server"), ServerSettings, _SERVER)
    serve.set_defaults(run=_serve)


def _add_settings(group: Any, settings: type[Any], texts: dict[str, str]) -> None:
    """Add a flag for each field, with the field's own default."""
    for field in dataclasses.fields(settings):
        if field.name in texts:
            group.add_argument(
                "--" + field.name.replace("_", "-"),
                type=_KIND[str(field.type)],
                default=field.default,
                metavar="N",
                help=f"{texts[field.name]} (default: %(default)s)",
            )


def _serve(options: argparse.Namespace, _: list[str]) -> None:
    settings = _settings(options)
    if not 0 <= options.port <= _LARGEST_PORT:  # the system's calls would take it modulo 65,536
        raise ParameterError.single("--port", options.port, f"must be an integer from 0 to {_LARGEST_PORT:,}")
    folders = _folders(options)
    try:
        from decoding.server.run import listen, serve
    except ModuleNotFoundError as error:
        rule = f"needs the package {error.name}: pip install 'decoding-engine[server]'"
        raise ParameterError.single("serve", error.name, rule) from None
    try:
        listener = listen(options.host, options.port)
    except (OSError, UnicodeError) as error:  # the latter for a name with an empty label, or one that is too long
        reason = getattr(error, "strerror", None) or "no such address"
        raise ParameterError.single(
            "host and port", f"{options.host}:{options.port}", f"cannot be listened on ({reason})"
        ) from None
    with listener:
        models = {name: _loaded(name, folder, options) for name, folder in folders.items()}
        _greet(list(models), listener.getsockname(), settings)
        serve(models, listener, settings)


def _greet(names: list[str], address: tuple[Any, ...], settings: ServerSettings) -> None:
    host, port = address[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if host not in _LOOPBACK and not settings.api_keys:
        say("warning: anyone who can reach this address can use the server: no --api-key-file was given")
    say(f"serving {', '.join(names)} on {url} (Ctrl-C ends it; the API is described at {url}/docs)")


def _settings(options: argparse.Namespace) -> ServerSettings:
    given = vars(options)
    api = ApiSettings(
        limits=Limits(**{name: given[name] for name in _LIMITS}),
        repetition_penalty_mode=options.repetition_penalty_mode,
        unknown_fields=options.unknown_fields,
    )
    return ServerSettings(
        api=api,
        api_keys=_api_keys(options.api_key_file),
        log_level=options.log_level,
        log_prompts=options.log_prompts,
        **{name: given[name] for name in _SERVER},
    )


def _api_keys(file: str | None) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        text = Path(file).read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise ParameterError.single("--api-key-file", file, "must be ASCII") from None
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        raise ParameterError.single("--api-key-file", file, "must have a key, one per line")
    return keys


def _folders(options: argparse.Namespace) -> dict[str, str | None]:
    """Return the models to serve, name to folder; the bundled one has None."""
    from decoding.llm import BUNDLED_NAME
    from decoding.models.model_files import model_name

    folders: dict[str, str | None] = {}
    if options.path is not None:
        folders[model_name(options.path)] = options.path
    for item in options.model:
        name, separator, path = item.partition("=")
        if not (name and separator and path):
            raise ParameterError.single("--model", item, "must be NAME=PATH")
        if name in folders:
            raise ParameterError.single("--model", item, f"must have a name of its own: {shown(name)} is taken")
        folders[name] = path
    for name in folders:
        if not is_unicode(name):  # the system's arguments may be bytes that are no text
            raise ParameterError.single("name of a model", name, "must be valid Unicode, as JSON is")
    return folders or {BUNDLED_NAME: None}


def _loaded(name: str, folder: str | None, options: argparse.Namespace) -> LLM:
    say(f"loading {name} ...")
    start = time.monotonic()
    llm = load_llm(folder, options)
    set_chat_template(llm, options)
    say(f"loading {name}: {time.monotonic() - start:.1f} s")
    return llm
