"""python train.py: compose, build, fit."""

from pathlib import Path
from typing import Any

from gptlit.cli import allocator, app, resume, schema, schema_data
from gptlit.cli.build import build_data
from gptlit.cli.checking import check
from gptlit.cli.schema_tasks import TASKS
from gptlit.errors import UserError
from gptlit.options import option_names, read_option
from gptlit.training import reuse


def main() -> None:
    """Entry point of `python train.py` and `gptlit-train`."""
    allocator.restart_with_tuned_malloc()
    app.run("train", check_config, train_once, rewrite=rewrite)


def rewrite(args: list[str]) -> list[str]:
    """The command as Hydra is to read it."""
    return resume.apply(with_implied(with_text(args)))


def with_implied(args: list[str]) -> list[str]:
    """Add what the chosen data implies: made-up data go with a small model, as their option in
    `conf/data` says. What the user gives wins, and an experiment says everything itself."""
    given = _given(args)
    if given.get("data") not in option_names("data") or "experiment" in given:
        return args
    implied = read_option("data", given["data"]).get("implies", [])
    # Beside the other overrides: the parser takes no flags between them.
    first = next(i for i, arg in enumerate(args) if "=" in arg and not arg.startswith("-"))
    return [*args[:first], *(i for i in implied if i.partition("=")[0] not in given), *args[first:]]


def with_text(args: list[str]) -> list[str]:
    """`data.path=...` alone means data=text: the default data of pretraining has no path."""
    given = _given(args)
    chosen = given.keys() & {"data", "experiment"} or given.get("task", "pretrain") != "pretrain"
    return [*args, "data=text"] if "data.path" in given and not chosen else args


def _given(args: list[str]) -> dict[str, str]:
    """The overrides on the command line."""
    split = (arg.partition("=") for arg in args)
    return {name.lstrip("+~"): value.strip("'\"") for name, _, value in split}


def check_config(config: dict[str, Any]) -> None:
    """Check all nodes; those of data and tasks that gptlit does not know check themselves."""
    check(config, schema.Train)
    schema.check_weights(config["weights"])
    schema_data.check_data(config["data"], config["task"].get("name", ""))
    kind = TASKS.get(config["task"].get("name", ""))
    if kind is not None:
        check(config["task"], kind, "task.")
    trainer, betas = config["trainer"], config["optimizer"]["betas"]
    if trainer["max_steps"] == -1 and trainer["max_epochs"] is None:
        raise UserError("the run has no end: give trainer.max_steps=... or trainer.max_epochs=...")
    if trainer["max_steps"] == 0:
        raise UserError("trainer.max_steps=0 trains nothing: give 1 or more, or -1 for no limit")
    share = trainer["limit_val_batches"]
    if isinstance(share, float) and share > 1:
        raise UserError(f"trainer.limit_val_batches={share}: give a share up to 1.0, or a number")
    if len(betas) != 2:
        raise UserError(f"optimizer.betas={betas}: expected two numbers, such as [0.9,0.95]")


def train_once(config: dict[str, Any], folder: Path) -> float | None:
    """`train`; with skip_if_trained=true the result of a finished run of the same config, if there
    is one."""
    found = reuse.find(config, folder) if config["skip_if_trained"] else None
    if found is not None:
        reuse.take(found, folder)
        if reuse.first_process():
            score = "" if found.score is None else f", best score {found.score:.4g}"
            where = app.short_path(found.folder)
            print(f"skipped, being trained already: {where}{score}", flush=True)
        return found.score
    reuse.begin(config, folder)
    best = train(config, folder)
    reuse.finish(folder, best)
    return best


def train(config: dict[str, Any], folder: Path) -> float | None:
    """Build what the config names, and fit it.

    Returns:
        the best monitored score, for sweepers.
    """
    from gptlit.training.run import fit

    data = build_data(config)
    return fit(config, data, data.tokenizer, folder)
