"""Who started this process: torchrun or Slurm, which start all processes of a run; or the user,
who starts one, and Lightning the others."""

import os
from dataclasses import dataclass
from typing import Any

from gptlit.errors import UserError

OPTIONS = {
    "torchrun": "torchrun's --nproc-per-node and --nnodes",
    "srun": "Slurm's --ntasks-per-node and --nodes",
}


@dataclass(frozen=True)
class Launch:
    """The place of a process among those that a launcher has started."""

    by: str
    """torchrun or srun."""
    rank: int
    world_size: int
    nodes: int


def launched() -> Launch | None:
    """The launcher's word on this process; None where it was not started by one."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:  # also inside a Slurm job
        world = int(env["WORLD_SIZE"])
        return Launch("torchrun", int(env["RANK"]), world, world // int(env["LOCAL_WORLD_SIZE"]))
    interactive = env.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "SLURM_PROCID" in env and "SLURM_NTASKS" in env and not interactive:
        nodes = int(env.get("SLURM_NNODES", 1))
        return Launch("srun", int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), nodes)
    return None


def first_process() -> bool:
    """Whether this is the one of a run's processes that writes its files; found out without
    importing Lightning, which decides by the same variables."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0)) == 0


def devices_and_nodes(settings: dict[str, Any]) -> tuple[int | str, int]:
    """What the config's `trainer` node means for the Trainer's `devices` and `num_nodes`: auto is
    what the launcher has started, and without one a single machine with all its devices.

    Raises:
        UserError: the launcher has started another number of processes than the config says; or
            several machines are to train, and no launcher has started processes on them.
    """
    devices, nodes, launch = settings["devices"], settings["num_nodes"], launched()
    if launch is None:
        nodes = 1 if nodes == "auto" else nodes
        if nodes > 1 and "MASTER_ADDR" not in os.environ:
            raise UserError(
                f"trainer.num_nodes={nodes}: nobody has started processes on other machines, and"
                " this one would wait for them in vain: leave it out, and start the command with"
                " torchrun or Slurm"
            )
        return devices, nodes
    found = launch.world_size // launch.nodes, launch.nodes
    wanted = (
        found[0] if devices == "auto" else devices,
        found[1] if nodes == "auto" else nodes,
    )
    if wanted != found:
        raise UserError(
            f"{launch.by} has started {found[0]} process(es) on each of {found[1]} machine(s), but"
            f" trainer.devices={devices} and trainer.num_nodes={nodes}: give trainer=ddp or"
            f" trainer=fsdp without these two keys, which then follow {OPTIONS[launch.by]}"
        )
    return wanted
