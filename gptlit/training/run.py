"""One run: the Trainer and all that surrounds it, from a checked config to a run folder."""

import contextlib
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console

from gptlit.device import PRECISIONS, device_name, resolve_device, resolve_precision
from gptlit.errors import UserError
from gptlit.evaluation.reports import write_report
from gptlit.inference.checkpoint import read_checkpoint
from gptlit.tasks import Task, task_class
from gptlit.tokenizer import Tokenizer
from gptlit.training.checkpoints import AtomicCheckpointIO, Checkpoints
from gptlit.training.loggers import make_loggers
from gptlit.training.metrics_csv import read_metrics
from gptlit.training.monitor import StepMonitor
from gptlit.training.optim import OptimizerFactory, Schedule
from gptlit.training.plots import plot_curves
from gptlit.training.progress import StepProgress
from gptlit.training.samples import TextSamples
from gptlit.training.summary import mark_latest, write_summary
from gptlit.weights import fetch, load_weights


def fit(config: dict[str, Any], data: Any, tokenizer: Tokenizer, folder: Path) -> float | None:
    """Train the config's task on the data module, and fill the run folder.

    Args:
        config: the checked config, plain dicts.
        data: a LightningDataModule with `train_batches(world_size)` and `describe()`.
        tokenizer: the data module's.
        folder: the run folder; exists.

    Returns:
        the best value of the monitored metric, None if it was never measured.

    Raises:
        UserError: the device, precision, data or checkpoint is not as it must be.
    """
    _quieten_lightning()
    console = Console(soft_wrap=True)
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(Path.cwd())  # shorter to read and to type
    settings = config["trainer"]
    device = resolve_device(config["device"]["name"])
    precision = resolve_precision(config["precision"]["name"], device)
    seed_everything(config["seed"], workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")

    resume = Path(config["resume"]) if config["resume"] else None
    start_from = read_checkpoint(resume) if resume else None
    resumed_step = int(start_from["global_step"]) if start_from else None
    monitor = StepMonitor(device, precision, settings["log_every_n_steps"])
    checkpoints = Checkpoints(folder / "checkpoints", every_n_steps=settings["checkpoint_interval"])
    progress = StepProgress(monitor, console)
    callbacks: list[Callback] = [monitor, progress, checkpoints]
    if sample := config["task"].get("sample"):
        callbacks.append(TextSamples(tokenizer, **sample, seed=config["seed"], console=console))
    trainer = _trainer(config, device, precision, folder, resumed_step, callbacks)

    data.prepare_data()
    data.setup("fit")
    steps_per_epoch, total_steps = _count_steps(settings, data, trainer.world_size)
    _set_lengths(trainer, settings, steps_per_epoch)

    task, weights = _build_task(config, tokenizer, getattr(data, "for_task", dict)())
    _check_resume(resume, start_from or {}, task, total_steps)
    monitor.flops_per_target = task.flops_per_target()
    schedule = config["scheduler"]
    task.optimizer_factory = OptimizerFactory(
        **config["optimizer"],
        fused=precision != "fp16",
        schedule=Schedule(
            schedule["name"],
            schedule["total_steps"] or total_steps,
            schedule["warmup_steps"],
            schedule["min_lr_ratio"],
        ),
    )
    if config["compile"]:
        task.model.compile_blocks()
    progress.total_steps = monitor.total_steps = total_steps
    if trainer.is_global_zero:
        console.print(
            f"{task.name}: {config['model']['name']}, {task.model.num_parameters():,} parameters,"
            f" on {device_name(device)}, {precision}\n" + weights + f"data: {data.describe()}\n"
            f"run: {folder}, {total_steps:,} steps"
            + (f", resumed at step {resumed_step:,}" if resume else ""),
            highlight=False,
            markup=False,
        )
    start = time.perf_counter()
    if settings["val_at_start"] and resume is None:
        trainer.validate(task, datamodule=data, verbose=False)
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    seconds = time.perf_counter() - start
    if trainer.interrupted:
        raise KeyboardInterrupt
    _measure_at_the_end(trainer, task, data, checkpoints)
    if trainer.is_global_zero:
        if config["logger"]["csv"]:
            plot_curves(folder / "metrics.csv", folder / "plots", f"{task.name}, {folder.name}")
        write_summary(
            folder,
            task=task.name,
            model=config["model"]["name"],
            parameters=task.model.num_parameters(),
            device=device_name(device),
            precision=precision,
            seed=config["seed"],
            steps=trainer.global_step,
            tokens=monitor.tokens,
            seconds=round(seconds, 3),
            tokens_per_second=round(monitor.tokens / max(monitor.seconds, 1e-9), 1),
            metrics=task.final_metrics,
            best_checkpoint=str(checkpoints.best) if checkpoints.best.exists() else None,
        )
        root = Path(config["output_root"])
        if folder.resolve().parent == (root / task.name).resolve():  # not a sweep's, nor elsewhere
            mark_latest(folder)
        _say_what_next(console, folder, root, checkpoints, seconds, task)
    return checkpoints.best_score


def _trainer(
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


def _count_steps(settings: dict[str, Any], data: Any, world_size: int) -> tuple[int, int]:
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


def _set_lengths(trainer: Trainer, settings: dict[str, Any], steps_per_epoch: int) -> None:
    """Tell the Trainer, which counts batches, what the config says in optimiser steps."""
    accumulate = settings["accumulate_grad_batches"]
    # Whole steps only: an epoch's last, smaller step would shift all later ones.
    trainer.limit_train_batches = steps_per_epoch * accumulate
    if settings["val_interval"] is None:
        trainer.check_val_every_n_epoch, trainer.val_check_interval = 1, 1.0
    else:
        trainer.check_val_every_n_epoch = None
        trainer.val_check_interval = settings["val_interval"] * accumulate


def _build_task(
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


def _check_resume(path: Path | None, content: dict[str, Any], task: Task, total_steps: int) -> None:
    """Refuse a checkpoint of another task, tokenizer or shape, and a run that has finished."""
    if path is None:
        return
    saved, given = content["hyper_parameters"], task.hparams
    pairs = {name: (saved.get(name), given[name]) for name in ("task", "tokenizer")}
    for name in ("context_length", "emb_dim", "n_heads", "n_layers", "qkv_bias", "tied_head"):
        pairs[f"model.{name}"] = saved["model"].get(name), given["model"][name]
    for name, (before, now) in pairs.items():
        if before != now:
            raise UserError(f"resume={path}: the run has {name}={before}, not {now}; leave it so")
    step, finished = content["global_step"], (path.parents[1] / "summary.json").exists()
    if finished and step >= total_steps:
        raise UserError(
            f"resume={path}: the run has finished at step {step}; to go on, give more than that"
            f" as trainer.max_steps=... (now {total_steps})"
        )


def _measure_at_the_end(trainer: Trainer, task: Task, data: Any, checkpoints: Checkpoints) -> None:
    """Fill `task.final_metrics`: the newest of training and, where the data has splits to be
    measured once at the end, what the best checkpoint reaches on them;
    then write the task's report."""
    csv = Path(trainer.default_root_dir) / "metrics.csv"
    task.final_metrics = _last_measured(trainer, csv)
    loaders: dict[str, Any] = getattr(data, "final_loaders", dict)()
    if loaders:
        task.final_splits = list(loaders)
        best = checkpoints.best if checkpoints.best.exists() else None
        trainer.test(
            task,
            dataloaders=list(loaders.values()),
            ckpt_path=best,
            weights_only=True,
            verbose=False,
        )
    if trainer.is_global_zero:
        write_report(task, data, csv.parent)


def _last_measured(trainer: Trainer, csv: Path) -> dict[str, float]:
    """The newest value of each metric; from the file for a run killed after its last step."""
    if metrics := {n: float(v) for n, v in trainer.callback_metrics.items() if n != "step"}:
        return metrics
    rows = read_metrics(csv)[1] if csv.exists() else []
    return {n: float(v) for row in rows for n, v in row.items() if v and n != "step"}


def _say_what_next(
    console: Console, folder: Path, root: Path, checkpoints: Checkpoints, seconds: float, task: Task
) -> None:
    best = checkpoints.best if checkpoints.best.exists() else checkpoints.last
    score = checkpoints.best_score
    measured = f", best {checkpoints.monitor} {score:.4g}" if score is not None else ""
    tested = [
        f"{name.removeprefix('test/')} {value:.4g}"
        for name, value in task.final_metrics.items()
        if name.startswith("test/") and name.count("/") == 1
    ]
    console.print(
        f"done in {seconds:,.0f} s{measured}\n"
        + (f"test:       {' · '.join(tested)}\n" if tested else "")
        + f"checkpoint: {best}\n"
        f"plots:      {folder / 'plots'}\n"
        f"next:       python {task.command} ckpt={folder}\n"
        f"            tensorboard --logdir {root}",
        highlight=False,
        markup=False,
    )


def _quieten_lightning() -> None:
    """Leave the console to what concerns the user's run."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # tasks reduce sums themselves
        ".*litlogger.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*`tensorboardX` has been removed.*",
    ):
        warnings.filterwarnings("ignore", message)
