"""A metrics.jsonl that is not as the run wrote it is said to be so, and stops nothing."""

from pathlib import Path

import pytest

from jaxft.training.event_log import RunLog, read_log

NOTE = "is not as the run wrote it up to step 20"


@pytest.fixture
def written(tmp_path: Path) -> str:
    """The digest at step 20 of a log that goes on to step 30."""
    with RunLog(tmp_path, resume_step=0) as log:
        log.write(10, 1, train={"loss": 0.25})
        log.write(20, 1, train={"loss": 1 / 3})
        digest = log.sha256()
        log.write(30, 2, train={"loss": float("nan")})
    return digest


def test_a_whole_log_is_continued_without_a_word(
    written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, 20, written) as log:
        assert log.sha256() == written
    assert capsys.readouterr().out == ""
    assert [line["step"] for line in read_log(tmp_path / "metrics.jsonl")] == [10, 20]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"7\n", b'{"step": "x"}\n', b'{"step": 10, "epoch": 1}\n', None],
)
def test_a_damaged_log_is_named(
    content: bytes | None, written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is None:
        path.write_text(path.read_text().replace("0.25", "0.35"))
    else:
        path.write_bytes(content)
    with RunLog(tmp_path, 20, written) as log:
        log.write(30, 2, train={"loss": 0.1})
    assert NOTE in capsys.readouterr().out
    assert read_log(path)[-1]["step"] == 30
    # From here on its digest is that of the log as it is.
    with RunLog(tmp_path, 30, log.sha256()):
        pass
    assert capsys.readouterr().out == ""


def test_a_run_of_an_older_jaxft_has_no_digest_to_compare(
    written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, 20):
        pass
    assert capsys.readouterr().out == ""
