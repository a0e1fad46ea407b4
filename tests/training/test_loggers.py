"""Runs of W&B and MLflow: one for each training, however often it is resumed. Stand-ins for the two
packages note what Lightning's loggers ask of them."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import mlflow as lightning_mlflow
from lightning.pytorch.loggers import wandb as lightning_wandb
from omegaconf import OmegaConf

from gptlit.errors import UserError
from gptlit.options import conf_dir
from gptlit.training.loggers import PAUSE_S, keeping_runs, make_loggers

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
        self.config = SimpleNamespace(update=lambda new, **_: module.settings.append(new))

    def log(self, metrics: dict[str, float]) -> None:
        self.module.fail()
        self.module.logged.append((self.id, metrics["trainer/global_step"]))

    def finish(self, exit_code: int) -> None:
        self.module.fail()
        self.module.run = None
        self.module.ended.append((self.id, exit_code))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = stand_in(monkeypatch, "wandb", run=None, logged=[], ended=[], settings=[], names=[])
    module.fail = lambda: None

    def init(id: str | None, name: str, **_: Any) -> WandbRun:
        module.fail()
        module.names.append(name)
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
    module = stand_in(monkeypatch, "mlflow", set_tracking_uri=lambda _: None, logged=[], names=[])
    module.fail = lambda: None
    runs: list[str] = []

    def create_run(tags: dict[str, str], **_: Any) -> Any:
        module.fail()
        module.names.append(tags["mlflow.runName"])
        runs.append(f"new{len(runs)}")
        return SimpleNamespace(info=SimpleNamespace(run_id=runs[-1]))

    def log_batch(run_id: str, metrics: Any = (), params: Any = ()) -> None:
        module.fail()
        assert run_id in runs
        module.logged += [(run_id, m.step) for m in metrics] + [(run_id, p.value) for p in params]

    experiment = SimpleNamespace(experiment_id="0", lifecycle_stage="active")
    client = SimpleNamespace(
        get_experiment_by_name=lambda _: experiment,
        get_run=lambda _: SimpleNamespace(info=experiment),
        create_run=create_run,
        log_batch=log_batch,
        set_terminated=lambda *_: module.fail(),
    )
    context = SimpleNamespace(resolve_tags=None)
    stand_in(monkeypatch, "mlflow.tracking", MlflowClient=lambda _: client, context=context)
    stand_in(monkeypatch, "mlflow.tracking.context", resolve_tags=lambda tags: tags)
    stand_in(monkeypatch, "mlflow.utils")
    stand_in(monkeypatch, "mlflow.utils.mlflow_tags", MLFLOW_RUN_NAME="mlflow.runName")
    stand_in(monkeypatch, "mlflow.entities", Metric=SimpleNamespace, Param=SimpleNamespace)
    monkeypatch.setattr(lightning_mlflow, "_MLFLOW_AVAILABLE", True)
    return module


def train(name: str, folder: Path, step: int, resumed: int | None = None, lr: float = 1.0) -> None:
    """What a run does with its logger, once the step is done."""
    loggers = make_loggers({**NEITHER, name: {}}, folder, resumed)
    with keeping_runs(on_rank(0, loggers), folder, {"optimizer": {"lr": lr}}):
        loggers[0].log_metrics({"val/loss": 1.0}, step=step)
        if step == 0:
            raise KeyboardInterrupt


def on_rank(rank: int, loggers: list[Logger]) -> Any:
    """As much of the Trainer as is looked at."""
    return SimpleNamespace(loggers=loggers, is_global_zero=rank == 0)


def gone() -> None:
    raise ConnectionError("no answer\nfrom the server")


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


def test_both_get_the_settings_and_the_metrics(wandb: Any, mlflow: Any, tmp_path: Path) -> None:
    loggers = make_loggers({**NEITHER, "wandb": {}, "mlflow": {}}, tmp_path, None)
    with keeping_runs(on_rank(0, loggers), tmp_path, {"optimizer": {"lr": 0.5}, "seed": 1}):
        for logger in loggers:
            logger.log_metrics({"val/loss": 1.0}, step=3)
    assert wandb.settings == [{"optimizer": {"lr": 0.5}, "seed": 1}]
    assert wandb.logged == [("new0", 3)]
    assert mlflow.logged == [("new0", "0.5"), ("new0", "1"), ("new0", 3)]
    folder = f"{tmp_path.parent.name}/{tmp_path.name}"
    assert wandb.names == mlflow.names == [folder]  # there the files are


def test_the_first_process_alone_has_runs(wandb: Any, mlflow: Any, tmp_path: Path) -> None:
    wandb.fail = mlflow.fail = gone
    loggers = make_loggers({**NEITHER, "wandb": {}, "mlflow": {}}, tmp_path, None)
    with keeping_runs(on_rank(1, loggers), tmp_path, {}):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_server_that_fails_in_the_middle_costs_measurements_but_not_the_run(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    module, now = request.getfixturevalue(name), 1e6
    monkeypatch.setattr("time.monotonic", lambda: now)
    [logger] = make_loggers({**NEITHER, name: {}}, tmp_path, None)
    with keeping_runs(on_rank(0, [logger]), tmp_path, {}):
        logger.log_metrics({"val/loss": 1.0}, step=1)
        module.fail = gone
        for step in (2, 3):
            logger.log_metrics({"val/loss": 1.0}, step=step)
        module.fail = lambda: None
        logger.log_metrics({"val/loss": 1.0}, step=4)  # it is left alone for a while
        now += PAUSE_S + 1
        logger.log_metrics({"val/loss": 1.0}, step=5)
        assert module.logged == [("new0", 1), ("new0", 5)]
        module.fail = gone
        logger.finalize("success")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert f"logger.{name} has failed, the run goes on without it for 10 minutes" in told[0]
    assert told[0].endswith("no answer from the server")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_server_that_is_not_there_is_told_before_anything_is_trained(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(name).fail = gone
    with pytest.raises(UserError, match=rf"^logger.{name}: no run can be begun: no answer from"):
        train(name, tmp_path, step=1)


def test_a_key_that_mlflow_does_not_have_is_told(mlflow: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^logger.mlflow: .*'experiment'.* check its keys"):
        make_loggers({**NEITHER, "mlflow": {"experiment": "mine"}}, tmp_path, None)


@pytest.mark.parametrize(("given", "tries"), [(None, "2"), ("5", "5")])
def test_mlflow_does_not_ask_for_minutes_unless_told_to(
    given: str | None, tries: str, mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    monkeypatch.setenv(variable, given or "")  # put back to what it was, in either case
    if given is None:
        monkeypatch.delenv(variable)
    make_loggers({**NEITHER, "mlflow": {}}, tmp_path, None)
    assert os.environ[variable] == tries


def test_mlflow_keeps_runs_in_a_database() -> None:
    """Since its version 3 it refuses to keep them in plain files."""
    options = OmegaConf.load(conf_dir() / "logger" / "mlflow.yaml")
    assert options.mlflow.tracking_uri.startswith("sqlite:///")
