"""python train.py: compose, build, fit."""

from pathlib import Path
from typing import Any

from gptlit.cli import allocator, app, resume, schema
from gptlit.cli.checking import check
from gptlit.errors import UserError


def main() -> None:
    """Entry point of `python train.py` and `gptlit-train`."""
    allocator.restart_with_tuned_malloc()
    app.run("train", check_config, train, rewrite=lambda args: resume.apply(with_text(args)))


def with_text(args: list[str]) -> list[str]:
    """`data.path=...` alone means data=text: the default data of pretraining has no path."""
    given = {name: value.strip("'\"") for name, _, value in (arg.partition("=") for arg in args)}
    chosen = given.keys() & {"data", "experiment"} or given.get("task", "pretrain") != "pretrain"
    return [*args, "data=text"] if "data.path" in given and not chosen else args


def check_config(config: dict[str, Any]) -> None:
    """Check all nodes; those of data and tasks that gptlit does not know check themselves."""
    check(config, schema.Train)
    schema.check_weights(config["weights"])
    data, task = config["data"], config["task"]
    if data.get("_target_") == "gptlit.data.pydocs.PydocsDataModule":
        check(data, schema.TextData, "data.")
    elif data.get("_target_") == "gptlit.data.text.TextDataModule":
        published = "urls" in data
        check(data, schema.PublishedTextData if published else schema.TextFileData, "data.")
    kind = schema.TASKS.get(task.get("name", ""))
    if kind is not None:
        check(task, kind, "task.")
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


def train(config: dict[str, Any], folder: Path) -> float | None:
    """Build what the config names, and fit it.

    Returns:
        the best monitored score, for sweepers.
    """
    from hydra.utils import instantiate

    from gptlit.tokenizer import get_tokenizer
    from gptlit.training.run import fit

    tokenizer = get_tokenizer(config["tokenizer"]["name"])
    node = {name: value for name, value in config["data"].items() if name != "name"}
    data = instantiate(
        node,
        tokenizer=tokenizer,
        context_length=config["model"]["context_length"],
        seed=config["seed"],
        _convert_="all",
    )
    return fit(config, data, tokenizer, folder)
