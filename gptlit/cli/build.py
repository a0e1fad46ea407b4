"""From a checked config to the objects that it names."""

from pathlib import Path
from typing import Any

from gptlit.errors import UserError


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
    )


def read_run_config(folder: Path) -> dict[str, Any]:
    """The config of a run, as it was composed.

    Raises:
        UserError: the folder has none.
    """
    from omegaconf import OmegaConf

    path = folder / "config" / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path} is missing: the run's data are not known; give data=FILE")
    config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    return {str(name): value for name, value in config.items()}
