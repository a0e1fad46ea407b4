"""From a checked config to what a run needs: the Trainer, the task, the optimiser's factory."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from gptlit.device import PRECISIONS, device_count, products
from gptlit.errors import UserError
from gptlit.tasks import Task, task_class
from gptlit.tokenizer import Tokenizer
from gptlit.training.checkpoints import AtomicCheckpointIO
from gptlit.training.early_stopping import EarlyStopping
from gptlit.training.launch import Launch, devices_and_nodes, launched
from gptlit.training.loggers import make_loggers
from gptlit.training.monitored import Monitored
from gptlit.training.optim import OptimizerFactory, Schedule
from gptlit.training.strategies import make_strategy
from gptlit.weights.adapter import check_base, describe_base
from gptlit.weights.classes import reuse_class_head
from gptlit.weights.fetch import fetch, needed
from gptlit.weights.files import open_weights
from gptlit.weights.load import load_weights


def make_trainer(
    config: dict[str, Any],
    device: str,
    precision: str,
    folder: Path,
    resumed_step: int | None,
    callbacks: list[Callback],
) -> Trainer:
    """Lightning's Trainer for the config, with its processes, loggers and checkpoints.

    Args:
        config: the checked config.
        device, precision: as resolved; not "auto".
        folder: the run folder.
        resumed_step: optimiser step that the run goes on from.
        callbacks: all but early stopping, which is added here.

    Raises:
        UserError: devices, precision and strategy do not go together.
    """
    settings, launch = config["trainer"], launched()
    devices, num_nodes = devices_and_nodes(settings)
    _check_devices(settings["strategy"], device, precision, devices, launch)
    plugins: list[Any] = [AtomicCheckpointIO()]
    if launch is not None and launch.by == "torchrun":
        plugins.append(TorchElasticEnvironment())  # in a Slurm job, Lightning would take Slurm's
    if settings["early_stopping"]:
        # It counts at the end of a validation, before `Checkpoints`, called last, saves its state.
        callbacks = [*callbacks, EarlyStopping(Monitored.of(config), settings["early_stopping"])]
    trainer = Trainer(
        accelerator=device,
        devices=devices,
        num_nodes=num_nodes,
        strategy=make_strategy(settings["strategy"], settings["timeout_s"]),
        plugins=plugins,
        precision=PRECISIONS[_products(config, device, precision)],
        max_epochs=-1,  # see `set_lengths`
        accumulate_grad_batches=settings["accumulate_grad_batches"],
        gradient_clip_val=settings["gradient_clip_val"],
        limit_val_batches=settings["limit_val_batches"],
        log_every_n_steps=1,  # the StepMonitor counts the steps to log
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module deals the windows out itself
        enable_model_summary=False,
        enable_checkpointing=True,
        # FSDP keeps parameters that it gathered in validation, and training needs normal ones.
        inference_mode=settings["strategy"] != "fsdp",
        callbacks=callbacks,
        logger=make_loggers(config["logger"], folder, resumed_step),
        profiler=_profiler(settings["profiler"], folder / "profile"),
        default_root_dir=folder,
    )
    # Lightning's signal handlers would replace ours, see `gptlit.training.stopping`.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    # Without them, the first process need not tell the others before each micro-batch whether it
    # has had a signal: for that answer, each would wait for its device.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def _profiler(name: str | None, folder: Path) -> Profiler | None:
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if name is None:
        return None
    return kinds[name](dirpath=folder, filename=name)


def _check_devices(
    strategy: str, device: str, precision: str, devices: int | str, launch: Launch | None
) -> None:
    if device == "mps" and strategy != "auto":
        raise UserError(
            f"trainer={strategy} shares the work among several devices, and device=mps is a single"
            " one: leave trainer=... out, or add device=cpu"
        )
    if strategy == "fsdp" and precision == "fp16":
        raise UserError("trainer=fsdp does not do precision=fp16: use precision=bf16 or fp32")
    have = device_count(device)
    if have is not None and isinstance(devices, int) and devices > have:
        who = f"trainer.devices={devices}" if launch is None else f"{launch.by} with {devices}"
        raise UserError(
            f"{who}: each process takes a device of its own, and of device={device} there are"
            f" {have} here; use {have} at most"
        )


def saved_dtype(config: dict[str, Any], device: str, precision: str) -> torch.dtype | None:
    """The type in which the blocks keep what the backward pass needs; None: the type that they
    compute in."""
    return None if _products(config, device, precision) == precision else torch.bfloat16


def _products(config: dict[str, Any], device: str, precision: str) -> str:
    """The precision of matrix products. FSDP, which moves the weights about, handles it itself."""
    fsdp = config["trainer"]["strategy"] == "fsdp"
    return precision if fsdp else products(precision, device)


class Lengths(NamedTuple):
    """How long a run is, in optimiser steps."""

    epoch: int
    """Steps in a pass over the data."""
    place: int
    """Steps that are done of the epoch in which the run goes on."""
    ends: dict[str, int]
    """The steps at which the run may end, by the config keys that set them."""

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return min(self.ends.values())


def count_steps(
    settings: dict[str, Any], data: Any, world_size: int, resumed_step: int | None = None
) -> Lengths:
    """How long the run is. In a resumed run, epochs are counted by how much of the data has been
    read, since the steps so far may have had another size.

    Raises:
        UserError: an epoch has fewer micro-batches than a step takes.
    """
    accumulate = settings["accumulate_grad_batches"]
    batches = data.train_batches(world_size)
    per_epoch = batches // accumulate
    if per_epoch == 0:
        raise UserError(
            f"one pass over the data has {batches} batches, fewer than"
            f" trainer.accumulate_grad_batches={accumulate}; lower it, or data.batch_size"
        )
    step = done = resumed_step or 0
    if step and hasattr(data, "batches_read"):
        done = data.batches_read(world_size) // accumulate
    ends = {}
    if settings["max_epochs"]:
        ends["trainer.max_epochs"] = step + max(0, per_epoch * settings["max_epochs"] - done)
    if settings["max_steps"] >= 0:
        ends["trainer.max_steps"] = settings["max_steps"]
    return Lengths(per_epoch, done % per_epoch, ends)


def plan_lr(node: dict[str, Any], total_steps: int) -> Schedule:
    """The course of the learning rate, which ends with the run unless its own end is set. A warm-up
    that is given as a share is so much of it."""
    end, warmup = node["total_steps"] or total_steps, node["warmup_steps"]
    steps = round(warmup * end) if isinstance(warmup, float) else warmup
    return Schedule(node["name"], end, steps, node["min_lr_ratio"])


def told_of_warmup(config: dict[str, Any], total_steps: int) -> str:
    """A warning if the learning rate never reaches its peak, or has no decay between the warm-up
    and its lowest value; empty otherwise, and in debug runs."""
    node = config["scheduler"]
    warmup, end = plan_lr(node, total_steps).warmup_steps, node["total_steps"]
    if config["debug"]:
        return ""
    if warmup >= total_steps:
        return (
            f"\nwarning: all {total_steps:,} steps are warm-up"
            f" (scheduler.warmup_steps={node['warmup_steps']}):"
            " the learning rate never reaches optimizer.lr"
        )
    if node["name"] != "constant" and end is not None and end <= warmup:
        return (
            f"\nwarning: the warm-up ends at scheduler.warmup_steps={warmup}, the decay already at"
            f" scheduler.total_steps={end}: the learning rate jumps from its peak to its lowest"
        )
    return ""


def check_val_share(settings: dict[str, Any], data: Any, world_size: int) -> None:
    """Refuse a share of the validation batches that comes to less than one batch."""
    share = settings["limit_val_batches"]
    if isinstance(share, float) and 0 < share < 1:
        batches = math.ceil(len(data.val_dataloader()) / world_size)
        if int(batches * share) == 0:
            raise UserError(
                f"trainer.limit_val_batches={share} is less than one of the {batches} validation"
                f" batches; give {math.ceil(100 / batches) / 100} or more, or a number of batches"
            )


def check_evaluation(trainer: Trainer, data: Any) -> None:
    """Refuse splits that are too small for the number of processes before anything is trained,
    rather than when they are measured at the end."""
    data.trainer = trainer  # the loaders depend on its processes; `fit` attaches it too
    data.val_dataloader()
    getattr(data, "final_loaders", dict)()


def set_lengths(
    trainer: Trainer, settings: dict[str, Any], steps_per_epoch: int, total_steps: int
) -> None:
    """Give the Trainer, which counts batches, the lengths that the config has in optimiser steps.

    It does not get the number of epochs: after some resumes it would count them wrong.
    """
    accumulate = settings["accumulate_grad_batches"]
    trainer.fit_loop.epoch_loop.max_steps = total_steps
    # Whole steps only: an epoch's last, smaller step would shift all later ones.
    trainer.limit_train_batches = steps_per_epoch * accumulate
    if settings["val_interval"] is None:
        trainer.check_val_every_n_epoch, trainer.val_check_interval = 1, 1.0
    else:
        trainer.check_val_every_n_epoch = None
        trainer.val_check_interval = settings["val_interval"] * accumulate


def build_task(
    config: dict[str, Any], tokenizer: Tokenizer, facts: dict[str, Any]
) -> tuple[Task, str]:
    """The task with its initial weights, and the console's line about them, empty if they are
    random.

    What the data says about itself (`facts`: names of classes, the form of prompts) becomes part of
    the task's settings, so that a checkpoint is complete.

    Each process reads the weights itself; the first one to ask for them downloads them.

    Raises:
        UserError: there is no such task, the model's shape is impossible, or its weights cannot be
            loaded.
    """
    shape = {name: value for name, value in config["model"].items() if name != "name"}
    node = config["task"]
    settings = {n: v for n, v in node.items() if n not in ("name", "sample", "_target_")} | facts
    try:
        task = task_class(node["name"], node.get("_target_"))(
            model={"vocab_size": tokenizer.vocab_size, **shape},
            tokenizer=tokenizer.name,
            seed=config["seed"],
            settings=settings,
            token_bytes=torch.from_numpy(tokenizer.token_bytes()),
        )
    except ValueError as error:  # an impossible shape, or no such task
        raise UserError(str(error)) from error
    if not needed(config):
        return task, ""
    source, name = config["weights"], config["model"]["name"]
    path = fetch(source, name)
    with open_weights(path) as file:
        loaded = load_weights(task.model, file)
        loaded += reuse_class_head(getattr(task, "head", None), facts.get("labels", ()), file)
    if settings.get("adapter_only", False):
        task.base = describe_base(task.model, source, name)
    return task, f"weights: {loaded}\n"


def optimizer_factory(config: dict[str, Any], precision: str, total_steps: int) -> OptimizerFactory:
    """AdamW with the config's schedule."""
    return OptimizerFactory(
        **config["optimizer"],
        fused=precision != "fp16",
        schedule=plan_lr(config["scheduler"], total_steps),
    )


