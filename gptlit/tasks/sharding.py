"""A task whose parameters are spread over the processes of a mesh (FSDP2).

Source: Rajbhandari et al. 2020, "ZeRO", stage 3; Zhao et al. 2023, "PyTorch FSDP".
"""

from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from gptlit.model.block import TransformerBlock

STEPS = ("training_step", "validation_step", "test_step")


def shard(task: nn.Module, mesh: DeviceMesh) -> None:
    """Leave each process its part of every parameter, in place. A second call changes nothing.

    A block's parameters are whole while the block runs, all others while a step of the task runs.

    Args:
        task: a module with the methods `STEPS` and `TransformerBlock`s anywhere inside.
        mesh: the processes, in one dimension.
    """
    if isinstance(task, FSDPModule):
        return
    for block in [part for part in task.modules() if isinstance(part, TransformerBlock)]:
        fully_shard(block, mesh=mesh)
        register_fsdp_forward_method(block, "at")
    fully_shard(task, mesh=mesh)
    for step in STEPS:
        register_fsdp_forward_method(task, step)


def whole_state(task: nn.Module, *, first_only: bool = False) -> dict[str, Any] | None:
    """The state dict of a sharded task with whole tensors; None if it is not sharded. All processes
    call this together.

    Args:
        task: any.
        first_only: keep the tensors only on the CPU of the first process, and give the others an
            empty dict; else they take as much memory on each device as an unsharded task.
    """
    if not isinstance(task, FSDPModule):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=first_only)
    return get_model_state_dict(task, options=options)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
