"""Whether what `ckpt=...` names is there; said before torch is imported, which takes seconds."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gptlit.errors import UserError
from gptlit.options import option_names


def check_ckpt(ckpt: str | None, task: str, outputs: str | Path, source: Mapping[str, Any]) -> None:
    """Raises UserError where there is none. Arguments as in `checkpoint.open_task`."""
    published = source.get("models", {})
    if ckpt not in published:
        locate(ckpt, task, outputs, published)


def locate(
    ckpt: str | None, task: str, outputs: str | Path, published: Collection[str] = ()
) -> Path:
    """The file, folder or prefix of files that `ckpt` names; None: the newest finished run.

    Raises:
        UserError: there is none. Arguments as in `checkpoint.find_checkpoint`.
    """
    if ckpt is None:
        latest = Path(outputs) / task / "latest"
        if task not in option_names("task") and not (Path(outputs) / task).exists():
            names = ", ".join(option_names("task"))
            raise UserError(f"unknown task={task}: {outputs}/ has no such runs; known are {names}")
        if not latest.exists():
            raise UserError(
                f"there is no finished {task} run in {outputs}/: give ckpt=FILE or ckpt=RUN_FOLDER,"
                f" or train one with: python train.py task={task}"
            )
        return latest
    path = Path(ckpt).expanduser()
    there = path.is_dir() or path.is_file()
    # TensorFlow names a checkpoint by what its files' names begin with.
    if not there and not path.with_name(path.name + ".index").is_file():
        near = get_close_matches(ckpt, published, n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        names = f", or one of {', '.join(published)}" if published else ""
        raise UserError(
            f"ckpt={ckpt} does not exist: give a checkpoint, a run folder, or a file or folder of"
            f" weights{names}{hint}"
        )
    return path
