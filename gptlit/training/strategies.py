"""How a run's processes share the work: whole copies of the model (DDP), or parts of it (FSDP)."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from gptlit.errors import UserError

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def make_strategy(name: str, timeout_s: float) -> Strategy | str:
    """The Trainer's `strategy` argument for `trainer.strategy=name`.

    Args:
        name: ddp, fsdp, or one that Lightning knows.
        timeout_s: how long a process waits for the others.
    """
    timeout = timedelta(seconds=timeout_s)
    if name == "fsdp":
        return FullyShardedStrategy(timeout)
    if name == "ddp":
        # Gradients are views of the buffers that are sent, which otherwise hold a second copy.
        return DDPStrategy(timeout=timeout, gradient_as_bucket_view=True)
    return name


@contextmanager
def others_may_end() -> Iterator[None]:
    """Turn the errors of a process that has lost another one into a line that says so.

    Raises:
        UserError: instead of what the network raised.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in reason:
            raise
        # Leave out gloo's place in its source, and its advice.
        reason = re.sub(r"^\[[^]]*\] ", "", reason).partition(". ")[0]
        raise UserError(
            "another process of this run has ended, or cannot be reached, so this one ends too: its"
            " own output says why. The same command with resume=auto goes on from the last"
            f" checkpoint ({reason})"
        ) from error


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's FSDP2, with checkpoints like those of one process.

    Weights, gradients and the optimiser's state are spread over all processes; see
    `gptlit.tasks.sharding`. A checkpoint is one file with all of them, in which parameters are
    numbered as a plain optimiser numbers them: it may be resumed by any number of processes, with
    any strategy.

    Args:
        timeout: how long a process waits for the others.
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)

    def setup_environment(self) -> None:
        """Join the processes, all of them along one dimension of the mesh."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, on the first process; the others take part and get an empty dict."""
        plain = _plain(optimizer)
        state: dict[str, Any] = get_optimizer_state_dict(self._module, plain, options=WHOLE)
        if not self.is_global_zero:
            return {}
        names = [name for group in state["param_groups"] for name in group["params"]]
        return _renamed(state, {name: number for number, name in enumerate(names)})

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Each process reads the file, and keeps its part."""
        checkpoint: dict[str, Any] = torch.load(
            checkpoint_path, map_location="cpu", mmap=True, weights_only=True
        )
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self._module, checkpoint["state_dict"], options=options)
        assert self.lightning_module is not None
        if self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            for optimizer, state in zip(
                self.optimizers, checkpoint["optimizer_states"], strict=True
            ):
                plain = _plain(optimizer)
                named = _renamed(state, self._names(plain, state))
                set_optimizer_state_dict(self._module, plain, named, options=options)
        return checkpoint

    def _names(self, optimizer: Optimizer, state: Mapping[str, Any]) -> dict[int, str]:
        """Our parameters' names, by their numbers in a saved state: both are in the same order."""
        names = {parameter: name for name, parameter in self._module.named_parameters()}
        saved = [number for group in state["param_groups"] for number in group["params"]]
        own = [names[p] for group in optimizer.param_groups for p in group["params"]]
        return dict(zip(saved, own, strict=True))

    @property
    def _module(self) -> torch.nn.Module:
        assert self.model is not None
        return self.model


def _plain(optimizer: Optimizer | LightningOptimizer) -> Optimizer:
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _renamed(state: Mapping[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    """An optimiser's state with other names, or numbers, for its parameters."""
    return {
        "state": {names[name]: values for name, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [names[name] for name in group["params"]]}
            for group in state["param_groups"]
        ],
    }
