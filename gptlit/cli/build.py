"""From a checked config to the objects that it names."""

from pathlib import Path
from typing import Any

from gptlit.errors import UserError, in_one_line
from gptlit.files import download_target
from gptlit.options import option_names, read_option

INSTEAD = {
    "StochasticWeightAveraging": "EMAWeightAveraging averages weights without that",
    "GradientAccumulationScheduler": "give trainer.accumulate_grad_batches=...",
    "BatchSizeFinder": "give data.batch_size=...",
    "LearningRateFinder": "hparams_search=optuna looks for optimizer.lr",
}
"""Lightning's callbacks that change what is settled before a run begins, and what does as much."""


def build_data(config: dict[str, Any]) -> Any:
    """The data module of a composed training config, with its tokenizer; nothing is read yet."""
    from hydra.utils import instantiate

    from gptlit.tokenizer import get_tokenizer

    node = {n: value for n, value in config["data"].items() if n not in ("name", "implies")}
    return instantiate(
        node,
        tokenizer=get_tokenizer(config["tokenizer"]["name"]),
        context_length=config["model"]["context_length"],
        seed=config["seed"],
        _convert_="all",
        _recursive_=False,  # values are data, whatever they say
    )


def build_callbacks(config: dict[str, Any]) -> list[Any]:
    """The Lightning callbacks that a composed training config adds.

    Raises:
        UserError: one of them is none, or does not go with the rest of the config.
    """
    from hydra.utils import instantiate
    from lightning.pytorch import Callback, callbacks

    made = {name: instantiate(node, _convert_="all") for name, node in config["callbacks"].items()}
    sharded = config["trainer"]["strategy"] == "fsdp"
    for name, callback in made.items():
        given = f"callbacks.{name}._target_={config['callbacks'][name]['_target_']}"
        if not isinstance(callback, Callback):
            raise UserError(
                f"{given} is no Lightning Callback: give a class derived from"
                " lightning.pytorch.Callback"
            )
        for kind, cure in INSTEAD.items():
            if isinstance(callback, getattr(callbacks, kind)):
                raise UserError(
                    f"{given} changes the batches, steps or learning rate, which are settled before"
                    f" a run begins: leave it out; {cure}"
                )
        if sharded and isinstance(callback, callbacks.WeightAveraging):
            raise UserError(
                f"{given} copies the model, of which trainer=fsdp leaves each process only a part:"
                " use trainer=ddp"
            )
    return list(made.values())


def read_run_config(folder: Path, task: str) -> dict[str, Any]:
    """The config of a run, as it was composed. Since the folder may come from anybody, its data
    module must be one of gptlit's for the task, and it has no say in what is downloaded from where:
    a file that no option of gptlit downloads is taken from the cache.

    Raises:
        UserError: the folder has no config, or one that no run writes; or the config names another
            class, or another download than the options of gptlit do, which is not in the cache.
    """
    from omegaconf import OmegaConf

    from gptlit.cli.schema_data import DATA

    path = folder / "config" / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path} is missing: the run's data are not known; give data=FILE")
    config: Any = OmegaConf.to_container(_plain_yaml(path), resolve=True)
    try:
        data: dict[str, Any] = dict(config["data"])
        _ = config["tokenizer"]["name"], config["model"]["context_length"], config["seed"]
        paths = [data.get(name) for name in ("path", "val_path", "test_path")]
        if not all(isinstance(one, str | None) for one in paths):
            raise TypeError
    except (LookupError, TypeError, ValueError):
        raise UserError(f"{path} is not the config of a run; give data=FILE") from None
    kind = DATA.get(str(data.get("_target_")))
    if kind is None or kind.task != task:
        raise UserError(
            f"{path}: data._target_={data.get('_target_')} is no class of gptlit's data for"
            f" task={task}"
        )
    if data.get("path") is None and _download_of(data) not in _known_downloads():
        there = _downloaded(data)
        if there is None:
            raise UserError(
                f"{path}: data.urls and data.file_name are not those of an option of gptlit, the"
                " file is not in the cache, and a run folder has no say in what is downloaded: give"
                " data=FILE"
            )
        config["data"]["path"] = str(there)
    return {str(name): value for name, value in config.items()}


def _plain_yaml(path: Path) -> Any:
    """The nodes of a YAML file, in which nothing stands for a copy of something else: a few lines
    of copies of copies would fill any memory.

    Raises:
        UserError: it has such copies, or is no YAML.
    """
    import yaml
    from omegaconf import OmegaConf

    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases, which no run writes")
        return OmegaConf.create(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be used: {in_one_line(error)}; give data=FILE") from None


def _download_of(data: dict[str, Any]) -> tuple[Any, ...]:
    """What an option of `conf/data` downloads."""
    return tuple(data.get(name) for name in ("urls", "file_name", "sha256"))


def _downloaded(data: dict[str, Any]) -> Path | None:
    """What the training has downloaded, if it is still there."""
    cache, name = data.get("cache_dir"), data.get("file_name")
    if not (isinstance(cache, str | None) and isinstance(name, str)):
        return None
    file = download_target(name, cache)
    return file if file.is_file() else None


def _known_downloads() -> list[tuple[Any, ...]]:
    return [_download_of(read_option("data", name)) for name in option_names("data")]
