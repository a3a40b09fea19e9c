"""Requests by schemathesis from the OpenAPI document: no 5xx, declared statuses and bodies, invalid ones refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="needs the extra `clients` (bash tests/clients/run)")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "use_after_free",
    "ignored_auth",
    "missing_required_header",
)
"""All checks but one, which requires that every value of the schema is accepted. Rules between fields (best_of >= n,
min_tokens <= max_tokens, stream_options only with stream) and those of the model (its context, its fill-in-the-middle
tokens) cannot be in a schema."""


def test_the_openapi_document(address, tmp_path):
    """Examples, boundary values, fuzzing and stateful sequences with a fixed seed pass all CHECKS."""
    command = Path(sys.executable).with_name("schemathesis")
    assert shutil.which(command)
    done = subprocess.run(
        [
            str(command),
            "run",
            f"{address}/openapi.json",
            "--checks",
            ",".join(CHECKS),
            "--max-examples=100",
            "--seed=1",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
