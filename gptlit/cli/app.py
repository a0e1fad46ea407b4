"""What all commands share: Hydra composes the config, the schema checks it, and mistakes end in one
line."""

import contextlib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import gptlit
from gptlit.cli import arguments, helping
from gptlit.cli.checking import nearest, unknown_key
from gptlit.cli.entry import is_interruption
from gptlit.errors import UserError, in_one_line, short_path
from gptlit.options import as_typed, conf_dir, options_with
from gptlit.training import reuse
from gptlit.training.faults import DivergedError, about_the_disk, enough_memory
from gptlit.training.launch import first_process
from gptlit.training.lock import LOCK, in_use
from gptlit.training.stopping import INTERRUPTED, is_child_of_lightning, unmasked

Job = Callable[[dict[str, Any], Path], Any]
"""Takes the checked config as plain dicts and the run folder."""

DEFAULTS_LIST = re.compile("Unsupported (type|item value) in defaults|Invalid defaults list in")
"""How Hydra's plain ValueErrors about an option's list of defaults begin."""


def run(
    config_name: str,
    check_config: Callable[[dict[str, Any]], None],
    job: Job,
    *,
    free_text: Collection[str] = (),
    text_lists: Collection[str] = (),
    short: Mapping[str, str] | None = None,
    rewrite: Callable[[list[str]], list[str]] = list,
) -> None:
    """Compose the config from the command line, check it, and run the job.

    Args:
        config_name: file in `conf/`.
        check_config: raises `UserError` where the composed config is wrong.
        job: the work; called once, or once for each run of a sweep.
        free_text: keys whose values are taken as typed: commas, quotes and brackets in them are
            text, not Hydra's grammar; but null is null.
        text_lists: the same, but a value in brackets is a list in Hydra's grammar.
        short: short names and the keys that they set, for a command in which a folder of `conf/` is
            not a group; unless this is None, debug is such a name too.
        rewrite: turns the command's arguments into those that Hydra sees.

    A `UserError`, a mistake in the config or its files, or an output folder that cannot be written
    ends the process with one line on stderr and exit code 2; other exceptions keep their traceback.
    In a sweep of trainings neither ends the process before all runs have had their turn: see
    `gptlit.cli.sweep`.
    """
    debug = any(arg.lower() == "debug=true" for arg in sys.argv)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets exceptions through to us
    try:
        args = arguments.read(
            sys.argv[1:],
            free_text=free_text,
            text_lists=text_lists,
            short=short,
            known=lambda: config_keys(config_name),
        )
        if "--version" in args:
            print(f"gptlit {gptlit.__version__}")
            return
        # Hydra's parser takes no flags between overrides.
        args = sorted(rewrite(args), key=lambda arg: not arg.startswith("-"))
        sys.argv[1:] = [helping.CONFIG if arg == helping.HELP else arg for arg in args]
        compose = partial(_run_hydra, config_name, check_config, job, debug)
        asks = helping.HELP in args
        code = helping.print_help(config_name, args, compose) if asks else compose()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if is_interruption(error):
            sys.exit(INTERRUPTED)
        line = _one_line(error, config_name)
        if line is None:
            raise
        if debug and _traceback_helps(error):
            traceback.print_exception(error)
        if isinstance(error, DivergedError) and is_child_of_lightning():
            sys.exit(0)  # all processes have found it, and the first one prints it
        print(f"error: {arguments.printable(line)}", file=sys.stderr)
        sys.exit(2)
    if code:
        sys.exit(code)


