"""The start of a command with a config: its flags, the config file and its fields, and the help.

    config = parse_config_command(["train", "--config=configs/acl.py:lora"], flags.FlagValues())
    exit_code = guarded(main, sys.argv)

`jaxft.exits` has `guarded`, by which bad input becomes one line.
"""

import argparse
import ast
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxft import plugins
from jaxft.config import (
    CONFIGS,
    add_options,
    check_fields,
    check_values,
    defaults,
    make_importable,
)
from jaxft.errors import InputError, nearest
from jaxft.exits import guarded, help_asked, is_config
from jaxft.hints import field_message, fields_of, flag_message, given

__all__ = [
    "OneLineParser",
    "config_help",
    "guarded",
    "help_asked",
    "parse_config",
    "parse_config_command",
]

# Where the configs that come with jaxft are.
FOLDERS = (CONFIGS, CONFIGS / "tables")


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
    fields_file: str = "base.py",
    example: str = "configs/acl_lora.py",
) -> ConfigDict:
    """Returns the config that the flags give, without checking it; see `parse_config_command`.

    Args:
      new_fields: whether --config.FIELD may name one that the file does not have.
      fields_file: the file of configs/ that has every field of this command.
      example: a config of this command, for the message if none is given.
    """
    make_importable()
    # Before the config file is read, which may ask for a plugin's method or task.
    plugins.load([given(argv, "config.plugins")])
    argv = config_first(argv)
    file = found_config(argv, example)
    argv = [argv[0], "--config", file, *map(quoted, without_config(argv))]
    own = [name for name in flag_values if name != "config"]
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
        raise InputError(flag_message(err, argv, own, fields_of(fields_file))) from err
    except (KeyError, AttributeError, TypeError) as err:
        if "'get_config'" in str(err):
            raise InputError(f"--config: {file} has no function get_config") from err
        raise InputError(f"--config: {field_message(err, argv, fields_of(fields_file))}") from err
    except InputError:
        raise
    except Exception as err:
        # A config file is Python that the user wrote; it may raise anything.
        raise InputError(f"--config: {file} failed: {type(err).__name__}: {err}") from err
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


def quoted(argument: str) -> str:
    """Returns `--config.FIELD=/a,/b` of a field with several values as `--config.FIELD=('/a,/b',)`.

    ml_collections does that to names, but it takes paths and regexes with a comma for Python.
    `jaxft.run.build.method_options` splits all of them.
    """
    found = re.fullmatch(r"(--?config\.([\w.]+)=)(.*,.*)", argument, re.DOTALL)
    if found and found[2].removeprefix("overrides.") in list_fields():
        try:
            ast.literal_eval(found[3])
        except SyntaxError:
            return f"{found[1]}{(found[3],)}"
        except ValueError:
            pass  # names
    return argument


@cache
def list_fields() -> frozenset[str]:
    """The fields that take several values."""
    return frozenset(name for name, x in defaults().items() if isinstance(x, tuple))


def found_config(argv: list[str], example: str) -> str:
    """Returns the config file that --config names: FILE, FILE:ARG, or one that comes with jaxft.

    `acl_lora`, `configs/acl_lora.py` and `acl:houlsby` name jaxft's own files outside a clone, too,
    and so does the name of a table.

    Raises:
      InputError: none is given, or there is no such file.
    """
    name = given(argv, "config")
    if sum(map(is_config, argv)) > 1:
        raise InputError("--config is given twice")
    if not name:
        named = next((x for x in argv[1:] if not x.startswith("-") and shipped(x)), "")
        hint = f"did you mean --config {named}?" if named else f"for example --config {example}"
        raise InputError(f"--config is missing; {hint}")
    file, colon, arg = name.partition(":")  # FILE:ARG gives ARG to its get_config
    path = Path(file)
    if path.is_file():
        return name
    if path.is_dir():
        raise InputError(f"--config: {path} is a directory; expected a file such as {example}")
    own = shipped(file)
    if own:
        return f"{own}{colon}{arg}"
    neighbours = [str(other) for other in sorted(path.parent.glob("*.py"))]
    names = [other.stem for folder in FOLDERS for other in sorted(folder.glob("*.py"))]
    hint = nearest(str(path), neighbours) or nearest(path.stem, names)
    raise InputError(f"--config: no file {path}{hint}")


def shipped(name: str) -> Path | None:
    """Returns the file of jaxft's own configs that has this name, if there is one."""
    file = f"{name.partition(':')[0].removeprefix('configs/').removesuffix('.py')}.py"
    paths = [folder / file for folder in FOLDERS]
    return next((p for p in paths if p.is_file() and not Path(name).is_absolute()), None)


class OneLineParser(argparse.ArgumentParser):
    """argparse for commands without a config; its errors are one line, too."""

    def __init__(self, prog: str, description: str | None) -> None:
        """The description is printed as it is, with its lines."""
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, formatter_class=raw)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Returns the arguments; an unknown flag is reported before one that is missing."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for argument in args or []:
            name = argument.partition("=")[0]
            if name.startswith("--") and not any(flag.startswith(name) for flag in known):
                raise InputError(f"no flag {name}{nearest(name, known)}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises InputError with argparse's message."""
        raise InputError(message)


# ---------------------------------------------------------------- help


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
