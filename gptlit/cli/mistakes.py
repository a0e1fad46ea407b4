"""The line for each mistake that the user can cure."""

import errno
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from gptlit.cli import arguments, helping
from gptlit.cli.checking import nearest, unknown_key
from gptlit.errors import UserError, in_one_line, short_path
from gptlit.options import as_typed, conf_dir, options_with
from gptlit.training.faults import about_the_disk
from gptlit.training.lock import in_use

OPEN = ("callbacks.", "logger.mlflow.", "logger.wandb.")
"""Nodes to which a command may add keys of others."""
DEFAULTS_LIST = re.compile("Unsupported (type|item value) in defaults|Invalid defaults list in")
"""How Hydra's plain ValueErrors about an option's list of defaults begin."""


def one_line(error: Exception, config_name: str) -> str | None:
    """The line to print for an error that the user can cure; None for our own mistakes."""
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, UserError):
        return as_typed(str(error))
    if isinstance(error, YAMLError):
        return _yaml_line(error)
    if isinstance(error, ValueError) and DEFAULTS_LIST.match(str(error)):
        return (
            f"{error}; a file's defaults are a list of names, of which true and false are in"
            ' quotes: - "true"'
        )
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} must be given: add {error.full_key}=... to the command"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _hydra_line(error, config_name)
    return _file_line(error, config_name) if isinstance(error, OSError) else _home_line(error)


def _file_line(error: OSError, config_name: str) -> str | None:
    """Which file cannot be used, and the cure."""
    too_long = error.errno == errno.ENAMETOOLONG
    if not too_long and not isinstance(
        error, PermissionError | NotADirectoryError | FileExistsError
    ):
        return about_the_disk(error, in_use() or "the disk", trains=config_name == "train")
    name = error.filename or ""
    unreadable = os.access(name, os.F_OK) and not os.access(name, os.R_OK)
    if config_name != "train" or too_long or unreadable:
        return f"cannot use {error.filename}: {error.strerror}; choose another file"
    return f"cannot write to {error.filename}: {error.strerror}; choose output_root=FOLDER"


def _home_line(error: Exception) -> str | None:
    """What helps a user whose home folder is not known, as pathlib says; None for other errors."""
    if isinstance(error, RuntimeError) and "determine home directory" in str(error):
        return "this user has no home folder: set the variable HOME to a folder"
    return None


def _yaml_line(error: Exception) -> str:
    """Where a file cannot be read, and why."""
    from yaml import MarkedYAMLError

    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return in_one_line(error)
    mark = error.problem_mark
    return f"{short_path(Path(mark.name))}, line {mark.line + 1} is no YAML: {error.problem}"


def _hydra_line(error: Exception, config_name: str) -> str:
    """Hydra's message in one line, with the nearest name."""
    text = str(error)
    if match := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        return _unknown_key(match[1].partition("@")[0], config_keys(config_name))
    if match := re.search(r"Could not find '([^']+)'", text):
        return _unknown_option(match[1])
    if match := re.search(r"Additional config directory '(.+)' not found", text):
        return f"--config-dir={match[1]}: there is no such folder; give the one with your options"
    if "Interpolation key 'task.name' not found" in text:  # it is part of the run folder's name
        return (
            "the chosen task does not set task.name: begin its file with the line"
            " '# @package _global_', and give the name below task:"
        )
    if match := re.search(r"Error locating target '([^']+)'", text):
        text = f"{match[1]} cannot be imported: {_first_cause(error)}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _unknown_key(key: str, known: list[str]) -> str:
    """The line for a key that the composed config does not have."""
    if key in known and (owners := _options_with(key)):
        return f"the chosen {key.partition('.')[0]} has no key '{key}': add {owners}"
    if f"{key}." in OPEN:
        return f"{key} has no such key: to add it, type +{key}.NAME=..."
    if not key.startswith(OPEN):
        return unknown_key(key, known)
    node, _, name = key.rpartition(".")
    near = nearest(name, [k.removeprefix(f"{node}.") for k in known if k.startswith(f"{node}.")])
    hint = f"; did you mean {node}.{near}?" if near else ""
    return f"{key} is not in the config: to add it, type +{key}=...{hint}"


def _unknown_option(name: str) -> str:
    """The line for an option, `group/option`, that no folder of options has."""
    group, _, option = name.partition("/")
    if group == "hydra":
        return f"{name} is not installed: pip install 'gptlit[sweeps,slurm]'"
    folders = [folder / group for folder in helping.conf_dirs(sys.argv)]
    files = {f.relative_to(folder) for folder in folders for f in folder.rglob("*.yaml")}
    options = sorted(file.with_suffix("").as_posix() for file in files)
    near = nearest(option, options, cutoff=0.3)
    hint = _place_of(group, option) or (f"; did you mean {near}?" if near else "")
    return f"unknown {group}={option}: allowed are {', '.join(options)}{hint}"


def _place_of(group: str, option: str) -> str:
    """How to choose an option that was given as a path; empty if there is no such file."""
    file = Path(f"{option.removesuffix('.yaml')}.yaml")
    if not file.is_file():
        return ""
    is_option = file.parent.name == group
    folder = short_path(file.absolute().parent.parent) if is_option else "FOLDER"
    put = "" if is_option else f"put this file into FOLDER/{group}/ and "
    return f"; {put}give --config-dir={folder} {group}={file.stem}"


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__:
        error = error.__cause__
    return error


def _options_with(key: str) -> str:
    """The options to choose in order to have a key: for data, those that the typed task can read,
    if there are any."""
    from gptlit.cli.schema_data import task_of

    group, names = key.partition(".")[0], options_with(key)
    if group == "data":
        task = arguments.overrides_by_key(sys.argv[1:]).get("task", "pretrain")
        names = [name for name in names if task_of(name) == task] or names
    return " or ".join(f"{group}={name}" for name in names)


@cache
def config_keys(config_name: str) -> list[str]:
    """Dotted names of all keys of all options of a command, for the nearest match."""
    import yaml

    def walk(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return [path]
        inside = {} if path == "weights.models" else node  # names of models and files follow
        deeper = [name for k, v in inside.items() for name in walk(v, f"{path}.{k}" if path else k)]
        return [*([path] if path else []), *deeper]

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time of OmegaConf's

    names: set[str] = set()
    main_file = conf_dir() / f"{config_name}.yaml"
    main: Any = yaml.load(main_file.read_text(encoding="utf-8"), loader)
    groups = [name for entry in main["defaults"] if isinstance(entry, dict) for name in entry]
    for file in [main_file, *(f for name in groups for f in conf_dir().glob(f"{name}/*.yaml"))]:
        group = ".".join(file.parent.relative_to(conf_dir()).parts)
        text = file.read_text(encoding="utf-8")
        try:
            node: Any = yaml.load(text, loader)
        except yaml.YAMLError:  # reported if the option is chosen
            continue
        if not isinstance(node, dict):
            continue
        for extra in ("defaults", "hydra"):
            node.pop(extra, None)
        names.update(walk(node, "" if "@package _global_" in text else group))
    return sorted(names)
