"""POST /v1/explain: what each stage of the sampler did to the distribution that a token was drawn from."""

from __future__ import annotations

import json

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from decoding.async_engine.worker_threads import WorkerThreads
from decoding.completions_api.explain import EXPLAIN_FIELDS, ExplainRequest, parse_explain
from decoding.completions_api.explain_schema import ExplanationObject, explanation_object
from decoding.errors import TokenizerError
from decoding.server.body import read_json
from decoding.server.openapi import completion_schema, error_responses, json_body, model_of
from decoding.server.service import Served, Service, wire_error
from decoding.server.waiting import ClientGoneError, unless_gone
from decoding.text.tokenizer import Tokenizer

_EXPLAINING = WorkerThreads(1, "decoding explanations")
"""One thread in the process: an explanation takes a pass over the logits per stage, which no other request awaits."""

_STATUSES = (400, 401, 404, 408, 413, 415, 429, 431, 500, 503, 504)


def add_explain_route(app: FastAPI, service: Service) -> None:
    """Add the route."""
    example = {
        "model": next(iter(service.models)),
        "prompt": "def add(a, b):",
        "temperature": 0.8,
        "top_p": 0.9,
        "seed": 7,
        "token_ids": [],
    }

    @app.post(
        "/v1/explain",
        summary="Explain how a token was drawn",
        responses={200: {"model": model_of(ExplanationObject)}, **error_responses(*_STATUSES)},
        openapi_extra=json_body(_explain_schema(service), example),
        tags=["completions"],
    )
    async def explain(request: Request) -> Response:
        return await _explain(service, request)


async def _explain(service: Service, request: Request) -> Response:
    """Answer one request. Raise ApiError or an error of the library if it cannot be answered."""
    api, default_model = service.settings.api, service.default_model
    parsed = await read_json(request, service, lambda fields: parse_explain(fields, api, default_model))
    completion = parsed.completion
    request.scope["record"]["model"] = completion.model[:128]
    if service.settings.log_prompts:
        request.scope["record"]["prompt"] = completion.prompts
    model = service.model(completion.model)
    try:
        answer = await unless_gone(request, _explained(model, parsed), service.settings.request_timeout)
    except ClientGoneError:
        service.metrics.aborted.labels(completion.model).inc()
        raise
    except Exception as error:
        raise wire_error(error, completion.given) from error
    return Response(json.dumps(answer, allow_nan=False), media_type="application/json")


async def _explained(model: Served, request: ExplainRequest) -> ExplanationObject:
    """Repeat the draw in the engine, and explain it in a separate thread."""
    completion = request.completion
    draw = await model.engine.past_draw(
        completion.prompts[0],
        completion.params,
        request.token_ids,
        request.position,
        choice=request.choice,
        profile=completion.profile,
    )
    fingerprint, tokenizer = model.llm.fingerprint(completion.profile), _tokenizer_of(model)
    return await _EXPLAINING.start(lambda check: explanation_object(request, draw, tokenizer, fingerprint))


def _tokenizer_of(model: Served) -> Tokenizer | None:
    try:
        return model.llm.tokenizer
    except TokenizerError:
        return None


def _explain_schema(service: Service) -> dict[str, object]:
    """Return the JSON Schema of a request: the fields of a completion request and the fields of explain."""
    api = service.settings.api
    vocab_size = max(model.llm.vocab_size for model in service.models.values())
    schema = completion_schema(api, vocab_size, needs_model=service.default_model is None)
    own = {
        field.name: {
            "description": field.description,
            "anyOf": [
                field.schema_under(api.limits),
                *([] if field.name == "token_ids" else [{"type": "null"}]),
            ],
        }
        for field in EXPLAIN_FIELDS
    }
    return {
        **schema,
        "required": [*schema["required"], "seed", "token_ids"],
        "properties": {**schema["properties"], **own},
    }
