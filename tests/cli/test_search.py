"""What a search is refused before its runs, and what its study remembers."""

import logging
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from gptlit.cli import arguments, search, sweep
from gptlit.errors import UserError
from gptlit.options import conf_dir

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and a command line of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", "-m"])
    monkeypatch.setattr(sweep.Sweep, "newest", None)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def composed(*overrides: str, option: str = "hparams_search=optuna") -> Any:
    """Hydra's config when a sweep begins."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        typed = ["hydra.mode=MULTIRUN", option, *overrides]
        cfg = compose("train", overrides=typed, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


NOT_SCORED = {
    "several objectives": ("hydra.sweeper.direction=[minimize,maximize]", "val/loss alone"),
    "the worst of all": ("hydra.sweeper.direction=maximize", "hydra.sweeper.direction=minimize"),
    "the lowest accuracy": (
        "hydra.sweeper.direction=minimize trainer.monitor=val/accuracy",
        "a run's score is its best val/accuracy alone: give hydra.sweeper.direction=maximize",
    ),
    "no validation": ("trainer.limit_val_batches=0", "without the val/loss"),
}


@pytest.mark.parametrize(("override", "line"), NOT_SCORED.values(), ids=NOT_SCORED)
def test_a_search_for_what_no_run_tells_is_refused_before_its_runs(
    override: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        sweep.Sweep().on_multirun_start(composed(*override.split()))
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {override.partition('=')[0]}") and line in said
    assert not list(Path().iterdir())


def test_a_search_may_look_for_the_highest_score() -> None:
    search.check(composed("hydra.sweeper.direction=maximize", "trainer.monitor=val/accuracy"))


def test_a_sweep_needs_no_validation() -> None:
    search.check(composed("trainer.limit_val_batches=0", option="hydra/sweeper=basic"))


def test_a_search_goes_on_in_another_folder() -> None:
    into = ("hydra.sweep.dir=sweep", sweep.GO_ON.split()[0], sweep.GO_ON.split()[1])
    search.check(composed(*into))
    (Path("sweep") / "0" / "checkpoints").mkdir(parents=True)
    (Path("sweep") / "0" / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match="sweep holds runs already"):
        search.check(composed(*into))
    search.check(composed(*into, option="hydra/sweeper=basic"))
    search.check(composed(*into, "hydra.sweeper.storage=null"))  # it forgets what it has chosen


def test_the_study_has_a_folder_wherever_the_runs_are() -> None:
    hook = sweep.Sweep()
    hook.on_multirun_start(composed("hydra.sweep.dir=elsewhere"))
    assert Path("outputs").is_dir() and not hook.repeats
    of_failed_runs = logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl")
    assert not of_failed_runs.isEnabledFor(logging.WARNING)  # they have said why
    hook.on_multirun_start(composed("hydra.sweep.dir=new", "output_root=not_made", option="seed=1"))
    assert hook.repeats and not Path("not_made").exists()


def test_other_values_of_a_study_are_told_with_their_cure() -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(storage="sqlite:///optuna.db")
    categorical = optuna.distributions.CategoricalDistribution
    study.ask({"lr": categorical(("1e-3", "1e-2"))})
    others = (categorical(("1e-3",)), optuna.distributions.UniformDistribution(0, 1))
    for distribution in others:
        with pytest.raises(ValueError) as raised:
            study.ask({"lr": distribution})
        line = search.explained(raised.value)
        assert line is not None and "hydra.sweeper.study_name=NAME" in line
    assert search.explained(ValueError("something else")) is None


def test_another_direction_than_the_study_s_is_told_with_its_cure() -> None:
    optuna = pytest.importorskip("optuna")
    known = {"study_name": "known", "storage": "sqlite:///optuna.db", "load_if_exists": True}
    optuna.create_study(direction="maximize", **known)
    with pytest.raises(ValueError) as raised:
        optuna.create_study(direction="minimize", **known)
    line = "the study has another hydra.sweeper.direction: begin another with hydra.sweeper.study"
    assert str(search.explained(raised.value)).startswith(line)


def test_each_metric_has_a_study_of_its_own() -> None:
    names = {
        composed(f"trainer.monitor={metric}").hydra.sweeper.study_name
        for metric in ("val/loss", "val/perplexity", "val/accuracy", "val/f1")
    }
    assert len(names) == 4


def test_the_keys_that_the_option_shows_can_be_searched() -> None:
    text = (conf_dir() / "hparams_search" / "optuna.yaml").read_text()
    shown = text.partition("# What is searched")[2].partition("params:")[0].replace("'", " ")
    typed = [word.rstrip(".") for word in shown.split() if "=" in word]
    assert len(typed) == 3
    assert arguments.read(["-m", *typed]) == ["--multirun", *typed]
