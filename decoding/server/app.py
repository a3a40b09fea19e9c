"""The application: its routes, and the handling of errors."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from decoding.completions_api.errors import ApiError
from decoding.errors import DecodingError
from decoding.server.chat import add_chat_route
from decoding.server.completions import complete
from decoding.server.edge import error_headers
from decoding.server.explain import add_explain_route
from decoding.server.openapi import completion_responses, completion_schema, error_responses, json_body
from decoding.server.playground.pages import add_playground
from decoding.server.service import Service, wire_error
from decoding.server.tokens import add_token_routes
from decoding.server.waiting import ClientGoneError
from decoding.version import __version__

_CLIENT_GONE = 499
_OPEN: dict[str, Any] = {"tags": ["operations"], "openapi_extra": {"security": []}}
_DESCRIPTION = (
    "Completions of language models, reproducible to the bit. The same request with the same seed gives the same text."
)


def create_app(service: Service) -> ASGIApp:
    """Return the ASGI application that serves the models of a service, which has been opened; `Edge` goes around it."""
    app = FastAPIOffline(  # its page takes nothing from the network, so that it is there where the server is
        title="decoding",
        version=__version__,
        description=_DESCRIPTION,
        redoc_url=None,
        redirect_slashes=False,
        static_url="/docs/static",
        swagger_ui_parameters={"validatorUrl": None},
    )
    _add_completions(app, service)
    add_chat_route(app, service)
    if service.settings.playground:
        add_playground(app)
        add_explain_route(app, service)
    _add_models(app, service)
    _add_operations(app, service)
    add_token_routes(app, service)
    if service.settings.api_keys:
        app.openapi()["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi()["security"] = [{"key": []}]
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(DecodingError, _any_error)
    app.add_exception_handler(Exception, _any_error)
    app.add_exception_handler(ClientGoneError, _client_gone)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    return app


def _add_completions(app: FastAPI, service: Service) -> None:
    name = next(iter(service.models))
    example = {"model": name, "prompt": "def add(a, b):", "max_tokens": 16, "temperature": 0.8, "seed": 7}
    vocab_size = max(model.llm.vocab_size for model in service.models.values())
    schema = completion_schema(service.settings.api, vocab_size, needs_model=service.default_model is None)

    @app.post(
        "/v1/completions",
        summary="Complete a prompt",
        responses=completion_responses(),
        openapi_extra=json_body(schema, example),
        tags=["completions"],
    )
    async def completions(request: Request) -> Response:
        return await complete(service, request)


def _add_models(app: FastAPI, service: Service) -> None:
    def described(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "decoding",
            "max_model_len": service.model(name).llm.max_model_len,
        }

    @app.get("/v1/models", summary="The models of this server", tags=["models"], responses=error_responses(401, 503))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described(name) for name in service.models]}

    @app.get("/v1/models/{name:path}", summary="One model", tags=["models"], responses=error_responses(401, 404, 503))
    async def model(name: str) -> dict[str, Any]:
        return described(name)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the server takes work", responses=_not_ready(), **_OPEN)
    @app.get("/health/ready", include_in_schema=False)
    async def health() -> Response:
        status = service.status
        return JSONResponse({"status": status, "models": service.names}, 200 if status == "ready" else 503)

    @app.get("/health/live", summary="Whether the process answers at all", **_OPEN)
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get(
        "/metrics",
        summary="Prometheus metrics",
        tags=["operations"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **error_responses(401, 503)},
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _not_ready() -> dict[int | str, dict[str, Any]]:
    return {503: {"description": "Loading, shutting down, or an engine has failed."}}


async def _any_error(request: Request, error: Exception) -> Response:
    return _answer(request, wire_error(error))


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer a request for an unknown route, or with a method that the route does not have."""
    assert isinstance(error, HTTPException)
    rules = {
        404: "there is nothing at this path (GET /openapi.json tells what there is)",
        405: "this path has other methods",
    }
    told = ApiError(error.status_code, rules.get(error.status_code, "the request is not right"), code="no_such_route")
    answer = _answer(request, told)
    answer.headers.update(error.headers or {})
    return answer


async def _client_gone(request: Request, error: Exception) -> Response:
    """Return a response for the log and the metrics only; the client has left."""
    request.scope["record"]["code"] = "client_gone"
    return Response(status_code=_CLIENT_GONE)


def _answer(request: Request, error: ApiError) -> Response:
    request.scope["record"]["code"] = error.code
    body = json.dumps(error.body()).encode()
    answer = Response(body, error.status)
    answer.raw_headers = error_headers(error, body)
    return answer
