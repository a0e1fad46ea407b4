"""A task whose parameters are spread over two processes, and whole again."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from gptlit.tasks.pretrain import PretrainTask
from gptlit.tasks.sharding import shard

SHAPE = {"vocab_size": 30, "context_length": 12, "emb_dim": 16, "n_heads": 2, "n_layers": 2}


def make_task() -> PretrainTask:
    torch.manual_seed(0)
    return PretrainTask(model=SHAPE, tokenizer="byte")


def gather(rank: int, folder: Path, first_only: bool) -> None:
    """One of two processes: shards the task, and saves what it gets of the whole."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    task = make_task()
    shard(task, init_device_mesh("cpu", (2,)))
    assert all(isinstance(block, FSDPModule) for block in task.model.trf_blocks)  # each by itself
    whole = task.whole_on_first() if first_only else task.whole()
    torch.save(whole and whole.state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("first_only", [True, False])
def test_a_sharded_task_is_whole_again_where_it_is_wanted(first_only: bool, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    multiprocessing.start_processes(
        gather, args=(tmp_path, first_only), nprocs=2, start_method="fork"
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first, dict(make_task().state_dict()), rtol=0, atol=0)
    assert second is None if first_only else second.keys() == first.keys()


def test_a_task_that_is_not_sharded_is_whole() -> None:
    task = make_task()
    assert task.whole() is task and task.whole_on_first() is task
