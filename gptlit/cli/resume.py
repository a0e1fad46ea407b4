"""`resume=...`: turn it into the command line of the run that goes on, in its own folder."""

import os
from pathlib import Path
from typing import Any

from gptlit.cli.arguments import quoted
from gptlit.errors import UserError
from gptlit.training import reuse

LAST = Path("checkpoints") / "last.ckpt"
PREVIOUS = LAST.with_name("previous.ckpt")
"""Takes the place of `last.ckpt` where that is damaged or gone, see `gptlit.training.recovery`."""

YES = ("yes", "true", "on", "1", "latest", "last")
"""What is typed where resume=auto is meant."""


def apply(args: list[str]) -> list[str]:
    """Rewrite a command line that asks to resume.

    `resume=FOLDER` (or a checkpoint in it, which need not be the last) repeats that run's own
    overrides, then those given now.
    `resume=auto` takes the newest unfinished run with the same overrides, or the folder given by
    `hydra.run.dir`; without one, the run starts from the beginning. The runs of a sweep look each
    in its own folder, see `own_checkpoint`.

    Raises:
        UserError: the folder holds no run; or one is given to a sweep.
    """
    asks = [arg for arg in args if arg.lstrip("+").startswith("resume=")]
    wanted = [arg.partition("=")[2].strip("'\"") for arg in asks]
    if not wanted or wanted[-1] in ("", "null"):
        return args
    if wanted[-1].lower() in YES and not Path(wanted[-1]).exists():
        raise UserError(
            f"resume={wanted[-1]}: give resume=auto, which goes on with the newest unfinished run"
            " of this command, or a run folder"
        )
    others = [arg for arg in args if arg not in asks]
    if "--multirun" in args:
        if wanted[-1] != "auto":
            raise UserError(f"resume={wanted[-1]} is one run: in a sweep give resume=auto")
        return [*others, "resume=auto"]
    if wanted[-1] == "auto":
        folder = _newest_unfinished(others)
        if folder is None or not _has_checkpoint(folder):
            return [*others, "resume=auto"]  # it finds none in the new run's folder either
        checkpoint = folder / LAST
    else:
        folder, checkpoint = _run_and_checkpoint(Path(wanted[-1]))
        names = {arg.partition("=")[0] for arg in others}
        before = [arg for arg in _overrides(folder) if arg.partition("=")[0] not in names]
        others = before + others
    others = [arg for arg in others if not arg.startswith("hydra.run.dir=")]
    return [*others, f"hydra.run.dir={quoted(str(folder))}", f"resume={quoted(str(checkpoint))}"]


def own_checkpoint(config: dict[str, Any], folder: Path) -> str | None:
    """What an unfinished run of the same config has left in a run's own folder."""
    same = reuse.trained_config(folder) == reuse.what_counts(config)
    return str(folder / LAST) if same and _has_checkpoint(folder) else None


def started_again() -> bool:
    """Whether Slurm has put this job into its queue once more."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _run_and_checkpoint(path: Path) -> tuple[Path, Path]:
    file = path if path.suffix == ".ckpt" else path / LAST
    folder = file.parent.parent
    there = _has_checkpoint(folder) if file.name == LAST.name else file.is_file()
    if not there or file.parent.name != LAST.parent.name:
        raise UserError(f"resume={path}: there is no {file}; give a run folder")
    folder = folder.resolve()  # `latest` is a link
    return folder, folder / LAST.parent / file.name


def _has_checkpoint(folder: Path) -> bool:
    return (folder / LAST).is_file() or (folder / PREVIOUS).is_file()


def _newest_unfinished(args: list[str]) -> Path | None:
    values = dict(arg.split("=", 1) for arg in args if "=" in arg)
    if "hydra.run.dir" in values:
        return Path(values["hydra.run.dir"].strip("'\""))
    root = Path(values.get("output_root", "outputs").strip("'\""))
    # Flags and Hydra's own keys are not among a run's stored overrides.
    args = [arg for arg in args if not arg.lstrip("+~").startswith(("-", "hydra."))]
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
    """What makes a run; what it does about data that have changed is for resuming alone."""
    return sorted(arg for arg in args if not arg.lstrip("+").startswith("data.on_change="))


def _overrides(folder: Path) -> list[str]:
    """What the run was started with, less what resuming added."""
    from omegaconf import OmegaConf

    file = folder / "config" / "overrides.yaml"
    stored: Any = OmegaConf.load(file) if file.is_file() else []
    return [str(arg) for arg in stored if not str(arg).startswith("resume=")]
