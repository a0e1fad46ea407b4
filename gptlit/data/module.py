"""What the data modules share: training that resumes inside an epoch, and their place among the
processes."""

from abc import ABC, abstractmethod

from lightning.pytorch import LightningDataModule

from gptlit.data.sampler import ResumableLoader


class ResumableDataModule(LightningDataModule, ABC):
    """A data module whose training loader goes on where a checkpoint left it."""

    def __init__(self) -> None:
        super().__init__()
        self._loader: ResumableLoader | None = None
        self._place_in_data: dict[str, int] | None = None

    @abstractmethod
    def _train_loader(self, rank: int, world_size: int) -> ResumableLoader:
        """The training batches of a process."""

    def train_dataloader(self) -> ResumableLoader:
        """Every sample at most once per epoch, in an order of its own each; resumable."""
        self._loader = self._train_loader(*self._place())
        if self._place_in_data is not None:
            self._loader.load_state_dict(self._place_in_data)
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """How far training has read; of a loader, Lightning keeps it only inside an epoch."""
        return {} if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next training loader go on from there."""
        self._place_in_data = state_dict or None

    def train_batches(self, world_size: int = 1) -> int:
        """Micro-batches per epoch and process. Raises UserError where there is none."""
        return len(self._train_loader(0, world_size))

    def _place(self) -> tuple[int, int]:
        """Rank and world size."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
