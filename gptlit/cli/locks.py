"""A run's folder, and a sweep's, is locked before Hydra writes into it."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gptlit.errors import UserError
from gptlit.training.lock import take
from gptlit.training.reuse import first_process


class Lock(Callback):
    """Hydra's hook, named in `conf/train.yaml`: ends the process if another one has the folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the run's configs are written."""
        with suppress(OSError, OmegaConfBaseException):  # Hydra meets it too, and raises
            _take(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before any run starts."""
        with suppress(OSError, OmegaConfBaseException):
            _take(Path(config.hydra.sweep.dir))


def _take(folder: Path) -> None:
    if not first_process():
        return
    try:
        take(folder)
    except UserError as error:  # of which Hydra would make a warning
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
