"""Metrics of the server, for GET /metrics in Prometheus' format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from decoding.async_engine import AsyncEngine
from decoding.engine.stats import EngineStats

_TOTALS = (
    "num_steps",
    "num_prompt_tokens",
    "num_cached_tokens",
    "num_sampled_tokens",
    "num_draft_tokens",
    "num_accepted_tokens",
    "num_preemptions",
)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters and histograms of one server, in a registry of its own, so that two in a process stay separate."""

    def __init__(self, engines: Mapping[str, AsyncEngine]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineGauges(engines))
        of = self._registry
        self.requests = Counter(
            "decoding_requests", "Requests answered, by route and HTTP status.", ["route", "status"], registry=of
        )
        self.errors = Counter("decoding_errors", "Errors, by the code in their body.", ["code"], registry=of)
        self.prompt_tokens = Counter("decoding_prompt_tokens", "Tokens of prompts.", ["model"], registry=of)
        self.completion_tokens = Counter("decoding_completion_tokens", "Tokens sampled.", ["model"], registry=of)
        self.aborted = Counter("decoding_aborted", "Completions whose client went away.", ["model"], registry=of)
        self.first_token = Histogram(
            "decoding_time_to_first_token_seconds",
            "From a prompt's place in the queue to its first token.",
            ["model"],
            buckets=_SECONDS,
            registry=of,
        )
        self.per_token = Histogram(
            "decoding_time_per_output_token_seconds",
            "Mean time between the tokens of one completion, after the first.",
            ["model"],
            buckets=_SECONDS,
            registry=of,
        )
        self.queue = Histogram(
            "decoding_queue_seconds", "How long prompts waited.", ["model"], buckets=_SECONDS, registry=of
        )
        self.duration = Histogram(
            "decoding_request_seconds", "From a request's arrival to its end.", ["route"], buckets=_SECONDS, registry=of
        )

    def text(self) -> bytes:
        """Return the metrics page."""
        return generate_latest(self._registry)


class _EngineGauges(Collector):
    """The statistics of the engines at the time of a request for the metrics."""

    def __init__(self, engines: Mapping[str, AsyncEngine]) -> None:
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        """Yield one metric per number of EngineStats, with the model as its label."""
        stats = {name: asdict(engine.stats()) for name, engine in self._engines.items()}
        for field in (one.name for one in fields(EngineStats)):
            kind = CounterMetricFamily if field in _TOTALS else GaugeMetricFamily
            metric = kind(f"decoding_engine_{field.removeprefix('num_')}", f"EngineStats.{field}.", labels=["model"])
            for name, values in stats.items():
                metric.add_metric([name], values[field])
            yield metric
