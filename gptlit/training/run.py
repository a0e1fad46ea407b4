"""One run: the Trainer and all that surrounds it, from a checked config to a run folder."""

import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from rich.console import Console

from gptlit.device import device_name, resolve_device, resolve_precision
from gptlit.errors import short_path, visible
from gptlit.tasks import Task
from gptlit.tokenizer import Tokenizer
from gptlit.training import reuse, stopping
from gptlit.training.checkpoints import Checkpoints, saved_best_score
from gptlit.training.early_stopping import EarlyStopping, saved_wait
from gptlit.training.ending import fill_folder, last_measured, measure_at_the_end, say_what_next
from gptlit.training.launch import first_process
from gptlit.training.loggers import keeping_runs
from gptlit.training.monitor import StepMonitor
from gptlit.training.monitored import Monitored
from gptlit.training.progress import StepProgress
from gptlit.training.recovery import Start, find_start
from gptlit.training.samples import TextSamples
from gptlit.training.setup import (
    Lengths,
    build_task,
    check_evaluation,
    check_same_run,
    check_val_share,
    count_steps,
    make_trainer,
    optimizer_factory,
    saved_dtype,
    set_lengths,
    told_of_warmup,
)


def fit(
    config: dict[str, Any],
    data: Any,
    tokenizer: Tokenizer,
    folder: Path,
    more_callbacks: Sequence[Callback] = (),
) -> float | None:
    """Train the config's task on the data module, and fill the run folder.

    Args:
        config: the checked config, plain dicts.
        data: a LightningDataModule with `train_batches(world_size)` and `describe()`.
        tokenizer: the data module's.
        folder: the run folder; exists.
        more_callbacks: the user's own.

    Returns:
        the best value of the monitored metric, None if it was never measured.

    Raises:
        UserError: the device, precision, data or checkpoint cannot be used.
    """
    _quieten_libraries()
    console = Console(soft_wrap=True)
    folder = short_path(folder)
    settings = config["trainer"]
    device = resolve_device(config["device"]["name"])
    precision = resolve_precision(config["precision"]["name"], device)
    seed_everything(config["seed"], workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")

    start_from = find_start(Path(config["resume"])) if config["resume"] else None
    resumed_step = start_from.step if start_from else None
    stopping.begin(resumed_step)
    monitor = StepMonitor(device, precision, settings["log_every_n_steps"])
    checkpoints = Checkpoints(
        folder / "checkpoints", Monitored.of(config), settings["checkpoint_interval"]
    )
    progress = StepProgress(monitor, console)
    callbacks: list[Callback] = [monitor, progress, checkpoints, *more_callbacks]
    if sample := config["task"].get("sample"):
        callbacks.append(TextSamples(tokenizer, **sample, seed=config["seed"], console=console))
    trainer = make_trainer(config, device, precision, folder, resumed_step, callbacks)

    lengths = _set_up_data(trainer, settings, data, start_from)
    total_steps, checkpoints.place = lengths.total, lengths.place
    task, weights = build_task(config, tokenizer, getattr(data, "for_task", dict)())
    if start_from is not None:
        check_same_run(start_from.path, start_from.content, task)
        if _has_finished(folder, start_from, lengths, config, console):
            return saved_best_score(start_from.content)
        start_from = start_from._replace(content={})  # lets a later save free the file's space
    monitor.flops_per_token = task.flops_per_token()
    task.optimizer_factory = optimizer_factory(config, precision, total_steps)
    task.model.saved_dtype = saved_dtype(config, device, precision)
    if config["compile"]:
        task.model.compile_blocks()
    progress.total_steps = monitor.total_steps = total_steps
    if trainer.is_global_zero:
        about = (
            f"{task.name}: {config['model']['name']}, {told_size(task)},"
            f" on {device_name(device)}, {precision}\n{weights}data: {data.describe()}\n"
            f"run: {folder}, {total_steps:,} steps"
        )
        remarks = (reuse.told_of_changes(config, folder), told_of_warmup(config, total_steps))
        # Names of files, and the config in the folder of a resumed run, may be anybody's.
        told = visible("".join((about, start_from.told if start_from else "", *remarks)))
        console.print(told, highlight=False, markup=False)
    with keeping_runs(trainer, folder, reuse.what_counts(config)):
        _take_over(folder, config, checkpoints, fresh=start_from is None)
        start = time.perf_counter()
        resume = start_from.path if start_from else None
        _train(trainer, task, data, resume, settings["val_at_start"])
        seconds = time.perf_counter() - start
        task.final_metrics = last_measured(trainer, monitor, folder / "metrics.csv")
        details = measure_at_the_end(trainer, task, data, checkpoints, device, config["debug"])
    if trainer.is_global_zero:
        fill_folder(
            config,
            folder,
            task,
            device=device_name(device),
            precision=precision,
            steps=trainer.global_step,
            tokens=monitor.tokens,
            seconds=round(seconds, 3),
            tokens_per_second=round(monitor.tokens / max(monitor.seconds, 1e-9), 1),
            best_checkpoint=str(checkpoints.best) if checkpoints.best.exists() else None,
        )
        ended = f"{seconds:,.0f} s{_told_of_early_end(trainer, total_steps)}"
        say_what_next(config, folder, task, checkpoints, details, ended, console)
    return checkpoints.best_score


def told_size(task: Task) -> str:
    """How many parameters there are and, if some are frozen, how many train. The first number does
    not include what LoRA adds."""
    total = f"{task.model.num_parameters():,} parameters"
    if all(p.requires_grad for p in task.parameters()):
        return total
    return f"{total} ({sum(p.numel() for p in task.parameters() if p.requires_grad):,} train)"


def _set_up_data(
    trainer: Trainer, settings: dict[str, Any], data: Any, start_from: Start | None
) -> Lengths:
    """Tokenize what has not been yet; returns how long the run is."""
    if start_from is not None:  # data that it has not seen are refused before they are tokenized
        data.load_state_dict(start_from.content.get(type(data).__qualname__, {}))
    data.prepare_data()
    data.setup("fit")
    check_val_share(settings, data, trainer.world_size)
    check_evaluation(trainer, data)
    resumed_step = start_from.step if start_from else None
    lengths = count_steps(settings, data, trainer.world_size, resumed_step)
    set_lengths(trainer, settings, lengths.epoch, lengths.total)
    return lengths


def _train(
    trainer: Trainer, task: Task, data: Any, resume: Path | None, val_at_start: bool
) -> None:
    if trainer.world_size > 1:
        stopping.hold()  # the processes stop together
    if val_at_start and resume is None:
        _validate_at_start(trainer, task, data)
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)


