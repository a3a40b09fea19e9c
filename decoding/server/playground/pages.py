"""The routes of the playground's page and files, and the headers that forbid the page any other server."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

FOLDER = "/playground/"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
_HEADERS = {
    "content-security-policy": "; ".join(_POLICY),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class _File(NamedTuple):
    """A file of the page. kind: its media type."""

    kind: str
    data: bytes


def add_playground(app: FastAPI) -> None:
    """Add the page at `/` and its files under /playground/. The files are read once."""
    known = _read_files()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _answer(known["index.html"])

    @app.get(FOLDER + "{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in known:
            raise HTTPException(404)
        return _answer(known[name])


def _read_files() -> dict[str, _File]:
    """Return the files beside this module by name."""
    found = {}
    for path in files(__package__).iterdir():
        kind = _TYPES.get(path.name[path.name.rfind(".") :])
        if kind is not None:
            found[path.name] = _File(kind, path.read_bytes())
    return found


def _answer(file: _File) -> Response:
    return Response(file.data, media_type=file.kind, headers=_HEADERS)