def check_same_run(path: Path, content: dict[str, Any], task: Task) -> None:
    """Refuse a checkpoint of another task, tokenizer or shape, of other trained parameters, or of
    an adapter to other weights."""
    saved, given = content["hyper_parameters"], task.hparams
    pairs = {name: (saved.get(name), given[name]) for name in ("task", "tokenizer")}
    for name in ("context_length", "emb_dim", "n_heads", "n_layers", "qkv_bias", "tied_head"):
        pairs[f"model.{name}"] = saved["model"].get(name), given["model"][name]
    labels = [there["settings"].get("labels") for there in (saved, given)]
    pairs["labels"] = labels[0], labels[1]  # other data may have other classes
    before, now = (_what_is_trained(there["settings"]) for there in (saved, given))
    pairs |= {f"task.{name}": (before[name], now[name]) for name in before.keys() & now.keys()}
    apart = "base" in content, task.base is not None
    pairs["task.adapter_only"] = str(apart[0]).lower(), str(apart[1]).lower()
    for name, (before, now) in pairs.items():
        if before != now:
            raise UserError(f"resume={path}: the run has {name}={before}, not {now}; leave it so")
    if task.base is not None:
        check_base(task.model, content["base"], path, "the command")


def _what_is_trained(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that say which parameters there are, and what they are trained for."""
    names = ["trainable", "pool", "causal"]
    if settings.get("trainable") == "lora":
        names.append("lora")
    return {name: settings[name] for name in names if name in settings}
