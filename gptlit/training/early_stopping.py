"""The end of a run that no longer gets better."""

from typing import Any

from lightning.pytorch import callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, whose patience stays that of the config where it goes on from a checkpoint. The
    class has the same name, under which checkpoints keep its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best loss and how long ago it was."""
        super().load_state_dict({**state_dict, "patience": self.patience})


def saved_wait(content: dict[str, Any]) -> int:
    """The newest validations that a checkpoint's content counts as no better than an earlier one;
    0 where it does not count them."""
    kept = (state for key, state in content["callbacks"].items() if key.startswith("EarlyStopping"))
    return max((state["wait_count"] for state in kept), default=0)
