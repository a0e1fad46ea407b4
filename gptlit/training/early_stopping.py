"""The end of a run that no longer gets better."""

from typing import Any

from lightning.pytorch import callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's callback, except that a resumed run has the patience of its config, not that of
    the checkpoint. The class keeps Lightning's name: checkpoints store its state under it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best loss and how many validations ago it was."""
        super().load_state_dict({**state_dict, "patience": self.patience})


def saved_wait(content: dict[str, Any]) -> int:
    """How many validations in a row, up to the checkpoint, were no better than an earlier one; 0 if
    its content does not say."""
    kept = (state for key, state in content["callbacks"].items() if key.startswith("EarlyStopping"))
    return max((state["wait_count"] for state in kept), default=0)
