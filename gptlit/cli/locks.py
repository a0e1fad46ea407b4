"""A run's folder, and a sweep's, is locked before Hydra writes into it."""

import sys
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from gptlit.cli.arguments import printable
from gptlit.errors import UserError
from gptlit.training.launch import first_process
from gptlit.training.lock import take


class Lock(Callback):
    """Hydra's hook, named in `conf/train.yaml`, for single runs."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lock the run's folder before its configs are written."""
        with suppress(OSError, OmegaConfBaseException):  # Hydra meets the error too, and raises it
            lock(config.hydra.run)


def lock(node: DictConfig) -> None:
    """Lock the folder that `hydra.run` or `hydra.sweep` names, or end the process if another one
    has locked it. A folder that is named after the time is a new one: if it is there already, a
    number is added to its name."""
    unresolved: Any = OmegaConf.to_container(node)
    if "${now:" in unresolved["dir"] and first_process():
        folder = _take_numbered(Path(node.dir))
        with read_write(node):
            node.dir = str(folder)
    else:
        _take(Path(node.dir))


def refuse(line: str) -> NoReturn:
    """Print the line and end the process: Hydra turns an exception in one of its hooks into a mere
    warning."""
    print(f"error: {printable(line)}", file=sys.stderr)
    sys.exit(2)


def _take(folder: Path) -> None:
    if not first_process():
        return
    try:
        take(folder)
    except UserError as error:
        refuse(str(error))


def _take_numbered(folder: Path) -> Path:
    """Make the folder and lock it. If it is there already, do so with the first number after its
    name that is free."""
    places = (folder.with_name(f"{folder.name}_{number}") for number in count(2))
    for place in chain([folder], places):
        with suppress(UserError):  # another process was quicker
            if not place.exists():
                take(place)
                break
    return place
