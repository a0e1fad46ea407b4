"""What `ckpt=...` means. Imports no torch, so that a mistake is reported at once."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gptlit.errors import UserError
from gptlit.options import option_names
from gptlit.weights.files import find_files


def check_ckpt(
    ckpt: str | None, task: str, outputs: str | Path, source: Mapping[str, Any]
) -> Path | None:
    """What `find_checkpoint` finds, or None for a published model. Raises UserError if there is
    neither. Arguments as in `checkpoint.open_trained`."""
    published = source.get("models", {})
    return None if ckpt in published else find_checkpoint(ckpt, task, outputs, published)


def find_checkpoint(
    ckpt: str | None,
    task: str,
    outputs: str | Path = "outputs",
    published: Collection[str] = (),
) -> Path:
    """The file that `ckpt` means.

    Args:
        ckpt: a checkpoint, a run folder (its best checkpoint, else its last), a file or folder of
            weights of another kind, or None for the newest finished run of the task.
        task: name of the task whose newest run is meant.
        outputs: the folder of runs.
        published: names that could have been given instead, for messages.

    Raises:
        UserError: there is none.
    """
    if ckpt is None:
        latest = Path(outputs) / task / "latest"
        if task not in option_names("task") and not (Path(outputs) / task).exists():
            names = ", ".join(option_names("task"))
            raise UserError(f"unknown task={task}: {outputs}/ has no such runs; known are {names}")
        if not latest.exists():
            what = f"there is no finished {task} run in {outputs}/"
            if latest.is_symlink():
                what = f"the newest {task} run, {latest.readlink()}, was moved or deleted"
            raise UserError(
                f"{what}: give ckpt=FILE or ckpt=RUN_FOLDER, or train one with: python train.py"
                f" task={task}"
            )
        ckpt = str(latest)
    try:
        path = Path(ckpt).expanduser()
        files = find_files(path)
        there = files[0].is_file()
    except (OSError, RuntimeError) as error:  # a name too long, or an unknown user's home
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"ckpt={ckpt} cannot be read: {why}; give a checkpoint, or a run folder"
        ) from error
    if not there:
        near = get_close_matches(ckpt, published, n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        names = f", or one of {', '.join(published)}" if published else ""
        raise UserError(
            f"ckpt={ckpt} does not exist: give a checkpoint, a run folder, or a file or folder of"
            f" weights{names}{hint}"
        )
    return files[0] if len(files) == 1 else path
