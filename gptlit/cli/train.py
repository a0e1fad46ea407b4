"""python train.py: compose, build, fit."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gptlit.cli import allocator, app, launchers, ranks, resume, schema, schema_data
from gptlit.cli.arguments import overrides_by_key, quoted
from gptlit.cli.build import build_callbacks, build_data
from gptlit.cli.checking import check
from gptlit.cli.entry import large_imports
from gptlit.cli.preflight import check_start
from gptlit.cli.schema_tasks import TASKS
from gptlit.errors import UserError, short_path
from gptlit.options import option_names, read_option
from gptlit.training import reuse
from gptlit.training.faults import explained
from gptlit.training.launch import devices_and_nodes, first_process
from gptlit.training.lock import locked
from gptlit.training.stopping import stoppable

FREE_TEXT = (
    "data.column",
    *(f"data.{name}" for name in schema.INSTRUCTION_FIELDS),
    "data.label_column",
    "data.text_column",
    "prompt_format.template",
    "prompt_format.template_with_input",
    "task.sample.prompt",
    "weights.path",
)
"""Keys whose values may hold braces, quotes and commas, or look like numbers."""


ACROSS_GROUPS = ("debug", "experiment", "hparams_search", "launcher")
"""Groups whose options set keys of other groups."""


def main() -> None:
    """Run the command; `gptlit.cli.entry` calls it."""
    allocator.restart_with_tuned_malloc()
    with stoppable():
        try:
            app.run("train", check_config, train_once, free_text=FREE_TEXT, rewrite=rewrite)
        finally:
            ranks.release()


def rewrite(args: list[str]) -> list[str]:
    """The command as Hydra is to read it."""
    settled = ranks.follow()
    if settled is not None:
        return settled
    ranks.check_sweep(args)
    if not resume.names_a_run(args):  # that run had both when it began
        args = with_implied(with_text(args))
    return resume.apply(launchers.apply(args))


def with_implied(args: list[str]) -> list[str]:
    """Add what the chosen data implies: made-up data go with a small model, as their option in
    `conf/data` says. What the user gives, or searches, wins, and an experiment says everything
    itself."""
    given = overrides_by_key(args)
    if given.get("data") not in option_names("data") or "experiment" in given:
        return args
    settled = {*given}
    if (search := given.get("hparams_search")) in option_names("hparams_search"):
        searched = read_option("hparams_search", search)
        for part in ("hydra", "sweeper", "params"):
            searched = searched.get(part) or {}
        settled |= searched.keys()
    implied = read_option("data", given["data"]).get("implies", [])
    # Beside the other overrides: the parser takes no flags between them.
    first = next(i for i, arg in enumerate(args) if "=" in arg and not arg.startswith("-"))
    more = (arg for arg in implied if arg.partition("=")[0] not in settled)
    return [*args[:first], *more, *args[first:]]


def with_text(args: list[str]) -> list[str]:
    """`data.path=...` without data=... means data=text: pretraining's default data has no path."""
    given = overrides_by_key(args)
    chosen = given.keys() & {"data", "experiment"} or given.get("task", "pretrain") != "pretrain"
    return [*args, "data=text"] if "data.path" in given and not chosen else args


def check_config(config: dict[str, Any]) -> None:
    """Check all nodes; data and tasks that gptlit does not know check their own."""
    _check_packages(config)
    check(config, schema.Train)
    devices_and_nodes(config["trainer"])
    schema.check_weights(config["weights"])
    check({"name": config["task"].get("name")}, schema.TaskName, "task.")
    schema_data.check_data(config["data"], config["task"]["name"])
    kind = TASKS.get(config["task"]["name"])
    if kind is not None:
        check(config["task"], kind, "task.")
    elif "_target_" in config["task"]:
        check({"_target_": config["task"]["_target_"]}, schema_data.Target, "task.")
        schema_data.check_package(
            "task._target_", config["task"]["_target_"], "gptlit.tasks.pretrain.PretrainTask"
        )
    else:
        _check_task(config["task"]["name"])
    _check_callbacks(config["callbacks"])
    _check_adapter(config)
    trainer, betas = config["trainer"], config["optimizer"]["betas"]
    if trainer["max_steps"] == -1 and trainer["max_epochs"] is None:
        raise UserError("the run has no end: give trainer.max_steps=... or trainer.max_epochs=...")
    if trainer["max_steps"] == 0:
        raise UserError("trainer.max_steps=0 trains nothing: give 1 or more, or -1 for no limit")
    share = trainer["limit_val_batches"]
    if isinstance(share, float) and share > 1:
        raise UserError(f"trainer.limit_val_batches={share}: give a share up to 1.0, or a number")
    if trainer["early_stopping"] and not share:
        raise UserError(
            f"trainer.early_stopping={trainer['early_stopping']} needs validations, of which"
            f" trainer.limit_val_batches={share} leaves none: leave out one of the two"
        )
    warmup = config["scheduler"]["warmup_steps"]
    if isinstance(warmup, float) and warmup >= 1:
        raise UserError(
            f"scheduler.warmup_steps={warmup}: give a share of the run below 1, such as 0.05, or a"
            " whole number of steps"
        )
    if len(betas) != 2:
        raise UserError(f"optimizer.betas={betas}: expected two numbers, such as [0.9,0.95]")


