"""Which checkpoint a run goes on from: the newest that is whole."""

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gptlit.errors import UserError
from gptlit.inference.checkpoint import read_checkpoint

OLDER = ("previous.ckpt", "best.ckpt")
"""What takes the place of a damaged `last.ckpt`, in this order."""


class Start(NamedTuple):
    """Where a run goes on from."""

    path: Path
    step: int
    """Optimiser steps that have been done."""
    content: dict[str, Any]
    """What the checkpoint holds. Its tensors are mapped from the file, which takes up its space on
    the disk, even when removed, for as long as they are held."""
    damage: str = ""
    """What is wrong with a newer checkpoint, if this one takes its place."""

    @property
    def told(self) -> str:
        """What the console says about it, after the line about the run."""
        instead = f"\n{self.damage}; {self.path.name} takes its place" if self.damage else ""
        return f", resumed at step {self.step:,}{instead}"


def find_start(path: Path) -> Start:
    """The checkpoint, if all of it can be read. An older one of the run takes the place of a
    `last.ckpt` that is missing, cut short or otherwise damaged.

    Raises:
        UserError: no checkpoint can be read.
    """
    others = [path.with_name(name) for name in OLDER] if path.name == "last.ckpt" else []
    try:
        return _read(path)
    except UserError as error:
        damaged = error
    for other in others:
        with suppress(UserError):
            return _read(other, str(damaged))
    raise damaged


def _read(path: Path, damage: str = "") -> Start:
    content = read_checkpoint(path)
    # So far only the names of the tensors have been read; their bytes have checksums.
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if broken is not None:
        raise UserError(f"{path} is damaged: the checksum of {broken} in it is wrong")
    return Start(path, int(content["global_step"]), content, damage)
