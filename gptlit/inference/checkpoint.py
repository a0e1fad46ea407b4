"""Find a checkpoint, and read it without executing anything that stands in it."""

import pickle
import zipfile
from pathlib import Path

import torch

from gptlit.errors import UserError
from gptlit.tasks import Task, task_class


def find_checkpoint(ckpt: str | None, task: str, outputs: str | Path = "outputs") -> Path:
    """The file that `ckpt` means.

    Args:
        ckpt: a checkpoint file, a run folder (its best checkpoint, else its last), or None for
            the newest finished run of the task.
        task: name of the task whose newest run is meant.
        outputs: where runs lie.

    Raises:
        UserError: there is none.
    """
    if ckpt is None:
        latest = Path(outputs) / task / "latest"
        if not latest.exists():
            raise UserError(
                f"there is no finished {task} run in {outputs}/: give ckpt=FILE or ckpt=RUN_FOLDER,"
                f" or train one with: python train.py task={task}"
            )
        return find_checkpoint(str(latest), task, outputs)
    path = Path(ckpt)
    if path.is_dir():
        for folder in (path / "checkpoints", path):
            for name in ("best.ckpt", "last.ckpt"):
                if (folder / name).is_file():
                    return folder / name
        raise UserError(f"ckpt={ckpt} is a folder without checkpoints/best.ckpt or last.ckpt")
    if not path.is_file():
        raise UserError(f"ckpt={ckpt} does not exist: give a .ckpt file or a run folder")
    return path


def load_task(path: Path) -> Task:
    """A task as its checkpoint has it, on the CPU, in evaluation mode.

    Tensors are mapped from the file, not copied; only what is used is read.

    Raises:
        UserError: the file is not one of our checkpoints, or is damaged.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not a gptlit checkpoint, or was cut short")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it holds more than tensors and plain data, which a gptlit"
            " checkpoint never does; nothing in it was executed"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a gptlit checkpoint, or is damaged: {error}") from error
    hparams = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(hparams, dict) or "task" not in hparams or "state_dict" not in content:
        raise UserError(f"{path} is not a gptlit checkpoint: it does not say its task and model")
    arguments = {name: value for name, value in hparams.items() if name != "task"}
    try:
        with torch.device("meta"):  # no weights are drawn just to be replaced
            task = task_class(hparams["task"])(**arguments)
        task.load_state_dict(content["state_dict"], assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"{path} does not fit the model it describes: {first_line}") from error
    return task.eval()
