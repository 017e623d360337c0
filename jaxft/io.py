r"""Atomic file writes, safe against kills, power cuts and concurrent writers, and JSON files.

replace_text(Path("runs/acl/DONE"), "")
replace_bytes(Path("runs/acl/adapter/trained.safetensors"), data)
write_json(Path("runs/acl/results.json"), {"test": {"accuracy": 0.69}})
read_json(Path("runs/acl/results.json"))["test"]
"""

import errno
import json
import math
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxft.errors import InputError, OutputError, one_line

# A full disk, a quota, a read-only file system, a limit on the size of files: no fault of the
# program, and a run continues once there is room. So are a directory of somebody else, and a path
# through a file or onto a directory.
UNWRITABLE: tuple[int, ...] = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
UNWRITABLE += (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)

# Errors of some network file systems, which cannot flush a directory and keep their own order.
NO_FSYNC = (errno.EINVAL, errno.ENOTSUP)


def replace_text(path: Path, text: str) -> None:
    """Writes a file as UTF-8; see `replace_bytes`."""
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a file through a temporary one, so that a kill leaves the old file or the new one.

    Each writer has its own temporary file; if two write at once, the later content stays. The
    content is on disk before the name is, and the name before this returns: otherwise some file
    systems leave an empty file under the new name after a power cut.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as err:  # a full disk, above all
        with suppress(OSError):  # on a disk that is read-only by now
            temporary.unlink(missing_ok=True)
        reason = unwritable(err)
        if reason:
            raise OutputError(f"{path}: cannot be written: {reason}") from err
        raise
    sync_directory(path.parent)


def unwritable(error: BaseException) -> str | None:
    """Returns why a file could not be written: `No space left on device`; None for other errors.

    TensorStore and orbax raise other exceptions, whose text has the system's.
    """
    known = {number: os.strerror(number) for number in UNWRITABLE}
    if isinstance(error, OSError) and error.errno in known:
        return known[error.errno]
    return next((reason for reason in known.values() if reason in str(error)), None)


def sync_directory(directory: Path) -> None:
    """Writes a directory's entries to disk, where the system can do so."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno not in NO_FSYNC:
            raise
    finally:
        os.close(descriptor)


def keep_text(path: Path, text: str) -> None:
    """Writes a file of a cache, and its folder, if there is room: it can be made again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)


def write_json(path: Path, content: Any) -> None:
    """Replaces a file as a whole; a kill leaves the old one or the new one."""
    text = json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    replace_text(path, text + "\n")


def finite(tree: Any) -> Any:
    """The same with None for NaN and infinity, which JSON lacks and a diverged run has."""
    if isinstance(tree, dict):
        return {name: finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replaces a file as a whole; each row becomes a JSON object on a line."""
    lines = (json.dumps(finite(row), ensure_ascii=False, allow_nan=False) for row in rows)
    replace_text(path, "".join(f"{line}\n" for line in lines))


def read_json(path: Path) -> Any:
    """Returns a JSON file of a run.

    Raises:
      InputError: it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise InputError(f"{path}: not there; is {path.parent} a run of jaxft.train?") from err
    except ValueError as err:
        raise InputError(f"{path}: not valid JSON ({err})") from err


def user_path(text: str, field: str) -> Path:
    """Returns a path that a user gave, with `~` and `~name` in place.

    Raises:
      InputError: there is no user of this name, or no path can be this text.
    """
    try:
        path = Path(text).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, ValueError) as err:
        raise InputError(f"{field}: {text!r} cannot be a path ({one_line(err)})") from err
    return path


def inside(directory: Path, name: str) -> Path:
    """Returns the path of a file in a directory.

    Raises:
      InputError: it is not a plain file there, or a link that leaves the directory.
    """
    path = directory / name
    # The hub's cache keeps the files of a snapshot in a folder beside all snapshots.
    is_snapshot = directory.parent.name == "snapshots"
    root = directory.parents[1] if is_snapshot else directory
    if Path(name).name != name or not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path}: outside of {directory}; expected a file in it")
    if not path.is_file():
        raise InputError(f"{path}: not there, or not a file")
    return path
