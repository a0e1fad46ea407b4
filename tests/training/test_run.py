"""A run as a whole, in this process: how it ends, and how it goes on."""

import io
import json
import os
import shutil
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from gptlit import device
from gptlit.cli.train import train
from gptlit.data.text import TextDataModule
from gptlit.errors import UserError
from gptlit.options import conf_dir
from gptlit.training import ending, monitor, recovery, run
from gptlit.training.metrics import read_metrics
from gptlit.training.setup import Lengths, saved_dtype

torch.set_num_threads(1)

TINY = (
    "device=cpu",
    "precision=fp32",
    "data=text",
    "data.path=corpus.txt",
    "data.cache_dir=cache",
    "data.batch_size=4",
    "logger=csv",
    "model.emb_dim=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "model.context_length=16",
    "scheduler.warmup_steps=0",
    "trainer.log_every_n_steps=1",
    "trainer.val_interval=null",
    "task.sample.every_n_validations=0",
)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a corpus of 9 batches; what takes time elsewhere is spared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(monitor, "peak_flops", lambda device, precision: 1e12)
    monkeypatch.setattr(ending, "plot_curves", lambda metrics, *_: read_metrics(metrics))
    lines = [f"{i} and {i + 1} are neighbours.\n" for i in range(28)]
    (tmp_path / "corpus.txt").write_text("".join(lines))
    return tmp_path


