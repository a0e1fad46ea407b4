"""What a launcher has started decides on devices and machines."""

import pytest

from gptlit.errors import UserError
from gptlit.training.launch import Launch, devices_and_nodes, launched

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_JOB_NAME": "gpt"}
AUTO = {"devices": "auto", "num_nodes": "auto"}


@pytest.fixture(autouse=True)
def _started_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SLURM, "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


def start(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_process_that_the_user_has_started_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() is None
    assert devices_and_nodes(AUTO) == ("auto", 1)
    with pytest.raises(UserError, match=r"trainer\.num_nodes=2: nobody has started.*torchrun"):
        devices_and_nodes({"devices": 3, "num_nodes": 2})
    monkeypatch.setenv("MASTER_ADDR", "node0")  # and the same command on each machine
    assert devices_and_nodes({"devices": 3, "num_nodes": 2}) == (3, 2)


def test_torchrun_and_slurm_say_how_many_processes_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(monkeypatch, **SLURM)
    assert launched() == Launch("srun", rank=5, world_size=6, nodes=3)
    assert devices_and_nodes(AUTO) == (2, 3)
    start(monkeypatch, **TORCHRUN)  # within the job
    assert launched() == Launch("torchrun", rank=3, world_size=8, nodes=2)
    assert devices_and_nodes(AUTO) == (4, 2)
    assert devices_and_nodes({"devices": 4, "num_nodes": 2}) == (4, 2)


def test_a_shell_inside_a_slurm_job_is_not_one_of_its_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(monkeypatch, **{**SLURM, "SLURM_JOB_NAME": "interactive"})
    assert launched() is None


@pytest.mark.parametrize("settings", [{"devices": 1, "num_nodes": 1}, {**AUTO, "devices": 2}])
def test_another_number_of_processes_in_the_config_is_refused(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    start(monkeypatch, **TORCHRUN)
    with pytest.raises(UserError, match=r"4 process.* 2 machine.*trainer=ddp.*--nproc-per-node"):
        devices_and_nodes(settings)
