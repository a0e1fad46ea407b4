"""`resume=...`: turn it into the command line of the run that goes on, in its own folder."""

from pathlib import Path
from typing import Any

from gptlit.cli.app import quoted
from gptlit.errors import UserError

LAST = Path("checkpoints") / "last.ckpt"


def apply(args: list[str]) -> list[str]:
    """Rewrite a command line that asks to resume.

    `resume=FOLDER` (or a checkpoint in it, which need not be the last) repeats that run's own
    overrides, then those given now.
    `resume=auto` takes the newest unfinished run with the same overrides, or the folder given by
    `hydra.run.dir`; without one, the run starts from the beginning.

    Raises:
        UserError: the folder holds no run.
    """
    wanted = [arg.partition("=")[2].strip("'\"") for arg in args if arg.startswith("resume=")]
    if not wanted or wanted[-1] in ("", "null"):
        return args
    others = [arg for arg in args if not arg.startswith("resume=")]
    if wanted[-1] == "auto":
        folder = _newest_unfinished(others)
        if folder is None or not (folder / LAST).is_file():
            return others
        checkpoint = folder / LAST
    else:
        folder, checkpoint = _run_and_checkpoint(Path(wanted[-1]))
        names = {arg.partition("=")[0] for arg in others}
        before = [arg for arg in _overrides(folder) if arg.partition("=")[0] not in names]
        others = before + others
    others = [arg for arg in others if not arg.startswith("hydra.run.dir=")]
    return [*others, f"hydra.run.dir={quoted(str(folder))}", f"resume={quoted(str(checkpoint))}"]


def _run_and_checkpoint(path: Path) -> tuple[Path, Path]:
    file = path if path.suffix == ".ckpt" else path / LAST
    if not file.is_file() or file.parent.name != LAST.parent.name:
        raise UserError(f"resume={path}: there is no {path / LAST}; give a run folder")
    folder = file.parent.parent.resolve()  # `latest` is a link
    return folder, folder / LAST.parent / file.name


def _newest_unfinished(args: list[str]) -> Path | None:
    values = dict(arg.split("=", 1) for arg in args if "=" in arg)
    if "hydra.run.dir" in values:
        return Path(values["hydra.run.dir"].strip("'\""))
    root = Path(values.get("output_root", "outputs").strip("'\""))
    # Flags and Hydra's own keys are not among a run's stored overrides.
    args = [arg for arg in args if not arg.lstrip("+~").startswith(("-", "hydra."))]
    same = [
        run.parent.parent
        for run in root.glob(f"*/*/{LAST}")
        if not (run.parent.parent / "summary.json").exists()
        and sorted(_overrides(run.parent.parent)) == sorted(args)
    ]
    return max(same, key=lambda folder: folder.name, default=None)


def _overrides(folder: Path) -> list[str]:
    """What the run was started with, less what resuming added."""
    from omegaconf import OmegaConf

    file = folder / "config" / "overrides.yaml"
    stored: Any = OmegaConf.load(file) if file.is_file() else []
    return [str(arg) for arg in stored if not str(arg).startswith("resume=")]
