"""What is written is there whole, also when several write it at once."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
