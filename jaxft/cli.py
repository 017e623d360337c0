"""What the commands share in front: flags and configs parsed, bad input told in one line.

    if __name__ == "__main__":
        sys.exit(cli.guarded(main, sys.argv))

Exit codes: 0 done, 2 bad input (one line on stderr, no traceback), 75 another process of the run
was lost (`jaxft.distributed.watchdog`), 130 and 143 interrupted, 141 whoever read the output went
away.
"""

import argparse
import importlib.util
import io
import math
import os
import re
import select
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags

from jaxft.errors import InputError, check_choice, nearest

ROOT = Path(__file__).parents[1]  # of the repository: configs/ lies beside jaxft/
UNREAD = 141  # what a shell reports of a command that SIGPIPE ended


def guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Runs a command and returns its exit code; an InputError becomes one line and 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each epoch as it ends
    try:
        return command(argv)
    except InputError as err:
        message = " ".join(str(err).split("\n"))
        print(f"{Path(argv[0]).stem}: {message}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not reader_gone():
            raise  # the pipe is another one, to a process of the run's
        # What is still buffered is written as the interpreter ends, and would be told of again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


def reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more, as after `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors and hang-ups are told unasked
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def parse_config_command(argv: list[str], flag_values: flags.FlagValues) -> ConfigDict:
    """Returns the config of `--config FILE [--config.FIELD=VALUE ...]`, checked.

    Args:
      flag_values: holds the command's other flags, and afterwards their values.

    Raises:
      InputError: an unknown flag or field (with the nearest one), a value of the wrong type, a
        config file that is missing or broken.
    """
    config = parse_config(argv, flag_values)
    check_fields(config)
    check_values(config)
    return config


def parse_config(
    argv: list[str], flag_values: flags.FlagValues, *, new_fields: bool = False
) -> ConfigDict:
    """Returns the config that a command is given, of whatever fields; see `parse_config_command`.

    Args:
      new_fields: whether --config.FIELD may name one that the file does not have.
    """
    sys.path.insert(0, str(ROOT))  # a config file elsewhere may import configs.base
    argv = config_first(argv)
    check_config_file(given(argv, "config"))
    config_flag = config_flags.DEFINE_config_file(
        "config",
        flag_values=flag_values,
        lock_config=not new_fields,
        accept_new_attributes=new_fields,
    )
    given_argv, sys.argv = sys.argv, argv  # config_flags looks there for the fields
    try:
        rest = flag_values(argv)
        config = config_flag.value
    except flags.Error as err:
        raise InputError(flag_message(err, given(argv, "config"))) from err
    except (KeyError, AttributeError, TypeError) as err:
        if "'get_config'" in str(err):
            file = given(argv, "config")
            raise InputError(f"--config: {file} has no function get_config") from err
        raise InputError(f"--config: {field_message(err)}") from err
    except Exception as err:
        # Whatever a config file raises is the user's: it is Python of theirs.
        reason = f"{type(err).__name__}: {err}"
        raise InputError(f"--config: {given(argv, 'config')} failed: {reason}") from err
    finally:
        sys.argv = given_argv
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; options start with --")
    return config


def config_first(argv: list[str]) -> list[str]:
    """Moves --config in front: ml_collections reads the file before a field can be set in it."""
    for i, argument in enumerate(argv[1:], 1):
        if re.fullmatch(r"--?config", argument):
            return [argv[0], *argv[i : i + 2], *argv[1:i], *argv[i + 2 :]]
        if re.match(r"--?config=", argument):
            return [argv[0], argument, *argv[1:i], *argv[i + 1 :]]
    return argv


class OneLineParser(argparse.ArgumentParser):
    """argparse for commands without a config; its errors are one line, too."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError with argparse's message."""
        raise InputError(message)


def given(argv: list[str], name: str) -> str:
    """The value that was given for a flag, for a message."""
    for i, argument in enumerate(argv):
        flag, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag == name:
            return value or (argv[i + 1] if i + 1 < len(argv) else "")
    return ""


def check_config_file(name: str) -> None:
    """Raises InputError unless a config file is given and there."""
    if not name:
        raise InputError("--config is missing; for example --config configs/acl_lora.py")
    path = Path(name.partition(":")[0])  # FILE:ARG hands ARG to its get_config
    if not path.is_file():
        there = [str(other) for other in sorted(path.parent.glob("*.py"))]
        raise InputError(f"--config: no file {path}{nearest(path, there)}")


def flag_message(error: flags.Error, config_file: str) -> str:
    """absl's message in the form of ours; a config file's traceback is cut to its last line."""
    if "Traceback" in str(error):
        return f"--config: {config_file} failed: {str(error).strip().splitlines()[-1]}"
    return (
        " ".join(str(error).split())
        .removeprefix("flag ")
        .replace(" Did you mean:", " did you mean")
    )


def field_message(error: Exception) -> str:
    """ConfigDict's message, `'nme' Did you mean "name" instead of "nme"?`, as one plain line."""
    text = str(error.args[0]) if error.args else str(error)
    if isinstance(error, TypeError):
        return text.strip().splitlines()[-1]
    field = re.search(r"'(\w+)\\?'", text)
    near = re.search(r'Did you mean "(\w+)"', text)
    hint = f"; did you mean '{near[1]}'?" if near else ""
    return f"no field '{field[1]}'{hint}" if field else " ".join(text.split())


@cache
def config_module(name: str = "base.py") -> ModuleType:
    """Returns a file of configs/ as a module: that with all defaults, or another."""
    spec = importlib.util.spec_from_file_location("jaxft_defaults", ROOT / "configs" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_fields(config: ConfigDict, name: str = "base.py") -> None:
    """Raises InputError if a config has other fields, or other types, than configs/base.py.

    Args:
      name: another file of configs/ to compare with.
    """
    base = flatten_dict(config_module(name).get_config().to_dict(), sep=".")
    mine = flatten_dict(config.to_dict(), sep=".")
    for field in mine:
        if field not in base:
            raise InputError(f"config.{field}: no such field{nearest(field, base)}")
    for field, default in base.items():
        if field not in mine:
            raise InputError(f"config.{field} is missing; start a config from configs/{name}")
        is_number = isinstance(default, float) and isinstance(mine[field], int)
        if type(mine[field]) is not type(default) and not is_number:
            raise InputError(
                f"config.{field}: {mine[field]!r}; expected {type(default).__name__}, "
                f"for example {default!r}"
            )


def whole(values: tuple[Any, ...]) -> bool:
    """Whether all values are whole numbers above 0."""
    return all(isinstance(value, int) and value >= 1 for value in values)


def is_seed(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**32


def is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def each_another(is_valid: Callable[[Any], bool]) -> Callable[[tuple[Any, ...]], bool]:
    """Returns whether all values are valid, and none stands twice."""
    return lambda values: all(map(is_valid, values)) and len(set(values)) == len(values)


# field -> (whether a value is valid, what is expected); names are checked where they are used.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data.few_shot": (lambda x: x >= 1, "a whole number above 0"),
    "data.split_seed": (lambda x: x >= 0, "0 or more"),
    "optim.learning_rate": (is_rate, "a number above 0"),
    "optim.learning_rates": (
        each_another(is_rate),
        "different numbers above 0, e.g. 1e-3,3e-4",
    ),
    "optim.weight_decay": (lambda x: 0 <= x < math.inf, "0 or more"),
    "optim.clip": (lambda x: 0 <= x < math.inf, "0 or more"),
    "optim.accumulate": (lambda x: x >= 1, "a whole number above 0"),
    "batch_size": (lambda x: x >= 1, "a whole number above 0"),
    "eval_batch_size": (lambda x: x >= 1, "a whole number above 0"),
    "epochs": (lambda x: x >= 1, "a whole number above 0"),
    "seed": (is_seed, "0 to 2**32 - 1"),
    "seeds": (each_another(is_seed), "different whole numbers from 0 to 2**32 - 1, e.g. 1,2,3"),
    "patience": (lambda x: x >= 0, "0 or more"),
    "save_every": (lambda x: x >= 0, "0 or more"),
    "memory.top_layers": (lambda x: x >= 1, "a whole number above 0"),
    "memory.steps": (lambda x: x >= 0, "0 or more"),
    "memory.seeds": (whole, "whole numbers above 0, e.g. 1,5"),
    "memory.batch_sizes": (whole, "whole numbers above 0, e.g. 8,16"),
    "memory.lengths": (whole, "whole numbers above 0, e.g. 64,128"),
}


def check_values(config: ConfigDict) -> None:
    """Raises InputError if a number is out of its range."""
    check_choice(config.select, ("best", "last"), "select")
    fields = flatten_dict(config.to_dict(), sep=".")
    for name, (is_valid, expected) in RANGES.items():
        if not is_valid(fields[name]):
            raise InputError(f"{name}: {fields[name]}; expected {expected}")
