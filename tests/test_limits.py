"""Limits that the code keeps: sizes, names, and the cost of `import jaxft`."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxft.__main__ import COMMANDS
from jaxft.errors import InputError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxft"
# configs/ is installed in the package.
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "configs").rglob("*.py")])
LINES_OF_A_FUNCTION, LINES_OF_A_FILE, LINES_OF_A_COMMAND = 60, 400, 100
IMPORT_S = 0.2


def lines(file: Path) -> int:
    return len(file.read_text("utf-8").splitlines())


def functions(file: Path) -> Iterator[tuple[str, int]]:
    """The functions and methods of a file, with their lines."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_function_is_longer_than_a_screen() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {name}": count
        for file in FILES
        for name, count in functions(file)
        if count > LINES_OF_A_FUNCTION
    }
    assert found == {}


def test_no_file_is_too_long() -> None:
    found = {str(f.relative_to(ROOT)): lines(f) for f in FILES if lines(f) > LINES_OF_A_FILE}
    assert found == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_short_file_and_no_package_has_its_name(command: str) -> None:
    assert lines(PACKAGE / f"{command}.py") < LINES_OF_A_COMMAND
    assert not (PACKAGE / command).exists()
    mains = [path.parent.name for path in PACKAGE.rglob("__main__.py")]
    assert command not in mains


def test_no_file_has_the_name_of_a_package_beside_it() -> None:
    assert [f for f in FILES if f.with_suffix("").is_dir() and f.name != "__init__.py"] == []


def test_a_message_is_one_line_whatever_is_in_it() -> None:
    message = str(InputError("config.json: field 'a\nb' has\r\x1b[2J a name with ü"))
    assert message == r"config.json: field 'a\nb' has\r\x1b[2J a name with ü"
    assert message.isprintable()


def test_importing_jaxft_loads_no_jax() -> None:
    """Nor anything else that is not Python's own."""
    code = "import sys; old = set(sys.modules); import jaxft; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = {name.partition(".")[0] for name in done.stdout.split()} - {"jaxft"}
    assert others <= set(sys.stdlib_module_names)


def test_a_command_loads_late_what_it_needs_late() -> None:
    """Each of these takes from half a second to several."""
    late = "('matplotlib', 'transformers', 'torch', 'datasets', 'sklearn', 'pandas')"
    code = f"import sys, jaxft.run.command; print([m for m in {late} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_jaxft_is_quick() -> None:
    """By the processor's time: another process on the same core does not count."""

    def cpu_s(code: str) -> float:
        timed = f"import time; {code}; print(time.process_time())"
        run = [sys.executable, "-c", timed]
        return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)

    pairs = [(cpu_s("pass"), cpu_s("import jaxft")) for _ in range(5)]
    assert statistics.median(after - before for before, after in pairs) < IMPORT_S


def test_noqa_and_type_ignore_give_a_reason() -> None:
    bare = re.compile(r"# (noqa: [A-Z0-9, ]+|noqa|type: ignore(\[[\w-]+\])?)\s*$", re.M)
    found = [f"{f.relative_to(ROOT)}: {m[0]}" for f in FILES for m in bare.finditer(f.read_text())]
    assert found == []
