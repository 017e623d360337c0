"""What the commands share in front: flags and configs parsed, bad input told in one line.

    if __name__ == "__main__":
        sys.exit(cli.guarded(main, sys.argv))

Exit codes: 0 done, 2 bad input (one line on stderr, no traceback), 75 another process of the run
was lost (`jaxft.distributed.watchdog`), 130 and 143 interrupted, 141 whoever read the output went
away.
"""

import argparse
import io
import os
import re
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxft.config import ROOT, check_fields, check_values
from jaxft.errors import InputError, nearest

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
