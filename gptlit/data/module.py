"""What the data modules share: training that resumes within an epoch, on the data that it was
started with, and the process's rank."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from gptlit.data.readers import existing
from gptlit.data.sampler import ResumableLoader
from gptlit.errors import UserError

SPLIT_KEYS = {"train": "data.path", "validation": "data.val_path", "test": "data.test_path"}
"""The config keys of the files that splits may have of their own."""
OnChange = Literal["refuse", "retokenize"]


class ResumableDataModule(LightningDataModule, ABC):
    """A data module whose training loader resumes where a checkpoint left off.

    on_change: what a resumed run does if the data are not those of its checkpoint: "refuse" them,
        or "retokenize" them and go on

    Raises UserError for arguments that are not allowed.
    """

    num_workers: int
    """Processes that read batches ahead."""

    def __init__(self, on_change: OnChange = "refuse") -> None:
        super().__init__()
        require_choice("data.on_change", on_change, OnChange)
        self.on_change = on_change
        self._loader: ResumableLoader | None = None
        self._state: dict[str, Any] = {}
        self._identity: dict[str, Any] = {}
        self._told = False

    @staticmethod
    def _require_sizes(
        context_length: int, seed: int, batch_size: int, eval_batch_size: int | None
    ) -> None:
        """Raises UserError for sizes or a seed that are not allowed."""
        require_whole("model.context_length", context_length)
        require_whole("seed", seed, least=0)
        require_whole("data.batch_size", batch_size)
        if eval_batch_size is not None:
            require_whole("data.eval_batch_size", eval_batch_size)

    @abstractmethod
    def _train_loader(self, rank: int, world_size: int) -> ResumableLoader:
        """The training batches of a process."""

    def train_dataloader(self) -> ResumableLoader:
        """Every sample at most once per epoch, each epoch in its own order; resumable."""
        self._loader = self._resumed_loader(*self._place())
        return self._loader

    def _resumed_loader(self, rank: int, world_size: int) -> ResumableLoader:
        loader = self._train_loader(rank, world_size)
        if "samples" in self._state:
            loader.load_state_dict(self._state)
        return loader

    def state_dict(self) -> dict[str, Any]:
        """How far training has read, and which data. Lightning itself keeps a loader's state only
        within an epoch."""
        if self._loader is None:
            return {}
        return {**self._loader.state_dict(), "data": self._identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training loader resume from this state; without effect with a Trainer that
        does not train, whose data may be others.

        Raises UserError if the data are known already and are not those of the checkpoint; if they
        become known later, `_identify` raises it. A checkpoint that does not say which data it
        belongs to is accepted with any.
        """
        fn = self.trainer.state.fn if self.trainer else None
        if fn in (None, TrainerFn.FITTING):
            self._state = state_dict
            self._compare()

    def teardown(self, stage: str) -> None:
        """Forget where a resumed training began, so that the next one starts with epoch 0."""
        if stage == "fit":
            self._state = {}

    def _identify(self, **identity: Any) -> None:
        """Record what the data are, as soon as that is known: plain values, named after the config
        key or after what they are a digest of. Raises UserError as `load_state_dict` does."""
        self._identity = identity
        self._compare()

    def _compare(self) -> None:
        before = self._state.get("data") or {}
        changed = [
            f"{key} is {now}, was {before[key]}" if _is_shown(now) else f"other {key}"
            for key, now in self._identity.items()
            if key in before and before[key] != now
        ]
        if changed and self.on_change == "refuse":
            raise UserError(
                f"the data are not those of the checkpoint ({', '.join(changed)}): a file or a "
                "setting has changed; undo that, start a new run, or go on with the data as they "
                "are: data.on_change=retokenize"
            )
        if changed and not self._told:
            self._told = True
            _tell(f"the data have changed since the checkpoint ({', '.join(changed)}): going on")

    def train_batches(self, world_size: int = 1) -> int:
        """Micro-batches per epoch and process. Raises UserError if there is none."""
        return len(self._train_loader(0, world_size))

    def batches_read(self, world_size: int = 1) -> int:
        """How many micro-batches per process hold what the checkpoint's run had read, even if its
        batch size or number of processes was another."""
        return self._resumed_loader(0, world_size).handed_out

    def _place(self) -> tuple[int, int]:
        """Rank and world size."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _reading(self, rank: int, world_size: int) -> dict[str, Any]:
        """A loader's arguments that say how a process gets its batches."""
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        workers = {"num_workers": self.num_workers, "pin_memory": on_gpu}
        return {"rank": rank, "world_size": world_size, **workers}


def require_choice(key: str, value: object, kind: Any) -> None:
    """Raises UserError, with the config key, unless a value is one of those of a `Literal`."""
    allowed = get_args(kind)
    if value not in allowed:
        raise UserError(f"{key}={value}: allowed are {', '.join(allowed)}")


def require_whole(key: str, value: object, *, least: int = 1) -> None:
    """Raises UserError, with the config key, unless a value is a whole number from `least` on."""
    if not (isinstance(value, Integral) and int(value) >= least):
        raise UserError(f"{key}={value}: expected a whole number from {least} on")


def require_different(paths: Mapping[str, str | None]) -> None:
    """Raises UserError, with the config keys, unless the files of the splits exist, each another
    one; None is no file."""
    named: dict[Path, str] = {}
    for split, path in paths.items():
        if path is None:
            continue
        key = SPLIT_KEYS[split]
        other = named.setdefault(existing(path, key).resolve(), key)
        if other != key:
            raise UserError(f"{path} is both {other} and {key}; give another file as one of them")


def _is_shown(value: Any) -> bool:
    """Whether it is a setting, rather than a digest, which tells a reader nothing."""
    return isinstance(value, int | float)


@rank_zero_only
def _tell(line: str) -> None:
    print(line, flush=True)
