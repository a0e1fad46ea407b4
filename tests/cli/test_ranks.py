"""Which sweeps go with several processes."""

import pytest

from gptlit.cli.ranks import check_sweep, follow
from gptlit.errors import UserError

SEVERAL = ("trainer=ddp", "trainer=fsdp", "trainer='ddp'", "trainer.devices=2")


@pytest.mark.parametrize("several", SEVERAL)
@pytest.mark.parametrize("alone", ["hparams_search=optuna", "launcher=local"])
def test_what_each_process_would_start_for_itself_is_refused(several: str, alone: str) -> None:
    with pytest.raises(UserError, match=f"^{alone} is for runs of one process.*leave out trainer"):
        check_sweep(["-m", "data=text", alone, several])


@pytest.mark.parametrize(
    "swept", ["trainer.devices=1,2", "trainer='default','ddp'", "trainer.devices=range(1,3)"]
)
def test_runs_of_one_sweep_have_the_same_processes(swept: str) -> None:
    with pytest.raises(UserError, match=r"^trainer[^']*: all runs of a sweep have the same"):
        check_sweep(["--multirun", "trainer=ddp", swept])
    check_sweep(["--multirun", "launcher=slurm", "trainer=ddp", swept])


@pytest.mark.parametrize(
    "args",
    [
        ["--multirun", "trainer=ddp", "trainer.devices=2", "optimizer.lr=1e-3,1e-2"],
        ["hparams_search=optuna", "trainer=default", "trainer.devices=1"],
        ["launcher=local", "optimizer.lr=1e-3,1e-2"],
        ["launcher=slurm", "hparams_search=optuna", "trainer=fsdp"],
        ["launcher=null", "trainer=ddp"],
    ],
)
def test_other_sweeps_are_not(args: list[str]) -> None:
    check_sweep(args)


@pytest.fixture
def in_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of four tasks on two machines, and the first process in it."""
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    place = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "gpt", "SLURM_PROCID": "0"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("in_slurm")
def test_a_job_of_several_tasks_wants_srun() -> None:
    told = "^this Slurm job has 4 tasks, and without srun only one process was started: put srun"
    with pytest.raises(UserError, match=told):
        follow()


@pytest.mark.usefixtures("in_slurm")
def test_tasks_of_slurm_by_their_number_alone_are_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    told = (
        "^Slurm has started 4 tasks by --ntasks alone: give --nodes=2 --ntasks-per-node=2 instead"
    )
    with pytest.raises(UserError, match=told):
        follow()
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(SystemExit) as end:
        follow()
    assert end.value.code == 2
