"""The end of a run: measure once more, fill the run folder, print the next commands."""

from pathlib import Path
from shlex import quote
from typing import Any

from lightning.pytorch import Trainer
from rich.console import Console

from gptlit.evaluation.reports import write_report
from gptlit.options import as_typed
from gptlit.tasks import Task
from gptlit.training import stopping
from gptlit.training.checkpoints import Checkpoints
from gptlit.training.metrics import read_metrics
from gptlit.training.monitor import StepMonitor
from gptlit.training.plots import plot_curves
from gptlit.training.summary import mark_latest, write_summary


def last_measured(trainer: Trainer, monitor: StepMonitor, csv: Path) -> dict[str, float]:
    """The newest value of each metric; those measured before a resume come from the file."""
    before = {n: float(v) for row in read_metrics(csv)[1] for n, v in row.items() if v}
    now = {n: float(v) for n, v in trainer.callback_metrics.items()}
    return {n: value for n, value in (before | now | monitor.newest).items() if n != "step"}


def measure_at_the_end(
    trainer: Trainer, task: Task, data: Any, checkpoints: Checkpoints, device: str, brief: bool
) -> Path | None:
    """If the data has splits that are measured once, at the end, measure the best checkpoint on
    them and add the results to `task.final_metrics`; then write the task's report, brief or whole,
    see `write_report`."""
    loaders: dict[str, Any] = getattr(data, "final_loaders", dict)()
    if loaders:
        task.final_splits = list(loaders)
        best = checkpoints.best if checkpoints.best.exists() else None
        # Of that checkpoint, only the weights are wanted. A callback that averages them would put
        # the weights of the last step in their place, which the checkpoint holds too.
        trainer._checkpoint_connector.restore_callbacks = lambda: None  # type: ignore[method-assign]
        trainer.test(
            task,
            dataloaders=list(loaders.values()),
            ckpt_path=best,
            weights_only=True,
            verbose=False,
        )
    stopping.let_go()
    if not trainer.is_global_zero:
        return None
    return write_report(task, data, Path(trainer.default_root_dir), device, brief)


def fill_folder(config: dict[str, Any], folder: Path, task: Task, **figures: Any) -> None:
    """Write the plots, the link `latest` and, as the last file, the summary: a run that has a
    summary has all the others."""
    if config["logger"]["csv"]:
        plot_curves(folder / "metrics.csv", folder / "plots", f"{task.name}, {folder.name}")
    home = Path(config["output_root"]) / task.name
    if folder.resolve().parent == home.resolve():  # not in a sweep, nor anywhere else
        mark_latest(folder)
    write_summary(
        folder,
        task=task.name,
        model=config["model"]["name"],
        parameters=task.model.num_parameters(),
        seed=config["seed"],
        metrics=task.final_metrics,
        **figures,
    )


def say_what_next(
    config: dict[str, Any],
    folder: Path,
    task: Task,
    checkpoints: Checkpoints,
    details: Path | None,
    ended: str,
    console: Console,
) -> None:
    """Print the results, where they are, and what to type next. `details` is the table of the
    report, if there is one; `ended` says how long the run took and, if it ended early, why."""
    best = checkpoints.best if checkpoints.best.exists() else checkpoints.last
    score = checkpoints.best_score
    measured = f", best {checkpoints.monitored.name} {score:.4g}" if score is not None else ""
    tested = [
        f"{name.removeprefix('test/')} {value:.4g}"
        for name, value in task.final_metrics.items()
        if name.startswith("test/") and name.count("/") == 1
    ]
    plots = folder / "plots"
    shows = f"\n            tensorboard --logdir {quote(config['output_root'])}"
    console.print(
        f"done in {ended}{measured}\n"
        + (f"test:       {' · '.join(tested)}\n" if tested else "")
        + (f"details:    {details}\n" if details else "")
        + f"checkpoint: {best}\n"
        + (f"plots:      {plots}\n" if plots.exists() else "")
        + f"next:       {as_typed(f'python {task.command}')} ckpt={quote(str(folder))}"
        + (shows if config["logger"]["tensorboard"] else ""),
        highlight=False,
        markup=False,
    )
