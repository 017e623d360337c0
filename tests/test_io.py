"""What is written is there whole, also when several write it at once."""

import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxft.io import replace_bytes, replace_text


def test_writers_at_once_leave_one_of_their_texts_and_readers_see_no_part(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    texts = [json.dumps([writer] * 10_000) for writer in range(8)]

    def write_and_read(writer: int) -> bool:
        for _ in range(20):
            replace_text(path, texts[writer])
            if path.read_text() not in texts:
                return False
        return True

    with ThreadPoolExecutor(len(texts)) as pool:
        assert all(pool.map(write_and_read, range(len(texts))))
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        done.append("sync directory" if stat.S_ISDIR(mode) else "sync file")
        if not stat.S_ISDIR(mode):
            assert os.fstat(descriptor).st_size == len("new \u00e9".encode())
            assert path.read_text() == "old"
        fsync(descriptor)

    def recorded_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    replace_text(path, "new \u00e9")
    assert done == ["sync file", "rename", "sync directory"]
    assert path.read_text("utf-8") == "new \u00e9"


def test_a_directory_that_cannot_be_flushed_is_no_error_and_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def failing(code: int) -> Callable[[int], None]:
        def of_directories(fd: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(code, os.strerror(code))
            fsync(fd)

        return of_directories

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    replace_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        replace_text(tmp_path / "x", "newer")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    replace_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "half of a pair: \ud800")
    with pytest.raises(TypeError):
        replace_bytes(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from pathlib import Path
from jaxft.io import replace_bytes, replace_text
print("begun", flush=True)
while True:
    for letter in "ab":
        replace_text(Path(sys.argv[1]), letter * 300_000)
"""


def test_a_kill_leaves_one_of_the_files_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    replace_text(path, "a" * 300_000)
    for delay in (0.0, 0.01, 0.03):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        text = path.read_text()
        assert len(text) == 300_000
        assert set(text) in ({"a"}, {"b"})
