"""A run folder may come from anybody: its config names data, and runs nothing."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer
from omegaconf import OmegaConf

from gptlit.cli.build import build_callbacks, build_data, read_run_config
from gptlit.errors import UserError
from gptlit.options import read_option

TEXT = "gptlit.data.text.TextDataModule"
INSTRUCTIONS = "gptlit.data.instructions.InstructionDataModule"


def config(target: str, path: Any) -> dict[str, Any]:
    return {
        "data": {"_target_": target, "path": path, "batch_size": 1},
        "tokenizer": {"name": "byte"},
        "model": {"context_length": 8},
        "seed": 0,
    }


def test_values_are_not_called(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    call = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": []}}
    call["self"]["_args_"] = [str(victim)]  # type: ignore[index]
    data = build_data(config(TEXT, call))
    assert data.path == call and not victim.exists()


def with_callback(_target_: str, *, strategy: str = "auto", **arguments: Any) -> dict[str, Any]:
    node = {"_target_": _target_, **arguments}
    return {"callbacks": {"mine": node}, "trainer": {"strategy": strategy}}


def test_callbacks_get_plain_arguments() -> None:
    node = {"_target_": "lightning.pytorch.callbacks.Timer", "duration": {"seconds": 5}}
    [timer] = build_callbacks(with_callback(**node))
    assert isinstance(timer, Timer) and timer.time_remaining() == 5


def test_a_callback_that_is_none_is_refused() -> None:
    line = r"callbacks\.mine\._target_=pathlib\.Path is no Lightning Callback"
    with pytest.raises(UserError, match=line):
        build_callbacks(with_callback("pathlib.Path"))


@pytest.mark.parametrize(
    ("kind", "arguments", "told"),
    [
        ("StochasticWeightAveraging", {"swa_lrs": 0.1}, "leave it out; EMAWeightAveraging"),
        ("GradientAccumulationScheduler", {"scheduling": {1: 2}}, "accumulate_grad_batches="),
        ("BatchSizeFinder", {}, "data.batch_size="),
        ("LearningRateFinder", {}, "hparams_search=optuna"),
    ],
)
def test_a_callback_that_changes_the_course_of_a_run_is_refused(
    kind: str, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=rf"{kind} changes the batches, steps or .*{told}"):
        build_callbacks(with_callback(f"lightning.pytorch.callbacks.{kind}", **arguments))


def test_the_weights_of_a_sharded_model_are_not_averaged() -> None:
    mean = "lightning.pytorch.callbacks.EMAWeightAveraging"
    assert len(build_callbacks(with_callback(mean, strategy="ddp"))) == 1
    with pytest.raises(UserError, match=r"callbacks\.mine.*EMAWeightAveraging.* use trainer=ddp"):
        build_callbacks(with_callback(mean, strategy="fsdp"))


def saved(folder: Path, text: str | dict[str, Any]) -> Path:
    """A run folder with this config."""
    (folder / "config").mkdir(exist_ok=True)
    text = text if isinstance(text, str) else OmegaConf.to_yaml(OmegaConf.create(text))
    (folder / "config" / "config.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("target", ["os.system", "gptlit.data.text.default_cache_dir", TEXT, None])
def test_a_run_whose_data_are_of_another_class_is_refused(
    target: str | None, tmp_path: Path
) -> None:
    run = saved(tmp_path, config(INSTRUCTIONS, "a.json"))
    assert read_run_config(run, "instruction")["data"]["path"] == "a.json"
    saved(tmp_path, config(target, "a.txt"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is no class of gptlit's data"):
        read_run_config(tmp_path, "instruction")


def test_a_run_has_no_say_in_what_is_downloaded(tmp_path: Path) -> None:
    """What its training has downloaded is read where it is."""
    published = read_option("data", "instructions")
    node = config(INSTRUCTIONS, None)
    node["data"] |= {name: published[name] for name in ("urls", "file_name", "sha256")}
    node["data"]["cache_dir"] = str(tmp_path)
    assert read_run_config(saved(tmp_path, node), "instruction")["data"]["urls"]
    for name, other in (("urls", ["http://localhost/x"]), ("file_name", "x"), ("sha256", "")):
        with pytest.raises(UserError, match="has no say in what is downloaded: give data=FILE"):
            changed = {**node, "data": {**node["data"], name: other}}
            read_run_config(saved(tmp_path, changed), "instruction")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "mine.json").touch()
    node["data"]["file_name"] = "mine.json"
    there = read_run_config(saved(tmp_path, node), "instruction")["data"]["path"]
    assert there == str(tmp_path / "downloads" / "mine.json")


LAUGHS = "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else ''}]\n" for n in range(12))


@pytest.mark.parametrize("text", [LAUGHS, "[1]", "data: 5", "data: {", "[" * 2000, ""])
def test_a_config_that_no_run_writes_is_told_in_a_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml.*; give data=FILE"):
        read_run_config(saved(tmp_path, text), "instruction")