@unmasked()
def _run_hydra(
    config_name: str, check_config: Callable[[dict[str, Any]], None], job: Job, debug: bool
) -> int:
    """Returns the exit code: 0 for a single run, which otherwise raises; how a sweep's runs ended
    for a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from gptlit.cli import search, sweep
    from gptlit.cli.composing import composed_once

    failures: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)
    def main(cfg: DictConfig) -> Any:
        node = HydraConfig.get()
        folder = Path(node.runtime.output_dir)
        in_sweep = sweep.is_sweep(node)
        unused = not in_sweep  # unless there is something in it
        try:
            if in_sweep:
                sweep.start_run(node)
            return checked_job(cfg, folder)
        except Exception as raised:
            error = _own_error(raised)
            if in_sweep:
                line = _one_line(error, config_name)
                trace = debug and (line is None or _traceback_helps(error))
                sweep.note_failure(folder, error, line, trace)
            else:
                failures.append(error)  # raised below, past Hydra's own report of it
                unused = isinstance(error, UserError | OmegaConfBaseException)
            return None
        finally:
            (reuse.list_in_sweep if in_sweep else reuse.drop_draft)(folder)
            if unused:
                _remove_if_unused(folder)

    def checked_job(cfg: DictConfig, folder: Path) -> Any:
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        check_config(config)
        with enough_memory(config):
            return job(config, folder)

    try:
        with composed_once():
            main()
    except Exception as error:  # Hydra's own; the job's are kept
        if sweep.all_failed():  # they have been reported; a search then raises for want of a best
            return sweep.finish()
        if _one_line(error, config_name) is not None:
            raise
        if line := search.explained(error) or _look_at_what_is_for_hydra(error):
            raise UserError(line) from error
        raise
    finally:
        code = sweep.finish()
    if failures:
        raise failures[0]
    return code


def _look_at_what_is_for_hydra(error: Exception) -> str | None:
    """The line for an error of Hydra's if the command sets keys of Hydra itself, or chooses its
    launcher: it names these arguments. None if there are none."""
    starts = ("hydra.", "hydra/", "launcher=")
    given = [arg for arg in sys.argv[1:] if arg.lstrip("+~").startswith(starts)]
    what = f"Hydra ends with {type(error).__name__}: {error}"
    return f"{what}; look at {' '.join(given)}" if given else None


def _remove_if_unused(folder: Path) -> None:
    """Remove the run folder that Hydra made for a run that has not trained, if it holds nothing but
    configs and is not the user's own working folder."""
    import shutil

    if not first_process():  # it may have made the folder after the first one removed it
        with contextlib.suppress(OSError):
            folder.rmdir()
            _remove_if_empty(folder.parent)
        return
    config = folder / "config"
    if folder == Path.cwd() or not config.is_dir():
        return
    made = [config / f"{name}.yaml" for name in ("config", "hydra", "overrides")]
    ours = {config, *made, *(folder / name for name in (reuse.RECORD, reuse.POINTER, LOCK))}
    if {*folder.iterdir(), *config.iterdir()} <= ours:
        shutil.rmtree(folder)
        _remove_if_empty(folder.parent)  # made for it too


def _remove_if_empty(folder: Path) -> None:
    if folder != Path.cwd():
        with contextlib.suppress(OSError):
            folder.rmdir()


def _own_error(error: Exception) -> Exception:
    """The error that a class raised while Hydra built an object of it. Hydra's own error is kept if
    there is no such class, or it does not take a key: then the config is wrong, and Hydra's error
    says how."""
    from hydra.errors import InstantiationException

    cause = error.__cause__
    if not isinstance(error, InstantiationException) or not isinstance(cause, Exception):
        return error
    return error if isinstance(cause, ImportError | AttributeError | TypeError) else cause


def _traceback_helps(error: Exception) -> bool:
    """Whether a traceback adds something to the line, such as where PyTorch ran out of memory, or
    what it could not load. For a mistake in what was typed, the line says it all."""
    return isinstance(error.__cause__, RuntimeError | MemoryError)


def _one_line(error: Exception, config_name: str) -> str | None:
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
        name = error.full_key or str(error).rpartition(": ")[2]
        return f"{name} must be given: add {name}=... to the command"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _hydra_line(error, config_name)
    return _file_line(error, config_name) if isinstance(error, OSError) else None


def _file_line(error: OSError, config_name: str) -> str | None:
    """Which file cannot be used, and the cure."""
    too_long = error.errno == errno.ENAMETOOLONG
    if not too_long and not isinstance(
        error, PermissionError | NotADirectoryError | FileExistsError
    ):
        return about_the_disk(error, in_use() or "the disk")
    name = error.filename or ""
    unreadable = os.access(name, os.F_OK) and not os.access(name, os.R_OK)
    if config_name != "train" or too_long or unreadable:
        return f"cannot use {error.filename}: {error.strerror}; choose another file"
    return f"cannot write to {error.filename}: {error.strerror}; choose output_root=FOLDER"


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
        key = match[1].partition("@")[0]
        known = config_keys(config_name)
        if key in known and (owners := _options_with(key)):
            return f"the chosen {key.partition('.')[0]} has no key '{key}': add {owners}"
        return unknown_key(key, known)
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
