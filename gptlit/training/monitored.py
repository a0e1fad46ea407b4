"""The metric that says which checkpoint, and which run of a sweep, is the best."""

import math
from typing import Any, NamedTuple

LOW = ("loss", "perplexity", "bits_per_byte")
"""Last parts of the names of metrics that are best low."""


class Monitored(NamedTuple):
    """A metric of the validation, and whether it is best low ("min") or high ("max")."""

    name: str
    mode: str

    @classmethod
    def of(cls, config: Any) -> "Monitored":
        """That of a training config; the loss if it names none, as those from before there was a
        choice."""
        trainer = config.get("trainer", {})
        name, mode = trainer.get("monitor", LOSS.name), trainer.get("monitor_mode", "auto")
        if mode == "auto":
            mode = "min" if name.rpartition("/")[2] in LOW else "max"
        return cls(name, mode)

    def rank(self, score: float | None) -> float:
        """A number that is the lower the better the score is; infinity if there is none."""
        if score is None or math.isnan(score):
            return math.inf
        return score if self.mode == "min" else -score


LOSS = Monitored("val/loss", "min")
"""The loss, for which a checkpoint or a config from before there was a choice stands."""
