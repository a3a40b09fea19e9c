"""Hostile model folders: each gets an error of ours within seconds, in little memory, and no code of it runs.

One child process loads all of them. It reports the error, the time, the opened files and the peak memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CHILD = """
import json, sys, time
from decoding import LLM, DecodingError

LLM(sys.argv[1])  # so that all imports are done
WATCHED = "open import exec compile pickle.find_class os.system os.exec subprocess.Popen socket.connect".split()
events = []
sys.addaudithook(lambda name, args: events.append([name, str(args[0])]) if name in WATCHED else None)
for folder in sys.argv[2:]:
    events.clear()
    started, raised, text = time.process_time(), None, ""
    try:
        LLM(folder)
    except DecodingError as error:
        raised, text = type(error).__name__, str(error)
    seconds, seen = time.process_time() - started, list(events)
    status = open("/proc/self/status").read()
    peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps([raised, text, seconds, peak, seen]), flush=True)
"""

EMBEDDING = "model.embed_tokens.weight"
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


class Report(NamedTuple):
    """The child's report on a folder."""

    error: str | None
    text: str
    seconds: float
    peak_mb: int
    events: list[list[str]]


def _safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _write(name: str, data: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    """Return a change that replaces a file's contents; `data` may be a function for large contents."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(data if isinstance(data, bytes) else data())

    return change


def _edit(name: str, **values: Any) -> Callable[[Path], None]:
    """Return a change that sets keys of a JSON file."""

    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))

    return change


def _header(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a change that edits the header of the weights and keeps their bytes."""

    def change(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        edit(header)
        (folder / WEIGHTS).write_bytes(_safetensors(json.dumps(header).encode(), raw[start:]))

    return change


def _entry(**values: Any) -> Callable[[Path], None]:
    return _header(lambda header: header[EMBEDDING].update(values))


def _replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a change that puts a pipe, a folder or a link in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def _sharded(weight_map: dict[str, Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "a.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return change


def _write_index(data: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    """Return a change that puts an index in the place of the weights."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        _write(INDEX, data)(folder)

    return change


def _loop(name: str) -> Callable[[Path], None]:
    """Return a change that makes a file a link to itself. For an index it also removes the weights."""

    def change(folder: Path) -> None:
        for path in {folder / name, folder / (WEIGHTS if name == INDEX else name)}:
            path.unlink(missing_ok=True)
        (folder / name).symlink_to(name)

    return change


def _header_bomb(folder: Path) -> None:
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", 99_000_000) + b"{")
        file.truncate(200_000_000)  # sparse


def _half_a_terabyte(folder: Path) -> None:
    """Write sparse weights of half a terabyte for a vocabulary of two billion tokens, all zero."""
    raw = (folder / WEIGHTS).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8:start]), b""
    header.pop("__metadata__", None)
    rows, width = 2**31 - 32, header.pop(EMBEDDING)["shape"][1]
    for entry in header.values():
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = [len(body), len(body) + end - begin]
        body += raw[start + begin : start + end]
    size = 4 * rows * width
    header[EMBEDDING] = {"dtype": "F32", "shape": [rows, width], "data_offsets": [len(body), len(body) + size]}
    with (folder / WEIGHTS).open("wb") as file:
        file.write(_safetensors(json.dumps(header).encode(), body))
        file.truncate(file.tell() + size)
    _edit(CONFIG, vocab_size=rows)(folder)


def _truncated(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 1)


def _escape(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder.parent / "stolen.safetensors")
    _sharded({EMBEDDING: "../stolen.safetensors"})(folder)


def _code(folder: Path) -> None:
    """Add files that other loaders would run: Python modules named by auto_map, and a pickle."""
    program = f"open({str(folder / 'ran')!r}, 'w')"
    (folder / "modeling_evil.py").write_text(program)
    (folder / "pytorch_model.bin").write_bytes(b"cbuiltins\nexec\n(V" + program.encode() + b"\ntR.")
    auto_map = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    _edit(CONFIG, auto_map=auto_map, architectures=["EvilForCausalLM"])(folder)
    (folder / WEIGHTS).unlink()


def _flood(num_tokens: int) -> bytes:
    vocab = ",".join(f'"{index}":{index}' for index in range(num_tokens))
    return b'{"version":"1.0","model":{"type":"BPE","merges":[],"vocab":{' + vocab.encode() + b"}}}"


def _post_processor(folder: Path) -> None:
    template = [{"SpecialToken": {"id": "<evil>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    processor = {"type": "TemplateProcessing", "single": template, "pair": [], "special_tokens": {}}
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
    _edit(TOKENIZER, post_processor=processor | {"pair": pair})(folder)


def _doubling(parts: str, count: int) -> dict[str, Any]:
    return {"type": "Sequence", parts: [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * count}


def _many_start_tokens(folder: Path) -> None:
    """Write a post-processor that adds five thousand ids five thousand times."""
    values = json.loads((folder / TOKENIZER).read_text())
    processor = values["post_processor"]
    processor["single"] = [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 5000 + processor["single"]
    processor["special_tokens"]["<s>"] |= {"ids": [1] * 5000, "tokens": ["<s>"] * 5000}
    (folder / TOKENIZER).write_text(json.dumps(values))


DEEP = b'{"a":' * 100_000
TWICE = b'{"model_type":"llama","model_type":"llama"}'


def _many_values() -> bytes:
    return b'{"a":[' + b"{}," * 5_000_000 + b"{}]}"


def _many_bytes() -> bytes:
    return b'{"a":"' + b"x" * (17 << 20) + b'"}'


def _many_shards() -> bytes:
    return b'{"weight_map":{' + b",".join(b'"%x":"%x.safetensors"' % (i, i) for i in range(520_000)) + b"}}"


def _just_below() -> bytes:
    """Return JSON with as many values and bytes as the limits allow, so that the parser must process all of it."""
    return b'{"a":{' + b",".join(b'"%024x":""' % index for index in range(520_000)) + b"}}"


def _tokenizer_just_below() -> bytes:
    return b'{"model":{"type":"BPE","a":[' + b"1," * 73_000 + b'"' + b"x" * 1_100_000 + b'"]}}'


def _many_regexes(folder: Path) -> None:
    """Write thousands of regular expressions that must be compiled; only the last is invalid."""
    splits = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        for regex in [*["x+|y+"] * 9_000, "("]
    ]
    (folder / TOKENIZER).write_text(
        json.dumps(
            json.loads((folder / TOKENIZER).read_text())
            | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": splits}},
            separators=(",", ":"),
        )
    )


def _many_templates(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    for index in range(300):
        (folder / "additional_chat_templates" / f"{index}.jinja").write_bytes(b"x" * (1 << 20))


CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    # safetensors: name -> (change of a valid folder, error type, pattern of its text)
    "empty": (_write(WEIGHTS, b""), "CheckpointError", WEIGHTS),
    "seven bytes": (_write(WEIGHTS, b"1234567"), "CheckpointError", "has 7 bytes: must begin with 8"),
    "header bomb": (_header_bomb, "CheckpointError", "header too large"),
    "header of 2^64 bytes": (_write(WEIGHTS, b"\xff" * 64), "CheckpointError", "header too large"),
    "header cut off": (_write(WEIGHTS, struct.pack("<Q", 500) + b"{}"), "CheckpointError", "header cut off"),
    "header of many values": (
        _write(WEIGHTS, lambda: _safetensors(_many_values())),
        "CheckpointError",
        "must have at most 524,288 values",
    ),
    "header nested deeply": (_write(WEIGHTS, _safetensors(DEEP)), "CheckpointError", "nested too deeply"),
    "header without JSON": (_write(WEIGHTS, _safetensors(b"\x80\x04" * 9)), "CheckpointError", "not valid JSON"),
    "header with a name twice": (
        _write(WEIGHTS, _safetensors(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"shape":[9]}}')),
        "CheckpointError",
        "the name 'shape' twice",
    ),
    "one byte short": (_truncated, "CheckpointError", WEIGHTS),
    "offsets that overlap": (_entry(data_offsets=[4, 131076]), "CheckpointError", WEIGHTS),
    "offsets that overflow": (_entry(data_offsets=[0, 2**64 - 1]), "CheckpointError", WEIGHTS),
    "offsets below zero": (_entry(data_offsets=[-8, 131064]), "CheckpointError", WEIGHTS),
    "a shape that overflows": (_entry(shape=[2**63, 2]), "CheckpointError", WEIGHTS),
    "a shape of floats": (_entry(shape=[512.0, 64]), "CheckpointError", WEIGHTS),
    "a shape that is not the config's": (_entry(shape=[64, 512]), "CheckpointError", EMBEDDING),
    "a dtype of the same size": (_entry(dtype="I32"), "CheckpointError", f"{EMBEDDING}: has dtype I32"),
    "a dtype that is unknown": (_entry(dtype="F99"), "CheckpointError", WEIGHTS),
    "a tensor missing": (
        _header(lambda h: h.update(other=h.pop(EMBEDDING))),
        "CheckpointError",
        f"{EMBEDDING}: is missing",
    ),
    "half a terabyte": (_half_a_terabyte, "CheckpointError", f"{EMBEDDING}: needs 549,755,805,696 bytes of memory"),
    "a pipe for weights": (_replace(WEIGHTS, os.mkfifo), "CheckpointError", "must be a regular file"),
    "a folder for weights": (_replace(WEIGHTS, Path.mkdir), "CheckpointError", "must be a regular file"),
    "a device for weights": (
        _replace(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
        "CheckpointError",
        "must be a regular file",
    ),
    "a link to nowhere": (_replace(WEIGHTS, lambda path: path.symlink_to("gone")), "CheckpointError", "is missing"),
    "a link to itself": (_replace(WEIGHTS, lambda path: path.symlink_to(path)), "CheckpointError", WEIGHTS),
    "header at the limits": (_write(WEIGHTS, lambda: _safetensors(_just_below())), "CheckpointError", WEIGHTS),
    # the index
    "an index that leads out": (_escape, "CheckpointError", "beside the index"),
    "an index that leads to the root": (_sharded({EMBEDDING: "/etc/passwd"}), "CheckpointError", "beside the index"),
    "an index of pickles": (_sharded({EMBEDDING: "pytorch_model.bin"}), "CheckpointError", "beside the index"),
    "an index with a shard missing": (
        _sharded({EMBEDDING: "b.safetensors"}),
        "CheckpointError",
        "b.safetensors: is missing",
    ),
    "an index that lies": (_sharded({EMBEDDING: "a.safetensors"}), "CheckpointError", "in this shard and in"),
    "an index with a long name": (
        _sharded({EMBEDDING: "a" * 5000 + ".safetensors"}),
        "CheckpointError",
        "beside the index",
    ),
    "an index with a name that is too long for the disk": (
        _sharded({EMBEDDING: "é" * 200 + ".safetensors"}),
        "CheckpointError",
        "File name too long",
    ),
    "an index with half a character": (
        _write_index(b'{"weight_map":{"a":"\\ud800.safetensors"}}'),
        "CheckpointError",
        "beside the index",
    ),
    "an index of half a million shards": (_write_index(_many_shards), "CheckpointError", "at most 16,384 shards"),
    "an index that links to itself": (_loop(INDEX), "CheckpointError", "must be a regular file"),
    "an index of numbers": (_sharded({EMBEDDING: 3}), "CheckpointError", "weight_map"),
    # config.json
    "a config of many values": (
        _write(CONFIG, _many_values),
        "CheckpointError",
        "must have at most 524,288 values|bytes",
    ),
    "a config of many bytes": (_write(CONFIG, _many_bytes), "CheckpointError", "must have at most 16,777,216 bytes"),
    "a config at the limits": (_write(CONFIG, _just_below), "CheckpointError", "model_type: is missing"),
    "a config nested deeply": (_write(CONFIG, DEEP), "CheckpointError", "nested too deeply"),
    "a config with a key twice": (_write(CONFIG, TWICE), "CheckpointError", "the name 'model_type' twice"),
    "a config that is a pipe": (_replace(CONFIG, os.mkfifo), "CheckpointError", "must be a regular file"),
    "a config that links to itself": (_loop(CONFIG), "CheckpointError", "must be a regular file"),
    "a generation_config that links to nowhere": (
        _loop("generation_config.json"),
        "CheckpointError",
        "generation_config.json: must be a regular file",
    ),
    "a config that is a list": (_write(CONFIG, b"[]"), "CheckpointError", "must be a JSON object"),
    "huge layers": (_edit(CONFIG, num_hidden_layers=2**31 - 1), "CheckpointError", "num_hidden_layers"),
    "huge width": (_edit(CONFIG, hidden_size=2**30), "CheckpointError", EMBEDDING),
    "a huge vocabulary": (_edit(CONFIG, vocab_size=2**31 - 1), "CheckpointError", EMBEDDING),
    "a vocabulary beyond 64 bits": (_edit(CONFIG, vocab_size=10**400), "CheckpointError", "vocab_size"),
    "eos beyond the vocabulary": (
        _edit("generation_config.json", eos_token_id=[2, 512]),
        "CheckpointError",
        "eos_token_id",
    ),
    "code in the folder": (_code, "ModelNotFoundError", r"pytorch_model\.bin is not read"),
    # the tokenizer
    "a tokenizer of many values": (
        _write(TOKENIZER, b"[" + b"1," * 80_000 + b"1]"),
        "TokenizerError",
        "must have at most 73,728 values",
    ),
    "a tokenizer of many bytes": (
        lambda folder: os.truncate(folder / TOKENIZER, 65 << 20),
        "TokenizerError",
        "must have at most 1,310,720 bytes",
    ),
    "a tokenizer with a long regular expression": (
        _edit(TOKENIZER, pre_tokenizer={"type": "Split", "pattern": {"Regex": "a|b" * 3_000_000}}),
        "TokenizerError",
        "must have at most 1,310,720 bytes",
    ),
    "a tokenizer with many regular expressions": (_many_regexes, "TokenizerError", "is not valid"),
    "a tokenizer at the limits": (
        _write(TOKENIZER, _tokenizer_just_below),
        "TokenizerError",
        "is not valid",
    ),
    "a tokenizer nested deeply": (_write(TOKENIZER, b"[" * 70_000), "TokenizerError", TOKENIZER),
    "a tokenizer that is no JSON": (_write(TOKENIZER, b"\x80\x04."), "TokenizerError", TOKENIZER),
    "a tokenizer cut off": (_write(TOKENIZER, b'{"version": "1.0", "model": {'), "TokenizerError", TOKENIZER),
    "a tokenizer with too many ids": (
        _write(TOKENIZER, lambda: _flood(70_000)),
        "TokenizerError",
        "largest token id 69999",
    ),
    "a tokenizer that is a pipe": (_replace(TOKENIZER, os.mkfifo), "TokenizerError", "must be a regular file"),
    "a tokenizer that is a folder": (_replace(TOKENIZER, Path.mkdir), "TokenizerError", "must be a regular file"),
    "a normalizer that panics": (
        _edit(TOKENIZER, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "TokenizerError",
        TOKENIZER,
    ),
    "a post-processor that panics": (_post_processor, "TokenizerError", TOKENIZER),
    "a decoder that doubles": (_edit(TOKENIZER, decoder=_doubling("decoders", 40)), "TokenizerError", "decoder makes"),
    "a normalizer that doubles": (
        _edit(TOKENIZER, normalizer=_doubling("normalizers", 2000)),
        "TokenizerError",
        "normalizer makes a text up to inf times as long",
    ),
    "a post-processor that multiplies": (_many_start_tokens, "TokenizerError", "post_processor must have at most 64"),
    "a decoder that is unknown": (_edit(TOKENIZER, decoder={"type": "Evil"}), "TokenizerError", TOKENIZER),
    "a token of two ids": (_write(TOKENIZER_CONFIG, b'{"bos_token":"a","bos_token":"b"}'), "TokenizerError", "twice"),
    "chat templates without end": (_many_templates, "TokenizerError", "must have at most 64 chat templates"),
    "a chat template without end": (
        _write("chat_template.jinja", b"{" * (1 << 21)),
        "TokenizerError",
        r"chat_template\.jinja must have at most",
    ),
}


@pytest.fixture(scope="module")
def reports(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Report]]:
    """Yield the child's reports by case. Fail if the child hangs or dies."""
    root = tmp_path_factory.mktemp("hostile")
    good = shared / "models" / "stories260K"
    for index, (change, _, _) in enumerate(CASES.values()):
        shutil.copytree(good, root / str(index), copy_function=shutil.copyfile)
        change(root / str(index))
    command = [sys.executable, "-c", CHILD, str(good), *(str(root / str(index)) for index in range(len(CASES)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = [Report(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(lines) == len(CASES), f"{list(CASES)[len(lines)]}: {done.stderr[-2000:]}"
    yield dict(zip(CASES, lines, strict=True))
    shutil.rmtree(root)


@pytest.mark.parametrize("case", CASES)
def test_hostile_folders_are_refused(reports: dict[str, Report], case: str) -> None:
    """A hostile folder raises the expected error, with its file and rule, in less than five seconds."""
    _, error, text = CASES[case]
    report = reports[case]
    assert report.error == error, report.text
    assert re.search(text, report.text), report.text
    assert len(report.text) < 1000
    assert report.seconds < 5


def test_peak_memory(reports: dict[str, Report]) -> None:
    """All cases together, with the library and a valid model, need less than 300 MB."""
    assert max(report.peak_mb for report in reports.values()) < 300


def test_nothing_is_run_and_nothing_else_is_opened(reports: dict[str, Report]) -> None:
    """Loading runs no import, code or process, and opens only the files of a model and the CPU quota."""
    names = {
        "cpu.max",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
        CONFIG,
        "generation_config.json",
        WEIGHTS,
        "a.safetensors",
        TOKENIZER,
        TOKENIZER_CONFIG,
        "chat_template.jinja",
    }
    for case, report in reports.items():
        for event, subject in report.events:
            assert event == "open", (case, event, subject)
            assert Path(subject).name in {*names, INDEX}, (case, subject)
