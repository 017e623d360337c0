"""File locks that are known to work: two processes never both hold one.

    with take(workdir / ".lock"):         # filelock.Timeout if another process holds it
        ...

The kernel gives a lock back when its process ends, however that ends.
"""

import errno
import fcntl
import os
import warnings
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from jaxft.errors import InputError


def take(path: Path, timeout: float = 0) -> AcquireReturnProxy:
    """Returns the lock of a file, held; leaving its `with` gives it back.

    Args:
      timeout: seconds to wait for another holder.

    Raises:
      filelock.Timeout: another process holds it.
      InputError: the file system has no working locks. filelock would take the mere existence of
        the file for a lock then, and a killed process would hold it for ever.
    """
    lock = FileLock(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it falls back to such a lock: refused below
            held = lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except OSError as err:
        raise no_locks(path, err.strerror or str(err)) from err
    try:
        reason = why_not_exclusive(path)
        if reason:
            raise no_locks(path, reason)
    except BaseException:
        lock.release(force=True)
        raise
    return held


def why_not_exclusive(path: Path) -> str | None:
    """Says why the lock on a file that this process holds keeps nobody out; None if it does.

    A lock belongs to an open file, so a second one of this process is refused like another's.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError as err:
        return f"the lock file cannot be opened: {err.strerror}"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        return f"flock: {err.strerror}"
    finally:
        os.close(descriptor)
    return "a second lock on the same file was granted"


def no_locks(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path.parent}: this file system has no working file locks ({reason}), so two processes "
        "could write here at once; choose a directory on another file system"
    )
