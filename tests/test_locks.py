"""Locks: one holder at a time, and a file system without any is refused, not worked around."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from jaxft import locks

# What a network file system without a lock daemon says, or one that grants every lock.
SHIM = """
#include <errno.h>
int flock(int descriptor, int operation) {
    if (FAILURE == 0) return 0;
    errno = FAILURE;
    return -1;
}
"""
TAKE = """
import sys
from pathlib import Path
from jaxft import locks
from jaxft.errors import InputError
try:
    with locks.take(Path(sys.argv[1])):
        print("held")
except InputError as err:
    print(err)
"""


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.take(path), pytest.raises(Timeout):
        locks.take(path)
    with locks.take(path):
        pass


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("ENOSYS", "not implemented"),
        ("ENOLCK", "No locks available"),
        ("EOPNOTSUPP", "not supported"),
        ("0", "a second lock on the same file was granted"),
    ],
)
def test_a_file_system_without_working_locks_is_refused(
    failure: str, reason: str, tmp_path: Path
) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build a flock that fails")
    source, library = tmp_path / "flock.c", tmp_path / "flock.so"
    source.write_text(SHIM)
    build = ["gcc", "-shared", "-fPIC", f"-DFAILURE={failure}", "-o", library, source]
    subprocess.run(build, check=True)
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TAKE, tmp_path / "run" / ".lock"],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "has no working file locks" in done.stdout, done.stderr
    assert reason.lower() in done.stdout.lower()
    assert str(tmp_path / "run") in done.stdout
