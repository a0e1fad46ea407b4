"""`hparams_search=optuna`: what a search can do with runs whose score is their lowest validation
loss, and what a study remembers between commands."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gptlit.errors import UserError, short_path

OTHER_VALUES = ("support dynamic value space", "Cannot set different distribution kind")
"""Of Optuna's messages where a key is not searched among the values of the commands before."""
SQLITE = "sqlite:///"


def check(config: DictConfig) -> None:
    """Refuse a search that would come to nothing after its runs.

    Raises:
        UserError: its runs have no score, or it looks for something else; or its folder has runs
            of other values.
    """
    if not _is_search(config):
        return
    direction = getattr(config.hydra.sweeper.direction, "name", config.hydra.sweeper.direction)
    if direction != "minimize":
        raise UserError(
            f"hydra.sweeper.direction={direction}: a run's score is its validation loss alone:"
            " leave it out"
        )
    share = config.trainer.limit_val_batches
    if share == 0:
        raise UserError(
            f"trainer.limit_val_batches={share} leaves a search without the validation loss that it"
            " looks at: leave it out"
        )
    folder = Path(config.hydra.sweep.dir)
    if goes_on_with_study(config) and any(folder.glob("*/checkpoints/*.ckpt")):
        raise UserError(
            f"{short_path(folder)} holds runs already, and a search goes on with others: choose"
            " another folder with hydra.sweep.dir=FOLDER, or leave it out"
        )


def goes_on_with_study(config: DictConfig) -> bool:
    """Whether the same command again chooses other values, knowing those of before."""
    return _is_search(config) and config.hydra.sweeper.storage is not None


def make_room(config: DictConfig) -> None:
    """SQLite makes the study's file, but not its folder."""
    if goes_on_with_study(config) and (url := str(config.hydra.sweeper.storage)).startswith(SQLITE):
        Path(url.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)


def explained(error: Exception) -> str | None:
    """A line for what Optuna says of a study that has searched among other values."""
    if not any(words in str(error) for words in OTHER_VALUES):
        return None
    return (
        "the study has searched other values of these keys, and cannot go on with new ones: begin"
        " another with hydra.sweeper.study_name=NAME"
    )


def _is_search(config: DictConfig) -> bool:
    target: Any = config.hydra.sweeper.get("_target_")
    return str(target).endswith(".OptunaSweeper")