def _take_over(
    folder: Path, config: dict[str, Any], checkpoints: Checkpoints, *, fresh: bool
) -> None:
    """Make the folder this run's: whenever it ends, nothing that an earlier run has left there may
    be taken for its own."""
    if first_process():
        (folder / "summary.json").unlink(missing_ok=True)
        if fresh:
            checkpoints.clear()
    reuse.begin(config, folder)


def _told_of_early_end(trainer: Trainer, total_steps: int) -> str:
    """Where a run ended before its last step, and why if it was not by a callback of the user's."""
    if trainer.global_step >= total_steps:
        return ""
    ended = (c for c in trainer.early_stopping_callbacks if isinstance(c, EarlyStopping))
    why = "".join(_told_of_patience(c.patience) for c in ended if c.wait_count >= c.patience)
    return f" at step {trainer.global_step:,} of {total_steps:,}{why}"


def _told_of_patience(patience: int) -> str:
    return f", after trainer.early_stopping={patience} validations without a better one"


def _has_finished(
    folder: Path, start: Start, lengths: Lengths, config: dict[str, Any], console: Console
) -> bool:
    """Whether nothing is left to do; if so, print that."""
    patience = config["trainer"]["early_stopping"]
    reached = [key for key, end in lengths.ends.items() if end <= start.step]
    waited = saved_wait(start.content, Monitored.of(config))
    ended_early = not reached and 0 < patience <= waited
    if ended_early:
        reached = ["trainer.early_stopping"]
    if not reached or not (folder / "summary.json").exists():
        return False
    if first_process():
        why = _told_of_patience(patience) if ended_early else ""
        what = "more epochs" if reached == ["trainer.max_epochs"] else "more than that"
        console.print(
            f"{folder}: the run has finished at step {start.step:,} already{why};"
            f" to train on, give {what} as {' and '.join(f'{key}=...' for key in reached)}",
            highlight=False,
            markup=False,
        )
    return True


def _validate_at_start(trainer: Trainer, task: Task, data: Any) -> None:
    """Validate before the first step, on as many batches as the config allows or, if it sets no
    limit, on as many as the data module says are enough."""
    limit = trainer.limit_val_batches
    if isinstance(limit, float) and limit == 1.0:
        trainer.limit_val_batches = getattr(data, "batches_at_start", limit)
    trainer.validate(task, datamodule=data, verbose=False)
    trainer.limit_val_batches = limit


def _quieten_libraries() -> None:
    """Hide messages that do not concern the user's run."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*callbacks used to create the checkpoint.*",  # one that stopped early may go on
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # tasks reduce sums themselves
        ".*WeightAveraging doesn't support sharding.*",  # such a model is refused
        ".*The `srun` command is available.*",  # on a login node, one may train without it
        ".*litlogger.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*`tensorboardX` has been removed.*",
        ".*new API settings to control TF32.*",  # PyTorch 2.9
    ):
        warnings.filterwarnings("ignore", message)
