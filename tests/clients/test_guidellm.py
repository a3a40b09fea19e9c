"""The load generator guidellm against a server, with the checkpoint's tokenizer and without network access."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("guidellm", reason="needs the extra `clients` (bash tests/clients/run)")


def test_a_load_of_eight_streams(address, folder, tmp_path):
    """Forty requests on eight streams are served without an error, each with the requested number of tokens."""
    prompts = [{"prompt": f"Once upon a time number {index}", "output_tokens_count": 24} for index in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    options = {
        "backend": f"kind=openai_http,target={address},model=stories260K,request_format=/v1/completions",
        "profile": "kind=concurrent,streams=8",
        "constraint": "kind=max_requests,count=40",
        "tokenizer": f"kind=huggingface_auto,model={folder}",
        "data": f"kind=json_file,path={tmp_path}/prompts.jsonl",
        "output": f"kind=json,path={tmp_path}/report.json",
    }
    command = [str(Path(sys.executable).with_name("guidellm")), "run", "--disable-console"]
    done = subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (benchmark,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    metrics = benchmark["metrics"]
    assert metrics["request_totals"] == {"successful": 40, "errored": 0, "incomplete": 0, "total": 40}
    assert metrics["output_token_count"]["successful"]["total_sum"] == 40 * 24
    assert all(one["output"] for one in benchmark["requests"]["successful"])
