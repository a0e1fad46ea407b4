"""What a Trainer reads of a data module."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor


class Recorder(LightningModule):
    """Learns nothing, and remembers every training batch.

    Args:
        batch_type: of the batches that it must get.
        field: of a batch, what is remembered.
    """

    def __init__(self, batch_type: type, field: str) -> None:
        super().__init__()
        self.batch_type, self.field = batch_type, field
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(getattr(batch, self.field).tolist())
        return self.weight * batch.input_ids.float().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert isinstance(batch, self.batch_type)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def record(
    data: LightningDataModule,
    batch_type: type,
    field: str = "input_ids",
    *,
    checkpoint: Path | None = None,
    **limits: Any,
) -> Recorder:
    """Let a Trainer fit a `Recorder` on the data, from a checkpoint on if there is one."""
    recorder = Recorder(batch_type, field)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **limits,
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return recorder
