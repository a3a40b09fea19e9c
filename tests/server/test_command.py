"""`decoding serve` reports an error before it serves in one line, with exit code 2."""

from __future__ import annotations

import socket

import pytest

from decoding import cli


@pytest.fixture(autouse=True)
def _never_serves(monkeypatch):
    """Replace `serve` by a function that loads the models and then fails the test."""

    def serve(names, load, *_):
        load()
        pytest.fail("it serves")

    monkeypatch.setattr("decoding.server.run.serve", serve)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--port", "99999"], "--port=99999: must be an integer from 0 to 65,535"),
        (["--port", "x"], "--port: 'x' is not an integer"),
        (["--host", "999.1.1.1"], "cannot be listened on"),
        (["--host", "a..b"], "cannot be listened on"),
        (["--host", "a" * 300], "cannot be listened on"),
        (["--model", "=x"], "--model='=x': must be NAME=PATH"),
        (["--model", "no/such/name"], "'no/such/name': there is no such folder or file"),
        (["--allow-profiles", "vllm,llama"], "profiles='llama': must be of 'openai', 'transformers'"),
        (["--profile", "llama"], "profile='llama': must be one of"),
        (["--model", "a=x", "--model", "a=y"], "'a' is taken"),
        (["--model", "a\udcff=x"], "must be valid Unicode"),
        (["no/such/\udcff"], "must be valid Unicode"),
        (["no/such/folder"], "no such folder"),
        (["--api-key-file", "no/such/file"], "cannot read"),
        (["--max-n", "0"], "max_n=0: must be an integer from 1"),
        (["--request-timeout", "nan"], "request_timeout=nan: must be a finite number > 0"),
        (["--max-num-seqs", "0"], "max_num_seqs=0"),
        (["--max-running", "0"], "max_num_seqs=0"),
        (["--speculation", "no/such/folder"], "no such folder"),
        (["--num-draft-tokens", "0"], "num_draft_tokens=0"),
        (["--log-level", "loud"], "--log-level"),
    ],
)
def test_one_line_and_exit_code_2(arguments, expected, capsys):
    """A wrong argument ends the command with exit code 2 and one line that names the flag and the rule."""
    assert cli.main(["serve", "--port=0", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("decoding: error: ")
    assert expected in error


def test_a_port_in_use(capsys):
    """A port in use is reported before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert cli.main(["serve", f"--port={other.getsockname()[1]}"]) == 2
    said = capsys.readouterr().err
    assert "cannot be listened on" in said
    assert "loading" not in said


def test_key_files_without_valid_keys(capsys, tmp_path):
    """A key file without keys, or with a key that is not ASCII, is an error."""
    for content in (b"", b"\n \n", b"k\xc3\xa9y\n"):
        (tmp_path / "keys").write_bytes(content)
        assert cli.main(["serve", "--port=0", "--api-key-file", str(tmp_path / "keys")]) == 2
        assert "--api-key-file" in capsys.readouterr().err


def test_an_open_address_without_keys_gives_a_warning(serve):
    """A server that listens beyond loopback without keys writes a warning to stderr."""
    server = serve("--host=0.0.0.0")
    assert any("anyone who can reach this address" in line for line in server.lines)
