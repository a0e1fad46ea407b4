"""Sweeps: a run that fails does not end the others, and a table at the end shows them all.

Runs may be in other processes, on other machines, wherever a launcher of Hydra's puts them. So a
failed run leaves `error.txt` in its folder, and the table is made from what is in the folders.
"""

import contextlib
import csv
import gc
import json
import math
import os
import shutil
import sys
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

from hydra.conf import HydraConf
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlit.cli import search
from gptlit.cli.arguments import overrides_by_key, printable, quoted
from gptlit.cli.locks import lock, refuse
from gptlit.errors import UserError, short_path
from gptlit.files import replacing
from gptlit.training import reuse
from gptlit.training.launch import first_process
from gptlit.training.lock import LOCK
from gptlit.training.monitored import Monitored

ERROR = "error.txt"
RESULTS = "results.csv"
COMMAND = "multirun.yaml"
SHOWN = ("val/loss", "val/accuracy", "test/accuracy")
"""Metrics in the table, with their last values; the file has all metrics of validation and test."""
GO_ON = "resume=auto skip_if_trained=true"
"""Arguments that take the results of finished runs, and go on with the others."""
UNFINISHED = "did not finish"
LENGTH = ("seconds", "tokens")
"""Keys of the summary that say how long a run was."""


class Sweep(Callback):
    """Hydra's hook, named in `conf/train.yaml`: knows the sweep's folder in the process that the
    user has started, and keeps all runs in it."""

    newest: ClassVar["Sweep | None"] = None
    repeats = True
    """Whether the same command, repeated, has the same runs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check, lock and note the sweep's folder, before any run starts."""
        # Hydra meets these errors too, and raises them.
        with contextlib.suppress(OSError, OmegaConfBaseException):
            try:
                search.check(config)
            except UserError as error:
                refuse(str(error))
            named = Path(config.hydra.sweep.dir)
            existed = named.exists()
            lock(config.hydra.sweep)
            _check_free(config)
            self.folder = Path(config.hydra.sweep.dir).absolute()
            self.made = not existed or self.folder != named.absolute()
            self.folder.mkdir(parents=True, exist_ok=True)
            search.prepare(config)
            self.repeats = not search.goes_on_with_study(config)
            self.started_ns = _file_time_ns(self.folder)
            # The folder may be named after a key that is swept, such as the task; and a process
            # that Lightning starts for another device would name it after a later time.
            pinned = f"hydra.sweep.dir={quoted(str(self.folder))}"
            with read_write(config.hydra.overrides.hydra):
                config.hydra.overrides.hydra.append(pinned)
            OmegaConf.save(config, self.folder / COMMAND)  # as Hydra's own sweeper does
            sys.argv.append(pinned)
            Sweep.newest = self


