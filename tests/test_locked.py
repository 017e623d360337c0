"""The hashed files of scripts/locks pin what constraints.txt pins, and hash all of it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "scripts" / "locks").glob("*.txt"))
PIN = re.compile(r"([a-z0-9_.-]+)==([^ ;\\]+)")


def pins(text: str) -> set[tuple[str, str]]:
    return {match.groups() for line in text.splitlines() if (match := PIN.match(line))}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_pins_the_versions_that_are_tested_and_hashes_each(lock: Path) -> None:
    text = lock.read_text()
    tested, locked = pins((ROOT / "constraints.txt").read_text()), pins(text)
    names = {name for name, _ in tested}
    assert {pin for pin in locked if pin[0] in names} <= tested
    # A package is a line with its pin, and lines with its hashes.
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    assert len(packages) > 20
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", package) for package in packages)
    assert all(PIN.match(package) for package in packages)
