"""From a checked config to the objects that it names."""

from pathlib import Path
from typing import Any

from gptlit.errors import UserError

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


def read_run_config(folder: Path) -> dict[str, Any]:
    """The config of a run, as it was composed. Since the folder may come from anybody, its data
    module must be one of gptlit's.

    Raises:
        UserError: the folder has no config, or the config names another class.
    """
    from omegaconf import OmegaConf

    from gptlit.cli.schema_data import DATA

    path = folder / "config" / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path} is missing: the run's data are not known; give data=FILE")
    config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    target = config["data"].get("_target_")
    if target not in DATA:
        raise UserError(f"{path}: data._target_={target} is no class of gptlit's data")
    return {str(name): value for name, value in config.items()}
