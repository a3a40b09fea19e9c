"""`decoding serve`: the Completions API over HTTP."""

from __future__ import annotations

import argparse
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoding.cli.api_flags import add_api, add_limits, add_models, add_settings, api_settings, model_folders
from decoding.cli.console import say
from decoding.cli.flags import integer
from decoding.cli.model_flags import (
    MODEL_HELP,
    add_chat_template,
    add_engine,
    add_share,
    load_llm,
    set_chat_template,
    share_seats,
)
from decoding.errors import ParameterError
from decoding.server.settings import ServerSettings

if TYPE_CHECKING:
    from decoding.llm import LLM

DEFAULT_PORT = 8000

_LARGEST_PORT = 65_535
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_SERVER = {
    "max_waiting": "prompts of a model that wait for their first token; one more gets 429",
    "max_open_requests": "open requests; one more gets 503",
    "max_connections": "open connections; others wait (default: 4,096, or fewer where files are limited)",
    "max_log_lines": "lines of the log that wait for stderr to be read; further ones are dropped, and counted",
    "max_body_bytes": "bytes of a request's body (default: those of the longest request that the limits on it allow)",
    "max_total_body_bytes": "bytes of all bodies that are being received; then 503 (default: 268435456, or one body)",
    "max_header_bytes": "bytes of a request's headers",
    "max_headers": "headers of a request",
    "max_unread_bytes": "bytes of a stream that wait for its client; then the stream ends with an error",
    "max_total_unread_bytes": "those of all streams; beyond them each has its share (by --max-open-requests)",
    "header_timeout": "seconds until a request's headers have arrived",
    "body_timeout": "seconds until its body has arrived",
    "request_timeout": "seconds for a completion",
    "send_timeout": "seconds for a client to continue reading when its answer waits",
    "keep_alive": "seconds of silence before a comment in a stream",
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
    add_models(serve)
    serve.add_argument("--host", default=_LOOPBACK[0], help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=integer, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)")
    serve.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="require one of the keys in this file, one per line; lines that begin with # are comments",
    )
    add_api(serve)
    serve.add_argument(
        "--no-playground", action="store_true", help="serve neither the playground at / nor POST /v1/explain"
    )
    serve.add_argument(
        "--log-level",
        choices=("error", "warning", "info"),
        default="warning",
        help="info: one line per request (default: %(default)s)",
    )
    serve.add_argument("--log-prompts", action="store_true", help="with --log-level info: log prompts, too")
    add_chat_template(serve)
    engine = serve.add_argument_group("the engine of each model")
    add_engine(engine)
    add_share(engine)
    add_limits(serve.add_argument_group("limits on a request"))
    add_settings(serve.add_argument_group("limits of the server"), ServerSettings, _SERVER)
    serve.set_defaults(run=_serve, needs_stdout=False)


def _serve(options: argparse.Namespace, _: list[str]) -> int:
    settings = _settings(options)
    share_seats(options)
    if not 0 <= options.port <= _LARGEST_PORT:  # the system's calls would take it modulo 65,536
        raise ParameterError.single("--port", options.port, f"must be an integer from 0 to {_LARGEST_PORT:,}")
    folders = model_folders(options)
    _require_all(folders)
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
    names, address = list(folders), listener.getsockname()

    def load() -> dict[str, LLM]:
        return {name: _loaded(name, folder, options) for name, folder in folders.items()}

    with listener:
        say(f"listening on port {address[1]}; /health tells when the models are loaded")
        return serve(names, load, listener, settings, lambda: _greet(names, address, settings))


def _greet(names: list[str], address: tuple[Any, ...], settings: ServerSettings) -> None:
    host, port = address[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if host not in _LOOPBACK and not settings.api_keys:
        say("warning: anyone who can reach this address can use the server: no --api-key-file was given")
    page = f"the playground is {url}/, " if settings.playground else ""
    say(f"serving {', '.join(names)} on {url} (Ctrl-C ends it; {page}the API is described at {url}/docs)")


def _settings(options: argparse.Namespace) -> ServerSettings:
    given = vars(options)
    return ServerSettings(
        api=api_settings(options),
        api_keys=_api_keys(options.api_key_file),
        playground=not options.no_playground,
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
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ParameterError.single("--api-key-file", file, "must have a key, one per line")
    if Path(file).stat().st_mode & stat.S_IROTH:
        say(f"warning: every user of this machine can read the keys in {file} (chmod o-r)")
    return keys


def _require_all(folders: dict[str, str | None]) -> None:
    """Raise ModelNotFoundError for a path that leads nowhere, before the server listens."""
    from decoding.models.model_files import existing

    for path in filter(None, folders.values()):
        existing(path)


def _loaded(name: str, folder: str | None, options: argparse.Namespace) -> LLM:
    say(f"loading {name} ...")
    start = time.monotonic()
    llm = load_llm(folder, options)
    set_chat_template(llm, options)
    say(f"loading {name}: {time.monotonic() - start:.1f} s")
    return llm
