"""A run that is resumed with other data: refused, or gone on with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gptlit.cli.train import train
from gptlit.errors import UserError
from gptlit.options import conf_dir
from gptlit.training import ending, monitor

torch.set_num_threads(1)

COMMON = (
    "device=cpu",
    "precision=fp32",
    "tokenizer=byte",
    "weights=none",
    "data.cache_dir=cache",
    "data.batch_size=4",
    "logger=csv",
    "model=gpt2-nano",
    "model.emb_dim=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "model.context_length=16",
    "scheduler.warmup_steps=0",
    "trainer.val_interval=null",
)
TEXT = ("data=text", "data.path=corpus.txt", "task.sample.every_n_validations=0")
TABLE = ("task=classification", "data=csv", "data.path=table.csv", "task.trainable=all")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(monitor, "peak_flops", lambda device, precision: 1e12)
    monkeypatch.setattr(ending, "plot_curves", lambda *_: None)


def fit(max_steps: int, *overrides: str) -> dict[str, Any]:
    """What train.py does with its composed config; the run's last checkpoint."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [*COMMON, f"trainer.max_steps={max_steps}", *overrides])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    train(config, Path())
    last: dict[str, Any] = torch.load("checkpoints/last.ckpt", weights_only=True)
    return last


def write_text(n_lines: int, word: str = "line") -> None:
    Path("corpus.txt").write_text("".join(f"{word} {i} of them.\n" for i in range(n_lines)))


def write_table(*labels: str) -> None:
    rows = [f"{labels[i % len(labels)]} text {i},{labels[i % len(labels)]}\n" for i in range(60)]
    Path("table.csv").write_text("text,label\n" + "".join(rows))


GO_ON = ("resume=checkpoints/last.ckpt", "data.on_change=retokenize")


@pytest.mark.parametrize("n_lines", [30, 600], ids=["shorter", "longer"])
def test_changed_text_is_refused_and_with_the_option_trained_on(n_lines: int) -> None:
    write_text(120)
    before = fit(25, *TEXT)  # inside the second epoch
    write_text(n_lines, "row")
    with pytest.raises(UserError, match=r"other text\).*data\.on_change=retokenize"):
        fit(40, *TEXT, "resume=checkpoints/last.ckpt")
    after = fit(40, *TEXT, *GO_ON)
    assert after["global_step"] == 40
    states = [last["TextDataModule"]["data"] for last in (before, after)]
    assert states[0] != states[1]
    assert fit(45, *TEXT, "resume=checkpoints/last.ckpt")["global_step"] == 45  # the same since


def test_a_changed_table_is_refused_and_with_the_option_trained_on() -> None:
    write_table("good", "bad")
    fit(5, *TABLE)
    write_table("bad", "good")
    with pytest.raises(UserError, match=r"other rows\).*data\.on_change=retokenize"):
        fit(8, *TABLE, "resume=checkpoints/last.ckpt")
    assert fit(8, *TABLE, *GO_ON)["global_step"] == 8


def test_other_classes_are_another_run_in_any_case() -> None:
    write_table("good", "bad")
    fit(5, *TABLE)
    write_table("good", "bad", "new")
    with pytest.raises(UserError, match=r"labels=\['bad', 'good'\], not \['bad', 'good', 'new'\]"):
        fit(8, *TABLE, *GO_ON)
