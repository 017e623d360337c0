"""File locks that are known to work: two processes never both hold one.

    with take(workdir / ".lock"):         # filelock.Timeout if another process holds it
        ...

The kernel gives a lock back when its process ends, however that ends. Not detected: a network file
system on which a lock excludes only processes of the same host (NFS mounted with `nolock`).
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
    # This comes first, because filelock would wait for a lock file that was left there. Unlocking a
    # file that is not locked does nothing.
    flock(path, fcntl.LOCK_UN)
    lock = FileLock(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the warning that it falls back to such a lock, which is refused below
            held = lock.acquire(timeout=timeout)
    except (OSError, NotImplementedError) as err:  # the latter of older versions of filelock
        if isinstance(err, Timeout):
            raise
        raise no_locks(path, str(err)) from err
    try:
        if flock(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise no_locks(path, "a second lock on the same file was granted")
    except BaseException:
        lock.release(force=True)
        raise
    return held


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file now; a file that is not there is not made."""
    if not path.exists():
        return False
    try:
        with take(path):
            return False
    except Timeout:
        return True


def flock(path: Path, operation: int) -> bool:
    """Opens the file, made if need be, for this operation; returns whether the system granted it.

    A lock belongs to an open file, so this process is refused a second one like any other process.

    Raises:
      InputError: the file cannot be opened, or the file system has no working locks.
    """
    try:
        # Opened for writing, because NFS does not lock a file that is opened read-only.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as err:
        raise InputError(f"{path}: cannot open the lock file: {err.strerror}") from err
    try:
        fcntl.flock(descriptor, operation)
    except OSError as err:
        if err.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise no_locks(path, f"flock: {err.strerror}") from err
    finally:
        os.close(descriptor)
    return True


def no_locks(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path.parent}: this file system has no working file locks ({reason}), so two processes "
        "could write here at once; choose a directory on another file system"
    )
