"""Which sweeps go with several processes."""

import pytest

from gptlit.cli.ranks import check_sweep
from gptlit.errors import UserError

SEVERAL = ("trainer=ddp", "trainer=fsdp", "trainer='ddp'", "trainer.devices=2")


@pytest.mark.parametrize("several", SEVERAL)
@pytest.mark.parametrize("alone", ["hparams_search=optuna", "launcher=local"])
def test_what_each_process_would_start_for_itself_is_refused(several: str, alone: str) -> None:
    with pytest.raises(UserError, match=f"^{alone} is for runs of one process.*leave out trainer"):
        check_sweep(["-m", "data=text", alone, several])


@pytest.mark.parametrize(
    "args",
    [
        ["-m", "trainer=ddp", "optimizer.lr=1e-3,1e-2"],
        ["hparams_search=optuna", "trainer=default", "trainer.devices=1"],
        ["launcher=local", "optimizer.lr=1e-3,1e-2"],
        ["launcher=slurm", "hparams_search=optuna", "trainer=fsdp"],
        ["launcher=null", "trainer=ddp"],
    ],
)
def test_other_sweeps_are_not(args: list[str]) -> None:
    check_sweep(args)
