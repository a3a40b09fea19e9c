"""Batch inference over Ray Data: a dataset of requests in, a dataset of answers out.

    run_batch("requests.jsonl", "answers", model="model.gguf", num_workers=2)

Each worker is a process with an engine of its own. Results depend on requests only (see `answers`), so any number of
workers, any order and any retry after a failure gives the same bytes, and each request is answered once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data.datasource import BlockBasedFileDatasink

from decoding.adapters.ray.answers import answers
from decoding.errors import ParameterError
from decoding.llm import LLM

REQUEST, ANSWER = "request", "answer"
"""Columns: a line of an OpenAI batch file, and its answer."""

_FORMATS = (".jsonl", ".parquet")
_NO_CPU = {"num_cpus": 0}  # for tasks that wait for files, so that workers may take every CPU of a cluster


class Worker:
    """An engine in a process of its own. llm: arguments of LLM."""

    def __init__(self, llm: Mapping[str, Any]) -> None:
        self._llm = LLM(**llm)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with the answers to its requests."""
        return batch | {ANSWER: np.array(answers(self._llm, list(batch[REQUEST])), dtype=object)}


def answered(
    requests: ray.data.Dataset,
    *,
    num_workers: int,
    cpus_per_worker: int = 1,
    batch_size: int = 64,
    worker: type[Worker] = Worker,
    **llm: Any,
) -> ray.data.Dataset:
    """Return the dataset with a column `answer`; lazily, as Ray Data works.

    requests: has a column `request` of batch lines (`read_requests`).
    num_workers, cpus_per_worker: processes with an engine each; threads of each engine.
    batch_size: requests in an engine at the same time. If a worker dies, its batch is run again.
    worker: Worker, or a subclass that adds to it.
    llm: arguments of LLM; num_threads is cpus_per_worker.
    """
    for name, value in (("num_workers", num_workers), ("cpus_per_worker", cpus_per_worker), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise ParameterError.single(name, value, "must be an integer >= 1")
    return requests.map_batches(
        worker,
        fn_constructor_args=[{"num_threads": cpus_per_worker} | llm],
        batch_size=batch_size,
        num_cpus=cpus_per_worker,
        compute=ray.data.ActorPoolStrategy(size=num_workers),
    )


def read_requests(source: str | os.PathLike[str]) -> ray.data.Dataset:
    """Read requests: JSON lines, or Parquet with the column `request`, which holds such lines.

    ParameterError for a file of another kind, or Parquet without that column.
    """
    path = Path(source)
    if path.suffix not in _FORMATS:
        raise ParameterError.single("source", str(source), f"must end in {' or '.join(_FORMATS)}")
    if not path.exists():
        raise ParameterError.single("source", str(source), "must exist")
    if path.suffix == ".jsonl":
        lines = ray.data.read_text(str(path), ray_remote_args=_NO_CPU)  # without empty ones
        return lines.rename_columns({"text": REQUEST})
    found = ray.data.read_parquet(str(path), ray_remote_args=_NO_CPU)
    if REQUEST not in found.columns():
        raise ParameterError.single("source", str(source), f"must have the column {REQUEST!r}")
    return found.select_columns([REQUEST])


def run_batch(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, format: str = "jsonl", **settings: Any
) -> None:
    """Answer all requests of a file into the folder `target`, which must not exist.

    format: "jsonl", files of answers, one per line, as `decoding batch` writes them; "parquet" has the columns
        `request` and `answer`.
    settings: of `answered`.
    """
    if format not in ("jsonl", "parquet"):
        raise ParameterError.single("format", format, "must be 'jsonl' or 'parquet'")
    if os.path.lexists(target):
        raise ParameterError.single("target", str(target), "must not exist")
    results = answered(read_requests(source), **settings)
    if format == "parquet":
        results.write_parquet(str(Path(target).resolve()), ray_remote_args=_NO_CPU)
    else:
        lines = _Lines(str(Path(target).resolve()), file_format="jsonl")
        results.write_datasink(lines, ray_remote_args=_NO_CPU)


class _Lines(BlockBasedFileDatasink):  # type: ignore[misc]
    """Writes answers as they are, one per line."""

    def write_block_to_file(self, block: Any, file: Any) -> None:
        """Write the answers of a block."""
        for answer in _column(block):
            file.write(answer.encode() + b"\n")


def _column(block: Any) -> Iterable[str]:
    column: Iterable[str] = block.to_arrow().column(ANSWER).to_pylist()
    return column
