"""Batches and replicas on a local Ray cluster of two workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request

import pytest

ray = pytest.importorskip("ray", reason="needs the package ray (bash tests/adapters/run installs it)")
pytest.importorskip("ray.data", reason="needs ray[data]")

from decoding import LLM  # noqa: E402
from decoding.adapters.ray.answers import answers  # noqa: E402
from decoding.adapters.ray.data import Worker, run_batch  # noqa: E402
from decoding.errors import ParameterError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster with two CPUs on this machine, so two workers."""
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield
    ray.shutdown()


def requests(count):
    for number in range(count):
        body = {"model": "bundled", "prompt": f"Number {number}:", "max_tokens": 16, "temperature": 1}
        yield json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body})


@pytest.fixture(scope="module")
def lines():
    """Return requests without seeds."""
    return list(requests(48))


@pytest.fixture(scope="module")
def single(lines):
    """Return the answers of a single process."""
    return sorted(answers(LLM(num_threads=1), lines))


def written(folder):
    return sorted(line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines())


def test_a_batch_survives_its_worker(cluster, lines, single, tmp_path):
    """If a worker is killed, every request is still answered once, with the bytes of a single machine."""
    source, killed = tmp_path / "in.jsonl", tmp_path / "killed"
    source.write_text("\n".join(lines) + "\n")
    (tmp_path / "pids").mkdir()
    hooks = {"pids": str(tmp_path / "pids")}

    class Tracked(Worker):
        """A worker that records its process id and its number of calls."""

        def __call__(self, batch):
            with open(f"{hooks['pids']}/{os.getpid()}", "a") as file:
                file.write("x")
            return super().__call__(batch)

    def kill():
        while not killed.exists():
            for file in (tmp_path / "pids").iterdir():
                if len(file.read_text()) >= 2:  # one batch is answered, the next is running
                    os.kill(int(file.name), signal.SIGKILL)
                    killed.write_text(file.name)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    run_batch(source, tmp_path / "out", num_workers=2, batch_size=4, worker=Tracked)
    thread.join(timeout=5)
    assert killed.exists()
    assert len(list((tmp_path / "pids").iterdir())) >= 2
    assert written(tmp_path / "out") == single


def test_parquet_in_and_out(cluster, lines, single, tmp_path):
    """A Parquet column of requests gives the same answers in a column beside them."""
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"request": lines[:8]}).to_parquet(tmp_path / "in.parquet")
    run_batch(tmp_path / "in.parquet", tmp_path / "out", format="parquet", num_workers=1, batch_size=8)
    found = pandas.read_parquet(tmp_path / "out")
    assert sorted(found["request"]) == sorted(lines[:8])
    assert set(found["answer"]) <= set(single)
    assert len(found) == 8


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"source": "in.csv"}, "must end in .jsonl or .parquet"),
        ({"source": "absent.jsonl"}, "must exist"),
        ({"format": "csv"}, "must be 'jsonl' or 'parquet'"),
        ({"target": "."}, "must not exist"),
        ({"num_workers": 0}, "must be an integer >= 1"),
    ],
)
def test_wrong_arguments(cluster, arguments, rule, tmp_path, lines):
    """A wrong argument is refused by name before anything runs."""
    source = tmp_path / "in.jsonl"
    source.write_text(lines[0])
    with pytest.raises(ParameterError, match=rule):
        run_batch(**{"source": source, "target": tmp_path / "out", "num_workers": 1} | arguments)


def test_replicas_behind_one_endpoint(cluster):
    """Two replicas answer the HTTP API with and without streaming, and a seeded text does not depend on the replica."""
    from ray import serve

    from decoding.adapters.ray.serve import application

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(application({}, num_replicas=2, cpus_per_replica=1))
    try:
        body = {"model": "bundled", "prompt": "Once", "max_tokens": 8, "seed": 3, "temperature": 1}
        texts = {post(port, body)["choices"][0]["text"] for _ in range(12)}
        assert texts == {LLM().complete("Once", _params()).choices[0].text}
        raw = urllib.request.urlopen(_request(port, body | {"stream": True})).read().decode()
        pieces = [json.loads(event[6:]) for event in raw.split("\n\n") if event.startswith("data: {")]
        assert "".join(piece["choices"][0]["text"] for piece in pieces) in texts
    finally:
        serve.shutdown()


def _params():
    from decoding import SamplingParams

    return SamplingParams(max_tokens=8, seed=3, temperature=1)


def _request(port, body):
    url = f"http://127.0.0.1:{port}/v1/completions"
    return urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})


def post(port, body):
    return json.load(urllib.request.urlopen(_request(port, body)))
