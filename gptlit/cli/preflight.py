"""Check what a training needs before Lightning is imported, which takes seconds."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlit.cli.schema_data import DATA
from gptlit.errors import UserError
from gptlit.training.launch import launched

if TYPE_CHECKING:
    from gptlit.model import GPTConfig

MOST_CPU_PROCESSES = 8
"""This many processes may always share a CPU, to try things out; more need as many cores."""


def check_start(config: dict[str, Any]) -> None:
    """Check the loggers, the named files, the device, the precision, the model's shape and its
    initial weights.

    Args:
        config: the checked config.

    Raises:
        UserError: one of them is missing or does not go with the others.
    """
    _check_loggers(config["logger"])
    _check_files(config)
    weights = _find_weights(config)
    from gptlit.device import resolve_device, resolve_precision

    device = resolve_device(config["device"]["name"])
    resolve_precision(config["precision"]["name"], device)
    if device == "cpu":
        _check_processes(config["trainer"]["devices"])
    cfg = _check_model(config)
    if weights is not None:
        _check_weights(weights, cfg, config["tokenizer"]["name"])


def _check_loggers(logger: dict[str, Any]) -> None:
    for name in ("wandb", "mlflow"):
        if logger[name] is not None and find_spec(name) is None:
            raise UserError(f"logger={name} is not installed: pip install 'gptlit[loggers]'")


def _check_files(config: dict[str, Any]) -> None:
    from gptlit.data.corpus import TextFiles
    from gptlit.data.prepared import is_prepared, open_prepared
    from gptlit.tokenizer import get_tokenizer

    data = config["data"]
    known = data.get("_target_") in DATA  # other data modules check for themselves
    for name in ("path", "val_path", "test_path") if known else ():
        path = data.get(name)
        if isinstance(path, list) or "column" in data:
            if is_prepared(path):
                open_prepared(path, get_tokenizer(config["tokenizer"]["name"]))
            elif path:
                TextFiles(path, data.get("column", "text"), f"data.{name}")
        elif path is not None:
            _check_file(path, f"data.{name}", data)


def _find_weights(config: dict[str, Any]) -> Path | None:
    """The local file or folder of the initial weights; None if they are random, or are to be
    downloaded. In the latter case, check that they are published for this model."""
    from gptlit.data.readers import existing
    from gptlit.weights.fetch import needed, published
    from gptlit.weights.files import find_files, identify

    if not needed(config):
        return None
    given = config["weights"]["path"]
    if given is None:
        published(config["weights"], config["model"]["name"])
        return None
    path = Path(given).expanduser()
    if not find_files(path)[0].exists():
        existing(given, "weights.path")
    identify(path)
    return path


def _check_weights(path: Path, cfg: "GPTConfig", tokenizer: str) -> None:
    """Check that the weights fit the model."""
    from gptlit.tokenizer import get_tokenizer
    from gptlit.weights.load import check_fits

    check_fits(replace(cfg, vocab_size=get_tokenizer(tokenizer).vocab_size), path)


def _check_file(path: str, key: str, data: dict[str, Any]) -> None:
    """Check that a file is of the kind that its data module reads, and that a table has the
    columns."""
    target = data["_target_"]
    if target == "gptlit.data.labelled.LabelledDataModule":
        from gptlit.data.labelled_files import Columns, check_labelled_table

        check_labelled_table(path, Columns(data["text_column"], data["label_column"]), key)
    elif target == "gptlit.data.instructions.InstructionDataModule":
        from gptlit.data.instruction_files import SUFFIXES
        from gptlit.data.tables import find_table

        find_table(path, key, SUFFIXES)
    else:
        from gptlit.data.readers import existing

        existing(path, key)


def _check_processes(devices: int | str) -> None:
    most = max(os.cpu_count() or 1, MOST_CPU_PROCESSES)
    if isinstance(devices, int) and devices > most and launched() is None:
        raise UserError(
            f"trainer.devices={devices}: that many processes are too many for this machine's"
            f" {os.cpu_count()} CPU cores; give {most} at most"
        )


def _check_model(config: dict[str, Any]) -> "GPTConfig":
    """The model's shape without the vocabulary. Check that it is possible, and that its weights
    alone do not fill the memory."""
    from gptlit.model import GPTConfig, trained_blocks

    shape = {name: value for name, value in config["model"].items() if name != "name"}
    try:
        cfg = GPTConfig(vocab_size=1, **shape)
        if config["task"]["name"] == "classification":
            trained_blocks(config["task"]["trainable"], cfg.n_layers)
    except ValueError as error:
        raise UserError(str(error)) from error
    rank = config["task"].get("lora", {}).get("rank", 0)
    if config["task"].get("trainable") == "lora" and rank > cfg.emb_dim:
        raise UserError(
            f"task.lora.rank={rank} is more than the width of the layers, model.emb_dim="
            f"{cfg.emb_dim}: give a smaller one, such as 16"
        )
    rows = cfg.context_length + cfg.padded_vocab_size
    parameters = cfg.n_layers * 12 * cfg.emb_dim**2 + rows * cfg.emb_dim
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * parameters > memory:
        raise UserError(
            f"the model would have {parameters:,} parameters, which alone need"
            f" {4 * parameters / 1e9:,.0f} GB of memory; this machine has {memory / 1e9:,.0f} GB:"
            " give smaller model.n_layers, model.emb_dim or model.context_length"
        )
    return cfg
