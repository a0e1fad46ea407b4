"""What all tasks share: one model, a loss over target tokens, and sums over a whole step."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from gptlit.errors import UserError
from gptlit.model import GPTConfig, GPTModel, TextClassifier, blank_parameters
from gptlit.prompts import PromptFormat
from gptlit.tasks.gradients import multiply, total_norm
from gptlit.tasks.sharding import local, shard, whole_state


@dataclass
class StepStats:
    """One optimiser step, over all its micro-batches and all processes."""

    loss: Tensor
    """Mean over the step's targets, nats (scalar)."""
    targets: Tensor
    """Number of targets (scalar)."""
    tokens: Tensor
    """Number of tokens trained on (scalar), by which speed is measured."""
    grad_norm: Tensor | None = None
    """2-norm of all gradients before clipping (scalar)."""
    lr: float = 0.0
    """Learning rate of the step."""


class Task(LightningModule, ABC):
    """A `GPTModel` and what is done with it.

    A subclass says what the loss is and what is measured. How the model is optimised is handed in
    as `optimizer_factory`; devices, precision, accumulation and checkpoints are left to the
    Trainer.

    The hyperparameters saved in a checkpoint are plain dicts, strings and numbers.

    Args:
        model: the fields of `GPTConfig`.
        tokenizer: name of the tokenizer that made the ids.
        seed: seeds dropout; together with the step it fixes every random number.
        settings: the task's own options, saved as they are; those in `needs` must be there.
        token_bytes: (vocab_size,) int64, UTF-8 bytes of each token, for bits per byte.
        task: the task's name in a checkpoint's hyperparameters, for `load_from_checkpoint`.

    Raises:
        ValueError: the checkpoint is of another task, or a setting is missing.
        TypeError: the tokenizer is not a name.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Settings that must be given."""
    command: ClassVar[str] = "generate.py"
    """The command that a trained model is used with."""
    classifier: TextClassifier | None = None
    """Finds the class of a text, if that is what the task is about."""
    prompt_format: PromptFormat | None = None
    """How instructions become prompts, if the task is about instructions."""
    token_bytes: Tensor | None

    def __init__(
        self,
        *,
        model: dict[str, Any],
        tokenizer: str,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        token_bytes: Tensor | None = None,
        task: str | None = None,
    ) -> None:
        super().__init__()
        if task not in (None, self.name):
            raise ValueError(f"{type(self).__name__} is for task={self.name}, not for task={task}")
        if not isinstance(tokenizer, str):
            raise TypeError(f"tokenizer: expected a name, such as 'gpt2', got {tokenizer!r:.80}")
        self._require_settings(settings or {})
        self.save_hyperparameters(
            {
                "task": self.name,
                "model": GPTConfig(**model).to_dict(),
                "tokenizer": tokenizer,
                "seed": seed,
                "settings": settings or {},
            },
            logger=False,  # loggers get the whole config
        )
        self.seed = seed
        self.settings = settings or {}
        self.model = GPTModel(GPTConfig(**model))
        self.register_buffer("token_bytes", token_bytes, persistent=False)
        self.optimizer_factory: Callable[[Task], Any] | None = None
        self.base: dict[str, Any] | None = None
        """Where the frozen weights come from, if checkpoints leave them out; None: checkpoints hold
        all weights."""
        self.stats: StepStats | None = None
        """The newest optimiser step, for whoever logs it."""
        self.final_splits = ["test"]
        """Splits of the data that are measured once training is over, in the order of the test
        loop's dataloaders."""
        self.final_metrics: dict[str, float] = {}
        """What was measured in training and on these splits, for the summary."""
        self._micro_batches = 0
        self._reference: Tensor | None = None
        self._sums: Tensor | None = None

    def _require_settings(self, settings: dict[str, Any]) -> None:
        needed = self.needs + ("lora",) * (settings.get("trainable") == "lora")
        if missing := ", ".join(name for name in needed if name not in settings):
            raise ValueError(
                f"{type(self).__name__} lacks the settings {missing}: they stand in"
                f" conf/task/{self.name}.yaml, or come from for_task() of the data module"
            )

    @abstractmethod
    def loss_sum(self, batch: Any) -> tuple[Tensor, Tensor | int]:
        """The loss summed over the batch's targets (scalar, nats), and the number of targets."""

    def count_tokens(self, batch: Any, targets: Tensor) -> Tensor:
        """How many tokens a batch trains on (scalar): its targets, if these are tokens."""
        return targets

    def wrap_prompt(self, text: str, input: str = "") -> str:
        """The text that the model's answer to `text` follows; for a plain language model, `text`.

        Once trained, a model is used without its task: its prompts are then wrapped by the
        `PromptFormat` whose fields are in the settings, as `prompt`.
        """
        return self.prompt_format.format_prompt(text, input) if self.prompt_format else text

    @property
    def stop(self) -> list[str]:
        """What ends an answer, besides end-of-text."""
        return self.prompt_format.stop if self.prompt_format else []

    def flops_per_token(self) -> float:
        """Floating-point operations of a training step for each of its tokens, 0 if not known."""
        return self.model.cfg.flops_per_token()

    # ---- one optimiser step: the mean over its target tokens, whatever its micro-batches ----

    def on_fit_start(self) -> None:
        """Forget the sums of a step that was begun but not finished, as in an interrupted fit."""
        self._micro_batches, self._reference, self._sums = 0, None, None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make dropout a function of seed, step and rank, so that a resumed run draws the same."""
        # Of the last validation: a ModelCheckpoint would name its files after this step.
        self.trainer.callback_metrics.pop("step", None)
        micro = self.global_step * self.trainer.accumulate_grad_batches + self._micro_batches
        _seed(hash((self.seed, micro, self.global_rank)) % 2**63, self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns a scalar whose gradients, accumulated and averaged over processes by the Trainer,
        are those of the token mean up to one factor, applied in `on_before_optimizer_step`."""
        loss, count = self.loss_sum(batch)
        if not isinstance(count, Tensor):
            # Filled in on the device: a copy to it would wait for the end of the forward pass.
            count = loss.new_full((), count)
        count = count.to(loss.device, torch.float32)
        sums = self.reduce_sum(torch.stack([loss.detach(), count, self.count_tokens(batch, count)]))
        if self._reference is None or self._sums is None:
            # Targets per process of the first micro-batch; equal on all processes.
            self._reference = _or_one(sums[1] / self.trainer.world_size)
            self._sums = sums
        else:
            self._sums = self._sums + sums
        self._micro_batches += 1
        return loss / self._reference

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn the accumulated gradients into those of the mean over the step's targets."""
        assert self._sums is not None and self._reference is not None
        accumulate, world = self.trainer.accumulate_grad_batches, self.trainer.world_size
        loss_sum, count, tokens = self._sums
        if accumulate > 1:
            # The Trainer divides by `accumulate` and averages over processes.
            factor = self._reference * (accumulate * world) / _or_one(count)
            torch._foreach_mul_(self._gradients(), factor)
        lr = optimizer.param_groups[0]["lr"]
        self.stats = StepStats(loss=loss_sum / _or_one(count), targets=count, tokens=tokens, lr=lr)
        self._micro_batches, self._reference, self._sums = 0, None, None

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the global norm, which is computed once and kept for the log; or clip each number
        by its value, if the Trainer is set to do that."""
        grads = self._gradients()
        norm, factor = total_norm(grads), None
        if self.device_mesh is not None:  # each has a part; the squares of the norms add up
            norm = self.reduce_sum(norm.square()).sqrt()
        if gradient_clip_val and gradient_clip_algorithm == "value":
            torch._foreach_clamp_max_(grads, float(gradient_clip_val))
            torch._foreach_clamp_min_(grads, -float(gradient_clip_val))
        # On a CPU the comparison is free and saves a pass over all gradients.
        elif gradient_clip_val and (norm.device.type != "cpu" or norm > gradient_clip_val):
            factor = (float(gradient_clip_val) / (norm + 1e-6)).clamp(max=1)
        multiply(grads, factor, optimizer)
        if self.stats is not None:
            self.stats.grad_norm = norm

    def _gradients(self) -> list[Tensor]:
        """The gradients of all parameters; if these are sharded, this process's parts."""
        return [local(p.grad) for p in self.parameters() if p.grad is not None]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and free the gradients at once: the Trainer would hold them through the next
        forward pass."""
        super().optimizer_step(*args, **kwargs)
        self.zero_grad(set_to_none=True)

    def configure_optimizers(self) -> Any:
        """The optimiser and schedule that the caller handed in.

        Raises:
            RuntimeError: `optimizer_factory` was never set.
        """
        if self.optimizer_factory is None:
            raise RuntimeError("set task.optimizer_factory before fitting")
        return self.optimizer_factory(self)

    def configure_model(self) -> None:
        """Shard the parameters if the Trainer's strategy has a mesh of processes for them."""
        if self.device_mesh is not None:
            shard(self, self.device_mesh["data_parallel"])

    def whole(self) -> "Task":
        """The task with all of its parameters on every process, for work outside of the steps:
        itself or, if they are sharded, a copy for evaluation. All processes call this together.
        """
        state = whole_state(self)
        return self if state is None else self._copy(state)

    def whole_on_first(self) -> "Task | None":
        """Like `whole`, for work that only the first process does. A copy is on its CPU, since all
        of the sharded parameters need not fit on its device; the other processes get None."""
        state = whole_state(self, first_only=True)
        if state is None:
            return self
        return self._copy(state) if state else None

    def _copy(self, state: dict[str, Any]) -> "Task":
        with blank_parameters():
            copy = type(self)(**self.hparams)
        copy.load_state_dict(state, assign=True)
        return copy.eval()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the frozen weights if they can be had from elsewhere, see `base`."""
        if self.base is not None:
            frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {n: t for n, t in state.items() if n not in frozen}
            checkpoint["base"] = self.base

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fill in the weights that were left out: the model has them already.

        Raises:
            UserError: it does not.
        """
        if "base" in checkpoint:
            if self.base is None:
                raise UserError(
                    "the checkpoint holds a LoRA adapter alone: gptlit.load puts it together with"
                    " the weights that it changes"
                )
            checkpoint["state_dict"] = self.state_dict() | checkpoint["state_dict"]

    def log_at_step(self, metrics: dict[str, float]) -> None:
        """Log what a validation or test measured, at the optimiser step, which Lightning counts
        only after the validation."""
        self.log_dict({**metrics, "step": float(self.global_step)})

    def reduce_sum(self, sums: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums


def _or_one(count: Tensor) -> Tensor:
    """The count as a divisor: 1 in place of 0. If classes have weights, it may lie between them."""
    return count.masked_fill(count == 0, 1)


def _seed(seed: int, device: torch.device) -> None:
    """Seed the random numbers of the CPU and of `device`. `torch.manual_seed` tries every kind of
    device, which takes milliseconds of each step if one is missing."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def task_class(name: str, target: str | None = None) -> type[Task]:
    """The task of the module `gptlit.tasks.<name>`, or of a module elsewhere.

    Args:
        name: of the task.
        target: the class by its module, "my_package.late.LateTask".

    Raises:
        ValueError: there is no such module, or it defines no task of that name.
    """
    if not name.isidentifier():  # it becomes part of what is imported
        raise ValueError(f"{name!r} is not the name of a task")
    where, _, attribute = (target or f"gptlit.tasks.{name}.").rpartition(".")
    try:
        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if not error.name or not f"{where}.".startswith(f"{error.name}."):
            raise  # the task is there, but not what it imports
        if target:
            raise ValueError(f"task._target_={target}: there is no module {where}") from error
        raise ValueError(
            f"there is no task {name!r} in gptlit.tasks: give task._target_=MODULE.CLASS for one"
            " that is elsewhere"
        ) from error
    for value in [getattr(module, attribute, None)] if attribute else vars(module).values():
        if isinstance(value, type) and issubclass(value, Task) and vars(value).get("name") == name:
            return value
    wanted = f"{target} is no" if target else f"gptlit.tasks.{name} defines no"
    raise ValueError(f"{wanted} Task named {name!r}")