@dataclass
class Run:
    """What one run of a sweep has left in its folder."""

    name: str
    """The path of its folder below the sweep's."""
    overrides: dict[str, str]
    folder: Path
    """Where its results are: in another run's folder, if it took them from there."""
    summary: dict[str, Any]
    score: float | None
    """The best value of the monitored metric, that of its best checkpoint: what a sweeper sees."""
    error: str | None
    monitored: Monitored | None = None
    """The metric, if it is noted."""
    users_mistake: bool = False

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics in the summary."""
        metrics: dict[str, float] = self.summary.get("metrics", {})
        return metrics


def _check_free(config: DictConfig) -> None:
    """End the process if the folder holds runs of an earlier sweep, and the command does not ask to
    reuse or resume them."""
    folder = Path(config.hydra.sweep.dir)
    if config.skip_if_trained or config.resume or not any(folder.glob("*/checkpoints/*.ckpt")):
        return
    refuse(
        f"{short_path(folder)} holds runs already: to do what they have left, add {GO_ON}; else"
        " choose another folder with hydra.sweep.dir=FOLDER, or delete it"
    )


def is_sweep(hydra: HydraConf) -> bool:
    """Whether a run is one of a sweep that is reported at its end."""
    hooks = [hook.get("_target_") for hook in hydra.callbacks.values()]
    return hydra.mode is RunMode.MULTIRUN and f"{__name__}.{Sweep.__name__}" in hooks


def start_run(hydra: HydraConf) -> None:
    """Print which run begins, and remove the error of an earlier attempt in the same folder."""
    gc.collect()  # what the run before has left, on a GPU too
    if first_process():
        folder = Path(hydra.runtime.output_dir)
        (folder / ERROR).unlink(missing_ok=True)
        print(f"\nrun {folder.name}: {' '.join(_swept(hydra))}", flush=True)


def note_failure(folder: Path, error: Exception, line: str | None, debug: bool) -> None:
    """Write how a run failed into its folder, and print it.

    Args:
        folder: the run's.
        error: what it raised.
        line: for a mistake of the user's, what to say about it.
        debug: the user wants to see tracebacks.
    """
    if not first_process():
        return
    first = f"error: {line}" if line else "".join(traceback.format_exception_only(error)).strip()
    trace = "" if line and not debug else "\n" + "".join(traceback.format_exception(error))
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / ERROR) as draft:
        draft.write_text(f"{first}\n{trace}", encoding="utf-8")
    said = line or f"{first.splitlines()[0]} (traceback in {short_path(folder / ERROR)})"
    print(f"error: run {folder.name}: {printable(said)}", file=sys.stderr, flush=True)
    if debug:
        print(trace, file=sys.stderr, flush=True)


def finish() -> int:
    """Report the sweep of this process, if there was one: a table, and `results.csv`.

    Returns:
        the exit code: 0 if no run failed, 2 if all failures were mistakes of the user's, else 1.
    """
    sweep, Sweep.newest = Sweep.newest, None
    if sweep is None or not first_process():
        return 0
    runs = collect(sweep.folder, sweep.started_ns)
    if not runs:
        _remove_if_unused(sweep)
        return 0
    keys = swept_keys(runs)
    write_results(sweep.folder / RESULTS, runs, keys)
    _show(runs, keys, sweep)
    failed = [run for run in runs if run.error]
    return 0 if not failed else 2 if all(run.users_mistake for run in failed) else 1


def all_failed() -> bool:
    """Whether this process has a sweep whose runs have all failed and reported why."""
    if Sweep.newest is None:
        return False
    runs = collect(Sweep.newest.folder, Sweep.newest.started_ns)
    return bool(runs) and all((run.folder / ERROR).is_file() for run in runs)


def collect(folder: Path, since_ns: int = 0) -> list[Run]:
    """The runs in a sweep's folder, the best first; then those without a score; then the failed.
    If their scores are not of one metric, they are in the order in which they were started.

    Args:
        folder: the sweep's.
        since_ns: leave out those that were started before, in an earlier sweep of the folder.
    """
    stored = folder.rglob(str(reuse.OVERRIDES))
    new = [file.parents[1] for file in stored if file.stat().st_mtime_ns >= since_ns]
    runs = [_read_run(folder, run) for run in new]
    return sorted(runs, key=partial(_rank, monitored=common_metric(runs)))


def common_metric(runs: list[Run]) -> Monitored | None:
    """The metric that all scores are of; None if there are several."""
    metrics = {run.monitored for run in runs if run.monitored is not None}
    return metrics.pop() if len(metrics) == 1 else None


def swept_keys(runs: list[Run]) -> list[str]:
    """Keys that the runs were given different values for, and that change what is trained."""
    given = dict.fromkeys(key for run in runs for key in run.overrides)
    keys = [key for key in given if key not in reuse.WITHOUT_EFFECT]
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def write_results(path: Path, runs: list[Run], keys: list[str]) -> None:
    """A CSV with a row for each run, in the order given."""
    measured = sorted({name for run in runs for name in run.metrics if _is_result(name)})
    columns = ["run", *keys, *measured, "score", *LENGTH, "folder", "error"]
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for run in runs:
            facts = {name: run.summary.get(name) for name in LENGTH}
            names = {"run": run.name, "folder": run.folder, "error": run.error, "score": run.score}
            given = {key: run.overrides.get(key) for key in keys}
            results = {name: run.metrics.get(name) for name in measured}
            writer.writerow({**given, **results, **facts, **names})


def _read_run(sweep: Path, folder: Path) -> Run:
    stored: Any = OmegaConf.to_container(OmegaConf.load(reuse.newest_overrides(folder)))
    overrides = overrides_by_key(map(str, stored))
    there = reuse.result_folder(folder)
    run = Run(str(folder.relative_to(sweep)), overrides, there, {}, None, None)
    if (folder / ERROR).is_file():
        first = (folder / ERROR).read_text(encoding="utf-8").partition("\n")[0]
        run.users_mistake = first.startswith("error: ")
        run.error = first.removeprefix("error: ")
    elif finished := reuse.finished(there):
        run.summary, run.score = json.loads((there / "summary.json").read_text()), finished.score
        run.monitored = Monitored.of(reuse.trained_config(there))
    else:
        run.error = UNFINISHED
    return run


def _rank(run: Run, monitored: Monitored | None) -> tuple[bool, float, int, str]:
    score = monitored.rank(run.score) if monitored else math.inf
    number = int(run.name) if run.name.isdecimal() else 0
    return bool(run.error), score, number, run.name


def _swept(hydra: HydraConf) -> list[str]:
    """A run's overrides, without those that all runs have, however these are quoted."""
    command: Any = OmegaConf.load(Path(hydra.sweep.dir) / COMMAND)
    typed = [_plain(arg) for arg in command.hydra.overrides.task]
    return [arg for arg in hydra.overrides.task if _plain(arg) not in typed]


