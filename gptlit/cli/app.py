"""What all commands share: Hydra composes the config, the schema checks it, and mistakes end in one
line."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gptlit
from gptlit.cli import arguments, helping
from gptlit.cli.entry import is_interruption
from gptlit.cli.mistakes import config_keys, one_line
from gptlit.errors import UserError
from gptlit.options import conf_dir
from gptlit.training import reuse
from gptlit.training.faults import DivergedError, enough_memory
from gptlit.training.launch import first_process
from gptlit.training.lock import LOCK
from gptlit.training.stopping import INTERRUPTED, is_child_of_lightning, unmasked

Job = Callable[[dict[str, Any], Path], Any]
"""Takes the checked config as plain dicts and the run folder."""


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
        line = one_line(error, config_name)
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
                line = one_line(error, config_name)
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
        if one_line(error, config_name) is not None:
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
