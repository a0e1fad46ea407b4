"""Who started this process: torchrun or Slurm, which start all processes of a run; or the user,
who starts the first one, and Lightning, which starts the others."""

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
    """The place that the launcher gave this process; None if no launcher started it."""
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
    """Whether this is the process that writes a run's files. Decided without importing Lightning,
    by the environment variables that it uses too."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0)) == 0


def devices_and_nodes(settings: dict[str, Any]) -> tuple[int | str, int]:
    """The Trainer's `devices` and `num_nodes`, from the config's `trainer` node: auto means what
    the launcher has started or, without a launcher, one machine with all of its devices.

    Raises:
        UserError: the launcher has started another number of processes than the config asks for,
            or the config asks for several machines and no launcher has started processes on them.
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
