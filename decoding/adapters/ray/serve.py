"""Replicas of our server behind one endpoint, by Ray Serve: the same HTTP API, with streaming.

    ray.serve.run(application({"model": "model.gguf"}, num_replicas=2))

Ray's proxy gives each request to the less busy of two replicas. Results do not depend on which: a request with a seed
gets the same text from each. Ray's prefix-aware router reads prompts of its own LLM deployments only, which hand over
objects with a `prompt`; requests of an HTTP application pass it as bytes, so it cannot be used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve

from decoding.errors import ParameterError
from decoding.llm import LLM
from decoding.server.app import create_app
from decoding.server.edge import Edge
from decoding.server.service import Service
from decoding.server.settings import ServerSettings


def application(
    llm: Mapping[str, Any],
    *,
    name: str | None = None,
    num_replicas: int = 2,
    cpus_per_replica: int = 1,
    settings: ServerSettings | None = None,
) -> serve.Application:
    """Return the application to give to `ray.serve.run`.

    llm: arguments of LLM; num_threads is cpus_per_replica. name: of the model in the API; None is the model's own.
    settings: of each replica's server; its limits count per replica.
    """
    for parameter, value in (("num_replicas", num_replicas), ("cpus_per_replica", cpus_per_replica)):
        if type(value) is not int or value < 1:
            raise ParameterError.single(parameter, value, "must be an integer >= 1")
    limits = ServerSettings() if settings is None else settings
    arguments = {"num_threads": cpus_per_replica} | dict(llm)

    def build() -> Any:
        loaded = LLM(**arguments)
        service = Service([name or loaded.name], limits)
        service.open({name or loaded.name: loaded})
        edge = Edge(service)
        edge.app, service.is_loading = create_app(service), False
        return edge

    deployment = serve.deployment(
        name="decoding",
        num_replicas=num_replicas,
        max_ongoing_requests=limits.max_open_requests,
        ray_actor_options={"num_cpus": cpus_per_replica},
    )(serve.ingress(build)())
    bound: serve.Application = deployment.bind()
    return bound
