"""A run's config is composed once, and is what Hydra would make of it."""

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode

from gptlit.cli import app


class Ran:
    """What a command came to: how often its config was composed, and the jobs of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.composed = 0
        self.jobs: list[dict[str, Any]] = []
        self.modes: list[RunMode | None] = []
        self.overrides: list[str] = []
        self._monkeypatch = monkeypatch
        load = ConfigLoaderImpl.load_configuration

        def counted(*args: Any, **settings: Any) -> Any:
            self.composed += 1
            return load(*args, **settings)

        monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def __call__(self, *args: str) -> None:
        def job(config: dict[str, Any], folder: Path) -> None:
            self.jobs.append(config)
            self.modes.append(HydraConfig.get().mode)
            self.overrides = list(HydraConfig.get().overrides.task)
            (folder / "used").touch()

        self._monkeypatch.setattr("sys.argv", ["train.py", *args])
        app._run_hydra("train", lambda _: None, job, False)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ran:
    return Ran(monkeypatch, tmp_path)


def test_a_run_is_composed_once(ran: Ran) -> None:
    ran("seed=3", "hydra.run.dir=run", "task=classification")
    assert ran.composed == 1
    assert (ran.jobs[0]["seed"], ran.jobs[0]["task"]["name"]) == (3, "classification")
    assert ran.modes == [RunMode.RUN]
    assert ran.overrides == ["seed=3", "task=classification"]


def test_the_next_run_of_a_process_is_composed_by_itself(ran: Ran) -> None:
    for seed in (1, 2):
        ran(f"seed={seed}", f"hydra.run.dir={seed}")
    assert [job["seed"] for job in ran.jobs] == [1, 2]


@pytest.mark.parametrize("flag", ["--multirun", "hydra.mode=MULTIRUN"])
def test_sweeps_are_left_to_hydra(ran: Ran, flag: str) -> None:
    ran(flag, "seed=1,2", "hydra.sweep.dir=sweep")
    assert [job["seed"] for job in ran.jobs] == [1, 2]
    assert ran.modes == [RunMode.MULTIRUN] * 2


def test_values_of_a_sweep_that_is_none_are_refused(ran: Ran) -> None:
    with pytest.raises(ConfigCompositionException, match="add --multirun"):
        ran("seed=1,2")
    assert not ran.jobs


def test_a_mistake_is_composed_once_too(ran: Ran) -> None:
    with pytest.raises(ConfigCompositionException, match="modle"):
        ran("modle=x")
    assert ran.composed == 1 and not ran.jobs
