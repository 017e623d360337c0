"""Locks: one holder at a time, and a file system without any is refused, not worked around."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from jaxft import locks
from jaxft.errors import InputError

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


ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from jaxft import locks
with locks.take(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def broken_flock(directory: Path, failure: str) -> Path:
    """A library to preload, in which flock fails like this; "0" grants every lock."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build a flock that fails")
    source, library = directory / "flock.c", directory / "flock.so"
    source.write_text(SHIM)
    build = ["gcc", "-shared", "-fPIC", f"-DFAILURE={failure}", "-o", library, source]
    subprocess.run(build, check=True)
    return library


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.take(path), pytest.raises(Timeout):
        locks.take(path)
    with locks.take(path):
        pass


def test_a_killed_holder_leaves_the_lock_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Timeout):
            locks.take(path)
        holder.kill()
    with locks.take(path):
        pass


@pytest.mark.parametrize("left", [True, False])
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
    failure: str, reason: str, left: bool, tmp_path: Path
) -> None:
    library = broken_flock(tmp_path, failure)
    (tmp_path / "run").mkdir()
    if left:  # by a process that ended, here or on another file system
        (tmp_path / "run" / ".lock").write_text("")
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


def test_a_lock_file_that_cannot_be_made_is_bad_input_and_no_matter_of_locks(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot open the lock file: Not a directory"):
        locks.take(tmp_path / "file" / ".lock")


def test_a_run_does_not_begin_where_two_could_write_it(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "jaxft.train", "--config", str(ROOT / "configs" / "acl.py:head")),
        *(f"--config.model.name={tiny_checkpoint}", "--config.data.source=sample"),
        *("--config.data.max_length=24", f"--workdir={tmp_path / 'run'}"),
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"LD_PRELOAD": str(broken_flock(tmp_path, "ENOSYS"))},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "run") in line
    assert "no working file locks (flock: Function not implemented)" in line
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}
