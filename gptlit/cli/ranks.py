"""One command line, and one run folder, for all processes that torchrun or Slurm start.

Each of them is started with the user's command. If each one read it for itself, it could mean
different things: the run folder is named after the time, and `resume=auto` looks at what is there.
So the first process reads it, and tells the others the result, through the store in which the
processes of torch.distributed find each other.
"""

import contextlib
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gptlit.cli.arguments import NOTHING, overrides_by_key
from gptlit.errors import UserError
from gptlit.training.launch import Launch, launched

PATIENCE = timedelta(minutes=10)
"""How long the others wait for the first process."""
SECONDS_TO_HEAR = 10.0
"""How long the first process, if it ends without a run, waits for the others to hear of it."""


@dataclass
class _First:
    """The state of the first process."""

    launch: Launch | None = None
    """Its place, if others wait for its command."""
    store: Any = None
    """Where they have read it. It is kept, since torch.distributed uses it too."""


_first = _First()


def follow() -> list[str] | None:
    """The arguments that the first process has settled on; None in the first process itself, and
    if no launcher has started several.

    Ends this process if the first one has ended without a run; that one has printed why.

    Raises:
        UserError: nothing was heard from the first process; or Slurm has not started the others,
            or was not told how many go to each machine, which Lightning wants to know.
    """
    launch = launched()
    if launch is None or launch.world_size == 1:
        return None
    if launch.by == "srun":
        _check_tasks(launch)
    if launch.rank == 0:
        _first.launch = launch
        return None
    from torch.distributed import DistError

    try:
        store = _connect(launch)
        args = json.loads(store.get("command"))
    except DistError as error:
        raise UserError(
            f"process {launch.rank} of {launch.world_size} has heard nothing of process 0:"
            f" {str(error).splitlines()[0]}; look at its output, and at the network between them"
        ) from error
    store.add("heard", 1)
    if args is None:
        sys.exit(0)
    return [str(arg) for arg in args]


def _check_tasks(launch: Launch) -> None:
    if "SLURM_STEP_ID" not in os.environ:
        raise UserError(
            f"this Slurm job has {launch.world_size} tasks, and without srun only one process was"
            " started: put srun before python, or ask for --ntasks=1 and more --cpus-per-task"
        )
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        if launch.rank:
            sys.exit(2)
        each = -(-launch.world_size // launch.nodes)
        raise UserError(
            f"Slurm has started {launch.world_size} tasks by --ntasks alone: give"
            f" --nodes={launch.nodes} --ntasks-per-node={each} instead"
        )


def check_sweep(args: list[str]) -> None:
    """Refuse searches and launchers that each process of a run would start for itself, and runs of
    one sweep that differ in their processes, which go on from run to run.

    Raises:
        UserError: the arguments ask for one of these, and for several processes.
    """
    given = overrides_by_key(args)
    several = (
        given.get("trainer", "default") != "default" or given.get("trainer.devices", "1") != "1"
    )
    if not several or given.get("launcher") == "slurm":  # Slurm starts each run by itself
        return
    for key in ("trainer", "trainer.devices", "trainer.num_nodes", "trainer.strategy"):
        value = given.get(key, "").replace("'", "")
        if "--multirun" in args and re.search("[,(]", value):
            raise UserError(
                f"{key}={value}: all runs of a sweep have the same processes, unless"
                " launcher=slurm starts them: give each value in a command of its own"
            )
    for key in ("hparams_search", "launcher"):
        if (option := given.get(key)) not in NOTHING:
            raise UserError(
                f"{key}={option} is for runs of one process, unless launcher=slurm starts them:"
                " leave out trainer=... and trainer.devices=..., or sweep with -m KEY=VALUE,VALUE"
            )


def lead(*settled: str) -> None:
    """Tell the others to run this process's command, with the `settled` overrides added; only the
    first call counts, and only in the first process."""
    if _first.launch is not None and _first.store is None:
        # Otherwise their configs would overwrite that of the first process.
        _tell([*sys.argv[1:], *settled, "hydra.output_subdir=null"], _first.launch)


def release() -> None:
    """If the others are still waiting for a command, tell them that there is no run, so that they
    end."""
    if _first.launch is None or _first.store is not None:
        return
    from torch.distributed import DistError

    with contextlib.suppress(DistError):
        store = _tell(None, _first.launch)
        end, others = time.monotonic() + SECONDS_TO_HEAR, _first.launch.world_size - 1
        while store.add("heard", 0) < others and time.monotonic() < end:
            time.sleep(0.05)


def _tell(args: list[str] | None, launch: Launch) -> Any:
    _first.store = _connect(launch)
    _first.store.set("command", json.dumps(args))
    return _first.store


def _connect(launch: Launch) -> Any:
    """The store in which Lightning's processes will meet, or one on the port that it will have."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    if launch.by == "torchrun":
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    else:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment()
        address, port = slurm.main_address, slurm.main_port
    agent_has_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        address,
        port,
        is_master=launch.rank == 0 and not agent_has_it,
        timeout=PATIENCE,
        wait_for_workers=False,
        multi_tenant=True,
    )
    # torchrun may start all processes again, and keep the store.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"gptlit/{attempt}", store)
