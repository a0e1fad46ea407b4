"""What is found missing before anything heavy is imported."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gptlit.cli.preflight import check_start
from gptlit.errors import UserError
from gptlit.options import conf_dir


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_told_first_of_all(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlit.cli.preflight.find_spec", lambda _: None)
    logger: dict[str, Any] = {"wandb": None, "mlflow": None, name: {}}
    with pytest.raises(UserError, match=rf"^logger={name} is not installed: pip install 'gptlit\["):
        check_start({"logger": logger})


def test_a_choice_that_depends_on_the_model_is_checked_before_lightning_is_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text("text,label\nhello,ham\n")
    args = ["task=classification", "data=csv", f"data.path={tmp_path / 'a.csv'}", "device=cpu"]
    args += ["weights=none", "model=gpt2-nano", "task.trainable=last_5_blocks"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", args), resolve=True)
    with pytest.raises(UserError, match=r"allowed are head, .* last_4_blocks, all, lora"):
        check_start(config)


def test_a_run_that_goes_on_needs_no_weights_but_those_of_its_checkpoint() -> None:
    args = ["task=instruction", "data=instructions-sample", "device=cpu", "task.trainable=lora"]
    args += ["weights=checkpoint", "weights.path=nowhere"]
    for more, missing in (
        (["resume=null"], True),
        (["resume=some.ckpt"], False),
        (["resume=some.ckpt", "task.adapter_only=true"], True),
    ):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config: Any = OmegaConf.to_container(compose("train", [*args, *more]), resolve=True)
        with pytest.raises(UserError, match="nowhere") if missing else nullcontext():
            check_start(config)


@pytest.mark.parametrize(
    ("name", "args", "line"),
    [
        (
            "a.xlsx",
            ["task=classification", "data=csv"],
            r"data\.path=a\.xlsx: expected a file whose",
        ),
        ("a.csv", ["task=classification", "data=csv"], r"a\.csv: no column 'text'"),
        ("a.txt", ["task=instruction"], r"data\.path=a\.txt: expected a file whose name ends in"),
    ],
)
def test_a_file_of_the_wrong_kind_is_told_before_anything_is_built(
    name: str, args: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("message,label\nhello,ham\n")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [*args, f"data.path={name}", "weights=none", "device=cpu"])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    with pytest.raises(UserError, match=line):
        check_start(config)