def _check_task(name: str) -> None:
    """Look for the file of a task that has no schema here; its import would take seconds."""
    tasks = Path(__file__).resolve().parents[1] / "tasks"
    if not (tasks / f"{name}.py").is_file():
        raise UserError(
            f"task.name={name}: there is no such task; choose one of task={', '.join(TASKS)}, or"
            " give task._target_=MODULE.CLASS for one of your own"
        )


def _check_callbacks(nodes: dict[str, Any]) -> None:
    example = "lightning.pytorch.callbacks.Timer"
    for name, node in nodes.items():
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            raise UserError(
                f"callbacks.{name}={node}: give the class and its arguments, such as"
                f" {{_target_: {example}, duration: 00:12:00:00}}"
            )
        schema_data.check_package(f"callbacks.{name}._target_", node["_target_"], example)


def _check_packages(config: dict[str, Any]) -> None:
    """Without a line that says otherwise, Hydra puts all keys of an option below its group."""
    for group in ACROSS_GROUPS:
        node = config.get(group)
        if isinstance(node, dict):
            raise UserError(
                f"the chosen {group} sets {', '.join(f'{group}.{key}' for key in node)}: for it to"
                " set keys of other groups, begin its file with the line '# @package _global_'"
            )


def _check_adapter(config: dict[str, Any]) -> None:
    """With task.adapter_only=true, the weights must be kept somewhere else."""
    task, source = config["task"], config["weights"]
    if not task.get("adapter_only"):
        return
    if task.get("trainable") != "lora":
        raise UserError(
            f"task.adapter_only=true is for task.trainable=lora, not {task.get('trainable')}, which"
            " adds no adapter: leave it out"
        )
    if source["path"] is None and "models" not in source:
        raise UserError(
            f"task.adapter_only=true leaves the weights out of the checkpoints, but those of"
            f" weights={source['name']} are random and stand in no file: choose other weights=...,"
            " or leave it out"
        )
    if config["trainer"]["strategy"] == "fsdp":
        raise UserError("task.adapter_only=true does not go with trainer=fsdp: use trainer=ddp")


def train_once(config: dict[str, Any], folder: Path) -> float | None:
    """`train`; or, with skip_if_trained=true, take the result of a finished run of the same config,
    if there is one."""
    from gptlit.cli.sweep import Sweep

    found = reuse.find(config, folder) if config["skip_if_trained"] else None
    if found is None:
        asked = config["resume"] == "auto"
        if asked or (config["resume"] is None and resume.started_again()):
            config["resume"] = resume.own_checkpoint(config, folder)
        if config["resume"] is None and first_process():
            reuse.check_free(config, folder)
            if asked and not Sweep.newest:
                print("resume=auto: no unfinished run of this command, so a new one", flush=True)
    # A sweep's folder is among the arguments already.
    ranks.lead(*([] if Sweep.newest else [f"hydra.run.dir={quoted(str(folder))}"]))
    if found is not None:
        reuse.take(found, folder)
        if first_process():
            score = "" if found.score is None else f", best score {found.score:.4g}"
            where = short_path(found.folder)
            print(f"skipped, being trained already: {where}{score}", flush=True)
        return found.score
    alone = locked(folder) if first_process() else nullcontext()  # the first locks it for all
    with stoppable(), alone, explained(config, short_path(folder)):
        best = train(config, folder)
        reuse.finish(folder, best)
    return best


def train(config: dict[str, Any], folder: Path) -> float | None:
    """Build what the config names, and fit it.

    Returns:
        the best monitored score, for sweepers.
    """
    with large_imports():
        check_start(config)
        from gptlit.training.run import fit
        from gptlit.training.strategies import others_may_end

    data = build_data(config)
    with others_may_end():
        return fit(config, data, data.tokenizer, folder, build_callbacks(config))
