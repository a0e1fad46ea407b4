"""`hparams_search=optuna`: what a search can do with runs whose score is the best value of one
metric, and what a study remembers between commands."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gptlit.errors import UserError, short_path
from gptlit.training.monitored import Monitored

OTHER_VALUES = ("support dynamic value space", "Cannot set different distribution kind")
"""Parts of Optuna's messages when a key is searched among other values than in earlier commands."""
OTHER_DIRECTION = "Cannot overwrite study direction"
"""Part of Optuna's message when earlier commands have looked for the highest score, not the lowest,
or the other way round."""
SQLITE = "sqlite:///"


def check(config: DictConfig) -> None:
    """Refuse a search that would turn out to be useless after its runs.

    Raises:
        UserError: its runs have no score, it does not look for the best one, or its folder has
            runs with other values.
    """
    if not _is_search(config):
        return
    direction = getattr(config.hydra.sweeper.direction, "name", config.hydra.sweeper.direction)
    monitored = Monitored.of(config)
    wanted = "minimize" if monitored.mode == "min" else "maximize"
    if direction != wanted:
        raise UserError(
            f"hydra.sweeper.direction={direction}: a run's score is its best {monitored.name}"
            f" alone: give hydra.sweeper.direction={wanted}"
        )
    share = config.trainer.limit_val_batches
    if share == 0:
        raise UserError(
            f"trainer.limit_val_batches={share} leaves a search without the {monitored.name} that"
            " it looks at: leave it out"
        )
    folder = Path(config.hydra.sweep.dir)
    if goes_on_with_study(config) and any(folder.glob("*/checkpoints/*.ckpt")):
        raise UserError(
            f"{short_path(folder)} holds runs already, and a search goes on with others: choose"
            " another folder with hydra.sweep.dir=FOLDER, or leave it out"
        )


def goes_on_with_study(config: DictConfig) -> bool:
    """Whether the same command, repeated, chooses other values, knowing the earlier ones."""
    return _is_search(config) and config.hydra.sweeper.storage is not None


def prepare(config: DictConfig) -> None:
    """Make the folder of the study's file, since SQLite makes only the file, and silence the
    sweeper's message about the missing score of a failed run, which has said why it failed."""
    if not _is_search(config):
        return
    logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl").setLevel(logging.ERROR)
    if goes_on_with_study(config) and (url := str(config.hydra.sweeper.storage)).startswith(SQLITE):
        Path(url.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)


def explained(error: Exception) -> str | None:
    """The line for Optuna's error about a study that has searched among other values, or in the
    other direction; None for other errors."""
    if OTHER_DIRECTION in str(error):
        told = "the study has another hydra.sweeper.direction"
    elif any(words in str(error) for words in OTHER_VALUES):
        told = "the study has searched other values of these keys, and cannot go on with new ones"
    else:
        return None
    return f"{told}: begin another with hydra.sweeper.study_name=NAME"


def _is_search(config: DictConfig) -> bool:
    target: Any = config.hydra.sweeper.get("_target_")
    return str(target).endswith(".OptunaSweeper")
