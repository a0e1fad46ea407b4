"""The end of a run that no longer gets better."""

from typing import Any

from lightning.pytorch import callbacks

from gptlit.training.monitored import Monitored


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's callback, except that a resumed run has the patience of its config, not that of
    the checkpoint. The class keeps Lightning's name: checkpoints store its state under it.

    Args:
        monitored: the metric; `Checkpoints` refuses a validation without it.
        patience: validations without a better one.
    """

    def __init__(self, monitored: Monitored, patience: int) -> None:
        super().__init__(
            monitored.name,
            patience=patience,
            mode=monitored.mode,
            strict=False,
            check_on_train_epoch_end=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best loss and how many validations ago it was."""
        super().load_state_dict({**state_dict, "patience": self.patience})


def saved_wait(content: dict[str, Any], monitored: Monitored) -> int:
    """How many validations in a row, up to the checkpoint, were no better than an earlier one; 0 if
    its content does not say that of this metric."""
    state = content["callbacks"].get(EarlyStopping(monitored, 1).state_key, {"wait_count": 0})
    return int(state["wait_count"])
