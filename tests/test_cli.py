"""What all commands share: how they end when nobody reads their output any more."""

import os
import subprocess
import sys

GUARDED = "import os, sys; from jaxft import cli; sys.exit(cli.guarded(lambda argv: {}, ['x']))"


def test_output_that_nobody_reads_ends_a_command_without_a_word():
    done = run_into_closed_pipe("[print('a line') for _ in range(9)]")
    assert (done.returncode, done.stderr) == (141, "")


def test_another_pipe_that_breaks_is_an_error_still():
    breaks = "[os.close(ends[0]), os.write(ends[1], b'x')] if (ends := os.pipe()) else 0"
    source = GUARDED.format(breaks)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def run_into_closed_pipe(body: str) -> subprocess.CompletedProcess[str]:
    """Runs a guarded body with a stdout whose reader has gone, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-c", GUARDED.format(body)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