def fit(folder: str, *overrides: str) -> Path:
    """What train.py does with its composed config."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[*TINY, *overrides])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    Path(folder).mkdir(parents=True, exist_ok=True)
    train(config, Path(folder))
    return Path(folder)


def summary(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return facts


def measured(folder: Path, name: str) -> dict[int, float]:
    _, rows = read_metrics(folder / "metrics.csv")
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


def last_step(folder: Path) -> int:
    path = folder / "checkpoints" / "last.ckpt"
    return int(torch.load(path, weights_only=True)["global_step"])


EPOCH = 9


@pytest.mark.parametrize(
    ("overrides", "steps", "validated"),
    [
        ("trainer.max_steps=5 trainer.val_interval=2", 5, [2, 4, 5]),
        ("trainer.max_steps=4 trainer.val_interval=2", 4, [2, 4]),
        ("trainer.max_steps=3 trainer.val_interval=100", 3, [3]),
        ("trainer.max_steps=12", 12, [EPOCH, 12]),
        ("trainer.max_steps=-1 trainer.max_epochs=2", 18, [EPOCH, 18]),
        ("trainer.max_steps=-1 trainer.max_epochs=1 trainer.val_interval=6", 9, [6, 9]),
        ("trainer.max_steps=5 trainer.max_epochs=2", 5, [5]),
        ("trainer.max_steps=100 trainer.max_epochs=1", 9, [9]),
        ("trainer.max_epochs=2 trainer.accumulate_grad_batches=2", 8, [4, 8]),
    ],
)
def test_a_run_ends_where_it_should_with_a_last_validation(
    overrides: str, steps: int, validated: list[int]
) -> None:
    folder = fit("run", "trainer.val_at_start=false", *overrides.split())
    assert list(measured(folder, "val/loss")) == validated
    assert last_step(folder) == steps
    per_step = 4 * 16 * (2 if "accumulate" in overrides else 1)
    assert (summary(folder)["steps"], summary(folder)["tokens"]) == (steps, steps * per_step)


def test_a_run_that_no_server_takes_leaves_the_folder_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = fit("run", "trainer.max_steps=2")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def refuse(*_: object) -> None:
        raise UserError("no run can be begun")

    monkeypatch.setattr(run, "keeping_runs", refuse)
    for more in ("resume=run/checkpoints/last.ckpt", "seed=2"):
        with pytest.raises(UserError, match="no run can be begun"):
            fit("run", "trainer.max_steps=4", more)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_validation_s_line_has_the_loss_of_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("trainer.max_steps=5", "trainer.val_interval=2", "optimizer.lr=0.01")
    losses = measured(fit("run", *options), "train/loss")
    capsys.readouterr()
    fit("seldom", *options, "trainer.log_every_n_steps=3")
    lines = [line for line in capsys.readouterr().out.splitlines() if ": train loss" in line]
    assert [line.partition(" ·")[0] for line in lines] == [
        f"step {step}/5: train loss {losses[step]:.4g}" for step in (2, 4, 5)
    ]


def test_early_stopping_counts_validations_without_a_better_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("trainer.max_steps=50", "trainer.val_interval=2", "trainer.early_stopping=3")
    folder = fit("run", *options, "optimizer.lr=1e-30", "trainer.val_at_start=false")
    assert list(measured(folder, "val/loss")) == [2, 4, 6, 8]
    assert summary(folder)["steps"] == 8
    early = " s at step 8 of 50, after trainer.early_stopping=3 validations without a better one, "
    assert early in capsys.readouterr().out


def test_the_best_checkpoint_and_the_end_follow_the_monitored_metric(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("trainer.max_steps=50", "trainer.val_interval=2", "trainer.early_stopping=2")
    options += ("trainer.monitor=val/perplexity", "trainer.monitor_mode=max")
    folder = fit("run", *options, "optimizer.lr=0.01", "trainer.val_at_start=false")
    falling = measured(folder, "val/perplexity")
    assert list(falling) == [2, 4, 6] and falling[2] > falling[4] > falling[6]
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 2
    assert f", best val/perplexity {falling[2]:.4g}\n" in capsys.readouterr().out


def test_a_metric_that_does_not_exist_is_told_before_the_first_step() -> None:
    known = r"choose one of val/loss, val/perplexity, val/bits_per_byte$"
    with pytest.raises(UserError, match=rf"^trainer\.monitor=val/f1 is not among .*: {known}"):
        fit("run", "trainer.max_steps=5", "trainer.monitor=val/f1")


@pytest.mark.parametrize("val_interval", ["null", "3"])
def test_early_stopping_is_the_same_after_a_resume(val_interval: str) -> None:
    options = ("data.batch_size=12", f"trainer.val_interval={val_interval}")  # 3 steps an epoch
    options += ("trainer.early_stopping=2", "optimizer.lr=1e-30", "trainer.val_at_start=false")
    folder = fit("run", *options, "trainer.max_steps=6")
    for _ in range(2):  # what has stopped early trains no more, even if killed right after that
        (folder / "summary.json").unlink()
        fit("run", *options, "trainer.max_steps=50", "resume=run/checkpoints/last.ckpt")
        assert list(measured(folder, "val/loss")) == [3, 6, 9]
        assert summary(folder)["steps"] == last_step(folder) == 9


def test_a_run_that_stopped_early_is_left_alone_and_the_cure_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("trainer.early_stopping=1", "optimizer.lr=1e-30", "trainer.val_interval=1")
    folder = fit("run", *options, "trainer.max_steps=5", "trainer.val_at_start=false")
    before = (folder / "summary.json").read_bytes()
    fit("run", *options, "trainer.max_steps=9", "resume=run/checkpoints/last.ckpt")
    assert (folder / "summary.json").read_bytes() == before
    line = "finished at step 2 already, after trainer.early_stopping=1 validations without a better"
    told = capsys.readouterr().out
    assert line in told and "give more than that as trainer.early_stopping=..." in told


def test_a_run_that_stopped_early_goes_on_with_more_patience(
    recwarn: pytest.WarningsRecorder,
) -> None:
    options = ("trainer.max_steps=50", "trainer.val_interval=2", "trainer.val_at_start=false")
    options += ("optimizer.lr=1e-30",)
    folder = fit("run", *options, "trainer.early_stopping=2")
    assert list(measured(folder, "val/loss")) == [2, 4, 6]
    fit("run", *options, "trainer.early_stopping=4", "resume=run/checkpoints/last.ckpt")
    assert list(measured(folder, "val/loss")) == [2, 4, 6, 8, 10]
    assert last_step(folder) == 10
    without = ("trainer.early_stopping=0", "trainer.max_steps=12")
    fit("run", *options, *without, "resume=run/checkpoints/last.ckpt")
    assert last_step(folder) == 12
    assert not [w for w in recwarn if "callbacks" in str(w.message)]


@pytest.mark.parametrize(
    "override",
    ["logger.csv=false", "trainer.limit_val_batches=0", "trainer.gradient_clip_val=null"],
)
def test_what_is_switched_off_is_not_missed(override: str) -> None:
    folder = fit("run", "trainer.max_steps=3", override)
    assert summary(folder)["steps"] == last_step(folder) == 3


def test_a_finished_run_can_be_made_longer(capsys: pytest.CaptureFixture[str]) -> None:
    base = ("trainer.val_interval=4", "optimizer.lr=1e-3", "scheduler=linear")
    folder = fit("run", *base, "trainer.max_steps=4")
    assert measured(folder, "train/lr")[4] < 0.5e-3
    resume = "resume=run/checkpoints/last.ckpt"
    before = (folder / "summary.json").read_bytes()
    for steps in (3, 4):
        fit("run", *base, f"trainer.max_steps={steps}", resume)
        assert "finished at step 4 already; to train on, give more" in capsys.readouterr().out
    assert (folder / "summary.json").read_bytes() == before
    fit("run", *base, "trainer.max_steps=8", "optimizer.lr=2e-3", resume)
    rates = measured(folder, "train/lr")
    assert list(rates) == list(range(1, 9))
    assert rates[5] == pytest.approx(2e-3 * (0.1 + 0.9 * 0.5))  # half way of the longer run
    assert list(measured(folder, "val/loss"))[-2:] == [4, 8]
    assert (summary(folder)["steps"], summary(folder)["tokens"]) == (8, 8 * 64)


@pytest.mark.parametrize(
    ("val_interval", "validated"), [("5", [0, 5, 7, 10, 12]), ("null", [0, 7, EPOCH, 12])]
)
def test_steps_of_other_micro_batches_are_counted_on(
    val_interval: str, validated: list[int]
) -> None:
    interval = f"trainer.val_interval={val_interval}"
    fit("run", interval, "trainer.max_steps=7")
    smaller = ("data.batch_size=2", "trainer.accumulate_grad_batches=2")  # the same steps
    resume = "resume=run/checkpoints/last.ckpt"
    folder = fit("run", interval, "trainer.max_steps=12", *smaller, resume)
    assert list(measured(folder, "val/loss")) == validated
    assert summary(folder)["tokens"] == 12 * 64


@pytest.mark.parametrize(
    ("changed", "validated"),
    [
        ("data.batch_size=12", [4, 5, 8]),  # 2 of 3 steps are done, as far as can be
        ("data.batch_size=2", [4, 15, 34]),  # 8 of 19
        ("trainer.accumulate_grad_batches=2", [4, 6, 10]),  # 2 of 4
    ],
)
def test_epochs_are_epochs_whatever_the_size_of_the_steps_before(
    changed: str, validated: list[int]
) -> None:
    options = ("trainer.max_epochs=2", "trainer.val_at_start=false")
    folder = fit("run", *options, "trainer.max_steps=4")
    resume = "resume=run/checkpoints/last.ckpt"
    fit("run", *options, "trainer.max_steps=-1", changed, resume)
    assert list(measured(folder, "val/loss")) == validated
    assert summary(folder)["tokens"] == pytest.approx(2 * EPOCH * 64, abs=2 * 128)


def test_a_run_by_epochs_that_has_finished_is_made_longer_by_epochs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("trainer.max_epochs=1", "trainer.val_at_start=false", "data.batch_size=36")
    fit("run", *options, "trainer.max_steps=-1")
    for more in ("trainer.max_steps=9", "data.batch_size=4"):
        fit("run", *options, more, "resume=run/checkpoints/last.ckpt")
        assert "to train on, give more epochs as trainer.max_epochs=..." in capsys.readouterr().out


def test_a_callback_of_the_config_goes_on_where_it_was(recwarn: pytest.WarningsRecorder) -> None:
    mean = "{_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.5}"
    options = ("trainer.val_interval=2", "scheduler.total_steps=6", f"+callbacks.mean={mean}")
    whole = fit("whole", *options, "trainer.max_steps=6")
    fit("parts", *options, "trainer.max_steps=4")
    parts = fit("parts", *options, "trainer.max_steps=6", "resume=parts/checkpoints/last.ckpt")
    plain = fit("plain", *options[:2], "trainer.max_steps=6")
    there, here, without = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, parts, plain)
    )
    assert all(torch.equal(there[name], here[name]) for name in there)
    assert not all(torch.equal(there[name], without[name]) for name in there)
    assert not [w for w in recwarn if "WeightAveraging" in str(w.message)]


def test_a_run_that_a_callback_ends_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    timer = "{_target_: lightning.pytorch.callbacks.Timer, duration: {seconds: 0}}"
    options = ("trainer.max_steps=6", "trainer.early_stopping=3", "trainer.val_interval=3")
    fit("run", *options, f"+callbacks.timer={timer}")
    assert " s at step 0 of 6\n" in capsys.readouterr().out


def test_a_login_node_of_slurm_is_nothing_to_warn_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    fit("run", "trainer.max_steps=2")
    assert [str(one.message) for one in recwarn if "srun" in str(one.message)] == []


def test_lightnings_own_checkpoints_have_the_step_in_their_names() -> None:
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    settings = "every_n_train_steps: 2, save_top_k: -1, dirpath: kept, filename: '{step}'"
    fit(
        "run",
        "trainer.max_steps=6",
        "trainer.val_interval=3",
        f"+callbacks.kept={{_target_: {saver}, {settings}}}",
    )
    assert {path.name for path in Path("kept").iterdir()} == {f"step={n}.ckpt" for n in (2, 4, 6)}


@pytest.mark.parametrize(
    ("name", "part"),
    [("simple", "backward"), ("advanced", "training_step"), ("pytorch", "aten::")],
)
def test_a_profile_is_written_into_the_run_folder(name: str, part: str) -> None:
    folder = fit("run", "trainer.max_steps=6", f"trainer.profiler={name}")
    assert part in (folder / "profile" / f"fit-{name}.txt").read_text()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_process_says_that_the_run_has_finished(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    (tmp_path / "summary.json").touch()
    out = io.StringIO()
    start = recovery.Start(tmp_path, 4, {"callbacks": {}})
    config = {"trainer": {"early_stopping": 0}}
    assert run._has_finished(tmp_path, start, Lengths(2, 0, {"x": 4}), config, Console(file=out))
    assert ("has finished" in out.getvalue()) == (rank == "0")


@pytest.mark.parametrize(("fast", "strategy"), [(False, "auto"), (True, "auto"), (False, "fsdp")])
def test_a_cpu_with_slow_bf16_multiplies_fp32_and_keeps_bf16(
    fast: bool, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "fast_bf16", lambda name: fast)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    config: Any = {"trainer": {"strategy": strategy}}
    kept = not fast and strategy == "auto"
    assert saved_dtype(config, "cpu", "bf16") == (torch.bfloat16 if kept else None)
    assert saved_dtype(config, "cpu", "fp32") is None
    if strategy == "fsdp":  # needs several processes
        return
    options = ("trainer.max_steps=2", "trainer.val_at_start=false")
    exact, rounded = (fit(name, *options, f"precision={name}") for name in ("fp32", "bf16"))
    assert summary(rounded)["precision"] == "bf16"
    for name, same in (("loss", kept), ("grad_norm", False)):
        there, here = (measured(folder, f"train/{name}")[1] for folder in (exact, rounded))
        assert here == pytest.approx(there, rel=0.01)
        assert (here == there) == same, name


def killed(*_: Any) -> None:
    """Instead of training."""
    raise KeyboardInterrupt


def test_what_an_earlier_run_has_left_is_not_taken_for_that_of_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = fit("run", f"trainer.max_steps={EPOCH}")
    monkeypatch.setattr(run, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        fit("run", f"trainer.max_steps={EPOCH}", "optimizer.lr=1e-2")
    assert not list((folder / "checkpoints").iterdir())
    assert not (folder / "summary.json").exists()


def test_a_longer_run_that_is_killed_has_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fit("run", f"trainer.max_steps={EPOCH}")
    monkeypatch.setattr(run, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        fit("run", f"trainer.max_steps={EPOCH + 1}", f"resume={folder}/checkpoints/last.ckpt")
    assert not (folder / "summary.json").exists() and last_step(folder) == EPOCH


def test_a_run_killed_after_its_last_step_is_finished_by_a_resume() -> None:
    folder = fit("run", "trainer.max_steps=4")
    before = summary(folder)
    (folder / "summary.json").unlink()
    fit("run", "trainer.max_steps=4", "resume=run/checkpoints/last.ckpt")
    after = summary(folder)
    assert after["metrics"].keys() == before["metrics"].keys()
    for name in ("train/loss", "val/loss"):
        assert after["metrics"][name] == pytest.approx(before["metrics"][name])
    assert (after["steps"], after["tokens"]) == (4, before["tokens"])
    assert after["best_checkpoint"] == before["best_checkpoint"]


def test_samples_are_due_at_the_same_validations_after_a_resume(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("trainer.val_interval=1", "trainer.val_at_start=false", "task.sample.prompt=1 and")
    options += ("task.sample.every_n_validations=2", "task.sample.max_new_tokens=1")
    fit("run", *options, "trainer.max_steps=3")  # in the midst of two
    fit("run", *options, "trainer.max_steps=4", "resume=run/checkpoints/last.ckpt")
    first, second = capsys.readouterr().out.split("resumed at")
    assert (first.count("sample: 1 and"), second.count("sample: 1 and")) == (1, 1)


def test_a_resumed_run_does_not_keep_hold_of_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit("run", "trainer.max_steps=1")
    tensors: list[weakref.ref[torch.Tensor]] = []

    def find_start(path: Path) -> recovery.Start:
        start = recovery.find_start(path)
        tensors.extend(map(weakref.ref, start.content["state_dict"].values()))
        return start

    def train(*_: Any) -> None:
        assert tensors and not any(tensor() is not None for tensor in tensors)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "find_start", find_start)
    monkeypatch.setattr(run, "_train", train)
    with pytest.raises(KeyboardInterrupt):
        fit("run", "trainer.max_steps=2", "resume=run/checkpoints/last.ckpt")


def test_data_that_cannot_be_measured_are_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TextDataModule, "val_dataloader", Mock(side_effect=UserError("too few")))
    monkeypatch.setattr(run, "_train", Mock())
    with pytest.raises(UserError, match="too few"):
        fit("run", "trainer.max_steps=1")


@pytest.mark.parametrize("override", ["model.emb_dim=32", "model.n_layers=2", "tokenizer=gpt2"])
def test_a_checkpoint_of_another_shape_is_refused_by_name(override: str) -> None:
    fit("run", "trainer.max_steps=1")
    with pytest.raises(UserError, match=rf"the run has {override.partition('=')[0]}="):
        fit("run", "trainer.max_steps=2", override, "resume=run/checkpoints/last.ckpt")


def test_a_damaged_checkpoint_is_named() -> None:
    path = fit("run", "trainer.max_steps=1") / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"last.ckpt is not a gptlit checkpoint"):
        fit("run", "trainer.max_steps=2", f"resume={path}")


def test_latest_is_the_finished_run_of_the_task() -> None:
    fit("outputs/pretrain/a", "trainer.max_steps=1")
    fit("outputs/pretrain/b", "trainer.max_steps=1")
    fit("elsewhere", "trainer.max_steps=1")
    fit("outputs/pretrain/sweeps/now/0", "trainer.max_steps=1")
    latest = Path("outputs/pretrain/latest")
    assert latest.resolve().name == "b"
    assert not Path("latest").is_symlink()
    assert [path.parent for path in Path("outputs").rglob("latest")] == [latest.parent]


def test_more_micro_batches_than_the_epoch_has_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"9 batches.*accumulate_grad_batches=10"):
        fit("run", "trainer.accumulate_grad_batches=10")


def test_brackets_in_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a[b]").mkdir()
    Path("corpus.txt").rename("a[b]/corpus.txt")
    fit("run[b]", "trainer.max_steps=1", "data.path='a[b]/corpus.txt'")
    assert "run[b]" in capsys.readouterr().out


def test_a_sharded_run_is_saved_as_any_other_and_goes_on_as_any_other() -> None:
    """One process holds all the parts here; tests/e2e/test_processes.py has two."""
    options = ("scheduler.total_steps=4", "trainer.gradient_clip_val=0.1", "optimizer.lr=0.01")
    sharded = ("trainer=fsdp", "trainer.devices=1")
    plain = fit("plain", *options, "trainer.max_steps=4")
    resume = "trainer.max_steps=4", "resume=parts/checkpoints/last.ckpt"
    with patch.dict(os.environ):  # Lightning notes there which process this is
        try:
            fit("parts", *options, *sharded, "trainer.max_steps=2")
            shutil.copytree("parts", "whole")
            parts = fit("parts", *options, *sharded, *resume)
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    whole = fit("whole", *options, "trainer.max_steps=4", "resume=whole/checkpoints/last.ckpt")
    expected, *found = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (plain, parts, whole)
    )
    for content in found:
        for part in ("state_dict", "optimizer_states"):
            torch.testing.assert_close(content[part], expected[part])


def test_the_test_split_is_measured_with_the_weights_that_are_kept(workplace: Path) -> None:
    entries = [{"instruction": f"{i}?", "input": "", "output": f"{i + 1}"} for i in range(12)]
    paths = [f"data.{name}={name}.json" for name in ("path", "val_path", "test_path")]
    for path in paths:
        (workplace / path.partition("=")[2]).write_text(json.dumps(entries))
    form = ("prompt_format=plain", "model.context_length=64", "task.answers.max_new_tokens=1")
    length = ("trainer.max_steps=3", "optimizer.lr=0.1")
    mean = "+callbacks.mean={_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.5}"
    options = ("task=instruction", "data=instructions", "weights=none", "tokenizer=byte", *paths)
    found = summary(fit("run", *options, *form, *length, mean))["metrics"]
    assert found["test/loss"] == pytest.approx(found["val/loss"], rel=1e-5)
