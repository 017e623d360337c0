"""What the commands share: they parse flags and configs, and report bad input in one line.

    exit_code = guarded(main, sys.argv)       # `main(argv) -> exit code` is the command

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
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags

from jaxft import plugins
from jaxft.config import (
    CONFIGS,
    add_options,
    check_fields,
    check_values,
    config_module,
    field_of,
    make_importable,
    nearest_field,
)
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
    plugins.load(config.get("plugins", ()))
    add_options(config)
    check_fields(config)
    check_values(config)
    return config


def parse_config(
    argv: list[str],
    flag_values: flags.FlagValues,
    *,
    new_fields: bool = False,
    example: str = "configs/acl_lora.py",
) -> ConfigDict:
    """Returns the config that a command is given, of whatever fields; see `parse_config_command`.

    Args:
      new_fields: whether --config.FIELD may name one that the file does not have.
      example: a config of this command, for the message if none is given.
    """
    make_importable()
    # Before the config file is read, which may ask for a plugin's method or task.
    plugins.load([given(argv, "config.plugins")])
    argv = config_first(argv)
    file = found_config(given(argv, "config"), example)
    argv = [argv[0], "--config", file, *without_config(argv)]
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
    except InputError:
        raise
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


def without_config(argv: list[str]) -> list[str]:
    """The arguments after `--config FILE`, which comes first (`config_first`)."""
    return argv[3:] if re.fullmatch(r"--?config", argv[1]) else argv[2:]


def found_config(name: str, example: str) -> str:
    """Returns the config file that --config names: FILE, FILE:ARG, or one that comes with jaxft.

    `acl_lora`, `configs/acl_lora.py` and `acl:houlsby` name jaxft's own outside of its clone, too.

    Raises:
      InputError: none is given, or there is no such file.
    """
    if not name:
        raise InputError(f"--config is missing; for example --config {example}")
    file, colon, arg = name.partition(":")  # FILE:ARG gives ARG to its get_config
    path = Path(file)
    if path.is_file():
        return name
    own = CONFIGS / f"{file.removeprefix('configs/').removesuffix('.py')}.py"
    if own.is_file() and not path.is_absolute():
        return f"{own}{colon}{arg}"
    beside = [str(other) for other in sorted(path.parent.glob("*.py"))]
    shipped = [other.stem for other in sorted(CONFIGS.glob("*.py"))]
    hint = nearest(str(path), beside) or nearest(own.stem, shipped)
    raise InputError(f"--config: no file {path}{hint}")


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


def flag_message(error: flags.Error, config_file: str) -> str:
    """absl's message in the form of ours; a config file's traceback is cut to its last line."""
    if "Traceback" in str(error):
        return f"--config: {config_file} failed: {str(error).strip().splitlines()[-1]}"
    if isinstance(error, flags.UnrecognizedFlagError):
        field = field_of(error.flagname, all_fields())
        if field:
            return f"no flag --{error.flagname}; did you mean --config.{field}=VALUE?"
    return (
        " ".join(str(error).split())
        .removeprefix("flag ")
        .replace(" Did you mean:", " did you mean")
    )


def all_fields() -> list[str]:
    """Returns the fields of configs/base.py, with their sections."""
    return list(flatten_dict(config_module().get_config().to_dict(), sep="."))


def field_message(error: Exception) -> str:
    """ConfigDict's message, `'nme' Did you mean "name" instead of "nme"?`, as one plain line."""
    text = str(error.args[0]) if error.args else str(error)
    if isinstance(error, TypeError):
        return text.strip().splitlines()[-1]
    field = re.search(r"'(\w+)\\?'", text)
    if not field:
        return " ".join(text.split())
    near = re.search(r'Did you mean "(\w+)"', text)
    hint = f"; did you mean '{near[1]}'?" if near else nearest_field(field[1], all_fields())
    return f"no field '{field[1]}'{hint}"


# ---------------------------------------------------------------- help


def help_asked(argv: list[str]) -> bool:
    """Whether the arguments ask for help."""
    return any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv[1:])


def config_help(synopsis: str, values: flags.FlagValues, name: str = "base.py") -> str:
    """Returns the help of a command with a config: its synopsis, flags, and all fields.

    Args:
      synopsis: the command's module docstring.
      values: the command's own flags.
      name: the file of configs/ whose fields they are.
    """
    own = [f"  --{flag}: {values[flag].help}" for flag in sorted(values)]
    parts = [
        synopsis.strip(),
        "Flags:",
        *own,
        "",
        f"Fields, --config.FIELD=VALUE (configs/{name}):",
    ]
    return "\n".join([*parts, *field_lines((CONFIGS / name).read_text("utf-8"))])


def field_lines(source: str) -> list[str]:
    """Returns the fields of a config file with their defaults and comments, by section.

    Args:
      source: Python whose lines are `config.optim.clip = 1.0  # largest norm ...`.
    """
    lines, section = [], None
    for line in source.splitlines():
        found = re.fullmatch(r"    config\.([\w.]+) = (.+?)  # (.*)", line)
        if found and "ConfigDict()" not in found[2]:
            inside = found[1].rpartition(".")[0]
            if inside != section:
                lines.append("")
                section = inside
            lines.append(f"  {found[1] + '=' + found[2]:<36}  {found[3]}")
    return lines
