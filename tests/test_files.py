"""What is written is there whole, also when several write it at once."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxft.files import replace_text


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
