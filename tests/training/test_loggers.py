"""Runs of W&B and MLflow: one for each training, however often it is resumed. Stand-ins for the two
packages note what Lightning's loggers ask of them."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import mlflow as lightning_mlflow
from lightning.pytorch.loggers import wandb as lightning_wandb

from gptlit.training.loggers import keeping_runs, make_loggers

NEITHER: dict[str, Any] = {"csv": False, "tensorboard": False, "wandb": None, "mlflow": None}


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> Any:
    module: Any = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


class WandbRun:
    """A run, as `wandb.init` gives it."""

    def __init__(self, module: Any, id: str | None) -> None:
        self.module, self.id = module, id or f"new{len(module.ended)}"

    def log(self, metrics: dict[str, float]) -> None:
        self.module.logged.append((self.id, metrics["trainer/global_step"]))

    def finish(self, exit_code: int) -> None:
        self.module.run = None
        self.module.ended.append((self.id, exit_code))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = stand_in(monkeypatch, "wandb", run=None, logged=[], ended=[])

    def init(id: str | None, **_: Any) -> WandbRun:
        module.run = WandbRun(module, id)
        return module.run

    module.init = init
    stand_in(monkeypatch, "wandb.sdk")
    stand_in(monkeypatch, "wandb.sdk.lib", RunDisabled=type("RunDisabled", (), {}))
    stand_in(monkeypatch, "wandb.wandb_run", Run=type("Run", (), {}))
    monkeypatch.setattr(lightning_wandb, "_WANDB_AVAILABLE", True)
    return module


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = stand_in(monkeypatch, "mlflow", set_tracking_uri=lambda _: None, logged=[])
    runs: list[str] = []

    def create_run(**_: Any) -> Any:
        runs.append(f"new{len(runs)}")
        return SimpleNamespace(info=SimpleNamespace(run_id=runs[-1]))

    def log_batch(run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert run_id in runs
        module.logged += [(run_id, m.step) for m in metrics] + [(run_id, p.value) for p in params]

    experiment = SimpleNamespace(experiment_id="0", lifecycle_stage="active")
    client = SimpleNamespace(
        get_experiment_by_name=lambda _: experiment,
        get_run=lambda _: SimpleNamespace(info=experiment),
        create_run=create_run,
        log_batch=log_batch,
    )
    context = SimpleNamespace(resolve_tags=None)
    stand_in(monkeypatch, "mlflow.tracking", MlflowClient=lambda _: client, context=context)
    stand_in(monkeypatch, "mlflow.tracking.context", resolve_tags=lambda tags: tags)
    stand_in(monkeypatch, "mlflow.entities", Metric=SimpleNamespace, Param=SimpleNamespace)
    monkeypatch.setattr(lightning_mlflow, "_MLFLOW_AVAILABLE", True)
    return module


def train(name: str, folder: Path, step: int, resumed: int | None = None, lr: float = 1.0) -> None:
    """What a run does with its logger, once the step is done."""
    [logger] = make_loggers({**NEITHER, name: {}}, folder, resumed)
    trainer: Any = SimpleNamespace(loggers=[logger], is_global_zero=True)
    with keeping_runs(trainer, folder):
        if name == "mlflow":
            logger.log_hyperparams({"lr": lr})
        logger.log_metrics({"val/loss": 1.0}, step=step)
        if step == 0:
            raise KeyboardInterrupt


def test_each_run_of_a_sweep_has_its_own_at_wandb(wandb: Any, tmp_path: Path) -> None:
    for number in (1, 2):
        train("wandb", tmp_path / str(number), step=number)
    assert wandb.logged == [("new0", 1), ("new1", 2)]
    assert wandb.ended == [("new0", 0), ("new1", 0)]


def test_a_resumed_run_goes_on_with_its_own_at_wandb(wandb: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("wandb", tmp_path, step=0)
    assert wandb.ended == [("new0", 1)]  # as one that has failed
    train("wandb", tmp_path, step=1, resumed=0)
    train("wandb", tmp_path, step=2)  # a new one in its folder
    train("wandb", tmp_path, step=3, resumed=2)
    assert wandb.logged == [("new0", 0), ("new0", 1), ("new2", 2), ("new2", 3)]


def test_a_resumed_run_goes_on_with_its_own_at_mlflow(mlflow: Any, tmp_path: Path) -> None:
    train("mlflow", tmp_path, step=1)
    train("mlflow", tmp_path, step=2, resumed=1, lr=2.0)  # MLflow refuses what has changed
    train("mlflow", tmp_path / "other", step=3, resumed=2, lr=3.0)
    expected = [("new0", "1.0"), ("new0", 1), ("new0", 2), ("new1", "3.0"), ("new1", 3)]
    assert mlflow.logged == expected


def test_a_run_that_the_config_names_is_taken(wandb: Any, tmp_path: Path) -> None:
    [logger] = make_loggers({**NEITHER, "wandb": {"id": "mine"}}, tmp_path, None)
    assert logger.version == "mine"
