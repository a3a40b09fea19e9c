"""The static library inside a host's shared object exports nothing, so two versions can be in one process."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into ELF files"),
]

HOST = '#include "decoding.h"\nint NAME(void) { return decoding_stream_version(); }\n'


@pytest.fixture(scope="module")
def shared_host(
    csrc: Path, prefix: Path, run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], Path]:
    """Return a function that builds a shared object around the static library with a given stream version."""
    folder = tmp_path_factory.mktemp("hosts")

    def shared_host(name: str, version: int) -> Path:
        source, include = folder / f"{name}.c", folder / name
        source.write_text(HOST.replace("NAME", name))
        include.mkdir()
        header = (csrc / "decoding.h").read_text()
        (include / "decoding.h").write_text(
            header.replace("#define DECODING_STREAM_VERSION 1", f"#define DECODING_STREAM_VERSION {version}")
        )
        api, library = folder / f"{name}_api.o", folder / f"lib{name}.so"
        flags = ["-std=c11", "-fPIC", "-ffp-contract=off", f"-I{include}", f"-I{csrc}"]
        run("cc", *flags, "-fvisibility=hidden", "-c", csrc / "sampling" / "api.c", "-o", api)
        archive = prefix / "lib" / "libdecoding.a"
        run("cc", *flags, "-shared", source, api, archive, "-lm", "-o", library)
        return library

    return shared_host


def test_the_static_library_exports_nothing(shared_host: Callable[[str, int], Path], run: Callable[..., str]) -> None:
    """The host's shared object exports only the host's function."""
    exported = run("nm", "--dynamic", "--defined-only", shared_host("alone", 1)).splitlines()
    assert [line.split()[-1] for line in exported] == ["alone"]


def test_two_versions_in_one_process(shared_host: Callable[[str, int], Path]) -> None:
    """Two shared objects with global symbols call their own versions of the library."""
    hosts = {
        name: ctypes.CDLL(str(shared_host(name, version)), mode=ctypes.RTLD_GLOBAL)
        for name, version in (("older", 1), ("newer", 999))
    }
    assert [getattr(hosts[name], name)() for name in hosts] == [1, 999]


def test_the_licence_is_installed(prefix: Path, csrc: Path) -> None:
    """The installed library and the folder of the sources have the project's licence."""
    text = (csrc.parent / "LICENSE").read_text()
    assert (csrc / "LICENSE").read_text() == text
    assert (prefix / "share" / "licenses" / "decoding" / "LICENSE").read_text() == text