def _plain(override: str) -> str:
    return override.lower().replace("'", "")


def _is_result(metric: str) -> bool:
    return metric.startswith(("val/", "test/"))


def _show(runs: list[Run], keys: list[str], sweep: Sweep) -> None:
    folder, console = sweep.folder, Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, 140)
    measured = [name for name in SHOWN if any(name in run.metrics for run in runs)]
    monitored = common_metric(runs)
    score = f"best {monitored.name}" if monitored else "score"
    table = Table("run", *keys)
    for name in (score, *measured, *LENGTH):
        table.add_column(name, justify="right")
    if any(run.error for run in runs):
        table.add_column("error", overflow="fold")
    for run in runs:
        cells = [run.name, *(run.overrides.get(key, "") for key in keys)]
        cells.append("" if run.score is None else f"{run.score:.4f}")
        cells += [f"{run.metrics[n]:.4f}" if n in run.metrics else "" for n in measured]
        cells += [f"{run.summary[n]:,}" if n in run.summary else "" for n in LENGTH]
        table.add_row(*map(Text, (*cells, *filter(None, [run.error]))))
    stopped = sum(run.error == UNFINISHED for run in runs)
    failed = sum(run.error is not None for run in runs) - stopped
    console.print()
    console.print(table, soft_wrap=False)
    outcome = f"{len(runs)} runs" + (f", {failed} failed" if failed else "")
    outcome += f", {stopped} stopped" if stopped else ""
    print(f"{outcome}; this table: {short_path(folder / RESULTS)}", flush=True)
    if math.isfinite(_rank(runs[0], monitored)[1]):
        print(f"best: ckpt={quote(str(short_path(runs[0].folder)))}", flush=True)
    if failed + stopped and not sweep.repeats:
        print("the same command goes on with the search, in another folder", flush=True)
    elif failed + stopped:
        pinned = f"hydra.sweep.dir={quoted(str(short_path(folder)))}"
        print(f"to do what is left: the same command with {pinned} {GO_ON}", flush=True)


def _remove_if_unused(sweep: Sweep) -> None:
    """Remove the folder of a sweep that was refused before its first run."""
    made = {sweep.folder / COMMAND, sweep.folder / LOCK.parent, sweep.folder / LOCK}
    if sweep.made and {*sweep.folder.iterdir(), *sweep.folder.glob(f"{LOCK.parent}/*")} <= made:
        shutil.rmtree(sweep.folder)
        with contextlib.suppress(OSError):
            sweep.folder.parent.rmdir()  # made for it too, if it is empty


def _file_time_ns(folder: Path) -> int:
    """Now, by the clock of the file system."""
    probe = folder / f".started.{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink()
