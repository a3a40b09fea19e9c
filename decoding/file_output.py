"""Write a file as a whole, or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write text (UTF-8) to a file, whose content is replaced at once.

    An existing file keeps its mode, and its owner where the system allows it. A symbolic link stays a link: the file
    that it names is replaced. Other files, such as a device or a FIFO, are written to directly. Raises OSError.
    """
    found = _status(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        with open(path, "w", encoding="utf-8") as device:
            device.write(text)
        return
    _replace(Path(os.path.realpath(path)), text, found)


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    """Return the status of the file at a path; None if there is no file."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _replace(target: Path, text: str, found: os.stat_result | None) -> None:
    """Write a temporary file in the target's folder, then rename it to the target."""
    beside = target.parent / f".decoding-{secrets.token_hex(8)}.tmp"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            if found is not None:
                _take_over(descriptor, found)
            file.write(text)
        os.replace(beside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def _take_over(descriptor: int, found: os.stat_result) -> None:
    """Give a new file the owner and the mode of the one that it replaces."""
    with suppress(PermissionError):
        os.fchown(descriptor, found.st_uid, found.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
