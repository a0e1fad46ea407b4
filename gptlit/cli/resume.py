"""`resume=...`: turn it into the command line of the run that goes on, in its own folder."""

import os
import re
from pathlib import Path
from typing import Any

from gptlit.cli.arguments import NOTHING, overrides_by_key, quoted
from gptlit.errors import UserError
from gptlit.training import reuse

LAST = Path("checkpoints") / "last.ckpt"
PREVIOUS = LAST.with_name("previous.ckpt")
"""Takes the place of a damaged or missing `last.ckpt`, see `gptlit.training.recovery`."""

YES = ("yes", "true", "on", "1", "latest", "last")
"""What people type when they mean resume=auto."""


def apply(args: list[str]) -> list[str]:
    """Rewrite a command line that asks to resume.

    `resume=FOLDER` (or a checkpoint in it, which need not be the last) repeats that run's own
    overrides, then those given now, with its --config-dir, unless another is given.
    `resume=auto` takes the newest unfinished run with the same overrides, or the folder given by
    `hydra.run.dir`; without one, the run starts from the beginning. In a sweep, each run looks in
    its own folder, see `own_checkpoint`.

    Raises:
        UserError: the folder holds no run, or a folder is given for a sweep.
    """
    wanted = _wanted(args)
    if wanted is None:
        return args
    if wanted.lower() in YES and not Path(wanted).exists():
        raise UserError(
            f"resume={wanted}: give resume=auto, which goes on with the newest unfinished run"
            " of this command, or a run folder"
        )
    others = [arg for arg in args if not _asks(arg)]
    if "--multirun" in args:
        if wanted != "auto":
            raise UserError(f"resume={wanted} is one run: in a sweep give resume=auto")
        return [*others, "resume=auto"]
    if wanted == "auto":
        folder = _newest_unfinished(others)
        if folder is None or not _has_checkpoint(folder):
            return [*others, "resume=auto"]  # it finds none in the new run's folder either
        checkpoint = folder / LAST
    else:
        folder, checkpoint = _run_and_checkpoint(Path(wanted).expanduser())
        if not (folder / reuse.OVERRIDES).is_file():
            raise UserError(
                f"resume={wanted}: {folder / reuse.OVERRIDES} is missing, which says what the run"
                " is: bring it back"
            )
        names = {arg.partition("=")[0] for arg in others}
        before = [arg for arg in _overrides(folder) if arg.partition("=")[0] not in names]
        others = before + others + _own_options(folder, args)
    others = [arg for arg in others if not arg.startswith("hydra.run.dir=")]
    return [*others, f"hydra.run.dir={quoted(str(folder))}", f"resume={quoted(str(checkpoint))}"]


def names_a_run(args: list[str]) -> bool:
    """Whether a command line goes on with a certain run, whose own overrides say what it is."""
    return _wanted(args) not in (None, "auto")


def _wanted(args: list[str]) -> str | None:
    """The last value that was given for `resume`; None if there is none."""
    value = overrides_by_key(args).get("resume")
    return None if value in NOTHING else value


def _asks(arg: str) -> bool:
    return arg.lstrip("+").startswith("resume=")


def own_checkpoint(config: dict[str, Any], folder: Path) -> str | None:
    """The checkpoint that a run of the same config has left in a run's own folder, if any."""
    same = reuse.trained_config(folder) == reuse.what_counts(config)
    return str(folder / LAST) if same and _has_checkpoint(folder) else None


def started_again() -> bool:
    """Whether Slurm has put this job into its queue once more."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _run_and_checkpoint(path: Path) -> tuple[Path, Path]:
    file = path if path.suffix == ".ckpt" else path / LAST
    folder = file.parent.parent
    there = _has_checkpoint(folder) if file.name == LAST.name else file.is_file()
    if not there:
        raise UserError(f"resume={path}: there is no {file}; give a run folder")
    if file.parent.name != LAST.parent.name:
        raise UserError(
            f"resume={path}: the file is in no run folder's {LAST.parent}; give a run folder, or"
            f" begin a new run with its weights: weights=checkpoint weights.path={path}"
        )
    folder = folder.resolve()  # `latest` is a link
    return folder, folder / LAST.parent / file.name


def _has_checkpoint(folder: Path) -> bool:
    return (folder / LAST).is_file() or (folder / PREVIOUS).is_file()


def _newest_unfinished(args: list[str]) -> Path | None:
    given = overrides_by_key(args)
    if "hydra.run.dir" in given:
        return Path(given["hydra.run.dir"])
    root = Path(given.get("output_root", "outputs"))
    same = [
        checkpoints.parent
        for checkpoints in root.glob(f"*/*/{LAST.parent}")
        if _has_checkpoint(checkpoints.parent)
        and not (checkpoints.parent / "summary.json").exists()
        and _compared(_overrides(checkpoints.parent)) == _compared(args)
    ]
    return max(same, key=_saved_at, default=None)


def _saved_at(folder: Path) -> float:
    """When the run's newest checkpoint was written."""
    paths = (folder / name for name in (LAST, PREVIOUS))
    return max(path.stat().st_mtime for path in paths if path.is_file())


def _compared(args: list[str]) -> list[str]:
    """The arguments that make a run what it is: no flags, and no keys that change nothing about it.
    `data.on_change` matters only when a run is resumed."""
    return sorted(arg for arg in args if not arg.startswith("-") and not _is_idle(arg))


def _is_idle(arg: str) -> bool:
    name = arg.lstrip("+~").partition("=")[0]
    first = re.split(r"[./@]", name)[0]
    # debug, as an option, sets keys that do count.
    return name == "data.on_change" or first in reuse.WITHOUT_EFFECT - {"debug"}


def _own_options(folder: Path, args: list[str]) -> list[str]:
    """The flag for the folder that the run's own options came from, if it had one."""
    from omegaconf import OmegaConf

    file = folder / reuse.OVERRIDES.with_name("hydra.yaml")
    if not file.is_file() or any(arg.startswith("--config-dir=") for arg in args):
        return []
    stored: Any = OmegaConf.load(file)
    sources = stored.hydra.runtime.config_sources
    return [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]


def _overrides(folder: Path) -> list[str]:
    """What the run was started with, without what resuming added."""
    from omegaconf import OmegaConf

    file = folder / reuse.OVERRIDES
    stored: Any = OmegaConf.load(file) if file.is_file() else []
    return [str(arg) for arg in stored if not str(arg).startswith("resume=")]
