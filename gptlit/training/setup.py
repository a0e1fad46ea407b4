"""From a checked config to what a run needs: the Trainer, the task, the optimiser's factory."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from gptlit.device import PRECISIONS
from gptlit.errors import UserError
from gptlit.tasks import Task, task_class
from gptlit.tokenizer import Tokenizer
from gptlit.training.checkpoints import AtomicCheckpointIO
from gptlit.training.loggers import make_loggers
from gptlit.training.optim import OptimizerFactory, Schedule
from gptlit.weights import fetch, load_weights


def make_trainer(
    config: dict[str, Any],
    device: str,
    precision: str,
    folder: Path,
    resumed_step: int | None,
    callbacks: list[Callback],
) -> Trainer:
    settings = config["trainer"]
    if settings["early_stopping"]:
        callbacks = [*callbacks, EarlyStopping("val/loss", patience=settings["early_stopping"])]
    try:
        return Trainer(
            accelerator=device,
            devices=settings["devices"],
            num_nodes=settings["num_nodes"],
            strategy=settings["strategy"],
            plugins=[AtomicCheckpointIO()],
            precision=PRECISIONS[precision],
            max_steps=settings["max_steps"],
            max_epochs=settings["max_epochs"] or -1,
            accumulate_grad_batches=settings["accumulate_grad_batches"],
            gradient_clip_val=settings["gradient_clip_val"],
            limit_val_batches=settings["limit_val_batches"],
            log_every_n_steps=settings["log_every_n_steps"],
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data module deals the windows out itself
            enable_model_summary=False,
            enable_checkpointing=True,
            callbacks=callbacks,
            logger=make_loggers(config["logger"], folder, resumed_step),
            default_root_dir=folder,
        )
    except (ValueError, RuntimeError) as error:
        if "devices" in str(error):
            raise UserError(
                f"trainer.devices={settings['devices']} does not fit device={device}: {error}"
            ) from error
        raise


def count_steps(settings: dict[str, Any], data: Any, world_size: int) -> tuple[int, int]:
    """Optimiser steps in an epoch, and in the run."""
    accumulate = settings["accumulate_grad_batches"]
    batches = data.train_batches(world_size)
    per_epoch = batches // accumulate
    if per_epoch == 0:
        raise UserError(
            f"one pass over the data has {batches} batches, fewer than"
            f" trainer.accumulate_grad_batches={accumulate}; lower it, or data.batch_size"
        )
    ends = [per_epoch * settings["max_epochs"]] if settings["max_epochs"] else []
    ends += [settings["max_steps"]] if settings["max_steps"] >= 0 else []
    return per_epoch, min(ends)


def set_lengths(trainer: Trainer, settings: dict[str, Any], steps_per_epoch: int) -> None:
    """Tell the Trainer, which counts batches, what the config says in optimiser steps."""
    accumulate = settings["accumulate_grad_batches"]
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
    """The task with its initial weights, and the line to tell about them, if they are not random.

    What the data says about itself (`facts`: names of classes, the form of prompts) belongs to the
    task's settings, so that a checkpoint stands alone.

    Each process reads the weights itself; the first one to ask for them has downloaded them.
    """
    shape = {name: value for name, value in config["model"].items() if name != "name"}
    settings = {n: v for n, v in config["task"].items() if n not in ("name", "sample")}
    settings |= facts
    try:
        task = task_class(config["task"]["name"])(
            model={"vocab_size": tokenizer.vocab_size, **shape},
            tokenizer=tokenizer.name,
            seed=config["seed"],
            settings=settings,
            token_bytes=torch.from_numpy(tokenizer.token_bytes()),
        )
    except ValueError as error:  # an impossible shape, or no such task
        raise UserError(str(error)) from error
    source = config["weights"]
    if config["resume"] or (source["path"] is None and "models" not in source):
        return task, ""
    loaded = load_weights(task.model, fetch(source, config["model"]["name"]))
    return task, f"weights: {loaded}\n"


def optimizer_factory(config: dict[str, Any], precision: str, total_steps: int) -> OptimizerFactory:
    schedule = config["scheduler"]
    return OptimizerFactory(
        **config["optimizer"],
        fused=precision != "fp16",
        schedule=Schedule(
            schedule["name"],
            schedule["total_steps"] or total_steps,
            schedule["warmup_steps"],
            schedule["min_lr_ratio"],
        ),
    )


def check_same_run(path: Path, content: dict[str, Any], task: Task) -> None:
    """Refuse a checkpoint of another task, tokenizer or shape."""
    saved, given = content["hyper_parameters"], task.hparams
    pairs = {name: (saved.get(name), given[name]) for name in ("task", "tokenizer")}
    for name in ("context_length", "emb_dim", "n_heads", "n_layers", "qkv_bias", "tied_head"):
        pairs[f"model.{name}"] = saved["model"].get(name), given["model"][name]
    for name, (before, now) in pairs.items():
        if before != now:
            raise UserError(f"resume={path}: the run has {name}={before}, not {now}; leave it so")
