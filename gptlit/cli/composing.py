"""Compose a run's config only once.

Hydra composes it twice, the first time only to see whether it asks for a sweep (`hydra.mode`); this
takes as long as all else that a command does before its work. Here the first config is kept if it
turns out to be that of a single run.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


@contextlib.contextmanager
def composed_once() -> Iterator[None]:
    """Inside this context, `hydra.main` composes the config of a single run only once.

    A command that may be a sweep, and cannot be composed as a single run, is left to Hydra.
    """
    if "--multirun" in sys.argv:
        yield
        return
    from hydra._internal import hydra
    from hydra.types import RunMode

    class Hydra(hydra.Hydra):
        kept: "DictConfig | None" = None
        """The config that has been composed and not been asked for yet."""

        def get_mode(self, config_name: str | None, overrides: list[str]) -> Any:
            try:
                cfg = super().compose_config(
                    config_name, overrides, RunMode.RUN, with_log_configuration=True
                )
            except Exception:  # for whatever is wrong with the config or its files
                # The values of a sweep, which no single run can have, contain one of these.
                if any("," in given or "(" in given for given in overrides):
                    return super().get_mode(config_name, overrides)
                raise
            if cfg.hydra.mode in (None, RunMode.RUN):
                self.kept = cfg
            return cfg.hydra.mode

        def compose_config(self, *args: Any, **settings: Any) -> "DictConfig":
            kept, self.kept = self.kept, None
            return super().compose_config(*args, **settings) if kept is None else kept

    before = hydra.Hydra
    hydra.Hydra = Hydra  # type: ignore[misc]
    try:
        yield
    finally:
        hydra.Hydra = before  # type: ignore[misc]
