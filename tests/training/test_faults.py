"""Each fault ends in a line that names the cure; all else stays what it is."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._utils import ExceptionWrapper

from gptlit.cli.mistakes import one_line
from gptlit.errors import UserError
from gptlit.training.faults import DivergedError, enough_memory, explained


def config(**changes: Any) -> dict[str, Any]:
    values = {"batch": 8, "length": 256, "checkpointing": False, "precision": "bf16", "steps": 2}
    values |= changes
    return {
        "data": {"batch_size": values["batch"]},
        "trainer": {"accumulate_grad_batches": values["steps"]},
        "model": {
            "context_length": values["length"],
            "activation_checkpointing": values["checkpointing"],
        },
        "device": {"name": "cpu"},
        "precision": {"name": values["precision"]},
    }


def line(error: BaseException, given: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as caught, explained(given or config(), Path("run")):
        raise error
    assert caught.value.__cause__ is error  # whose traceback debug=true shows
    assert "\n" not in str(caught.value)
    return str(caught.value)


def real_cpu_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def test_a_line_of_a_process_that_loads_batches_stays_one() -> None:
    try:
        raise UserError("a.bin is damaged; delete it")
    except UserError:
        there = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(UserError) as caught:
        there.reraise()
    assert line(caught.value) == "a.bin is damaged; delete it"
    with pytest.raises(UserError, match=r"^two\nlines$"), explained(config(), Path("run")):
        raise UserError("two\nlines")


OUT_OF_MEMORY = {
    "cuda": (
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23 GiB\n"
        ),
        "it tried to allocate 2.50 GiB",
    ),
    "cublas": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling",
    ),
    "mps": (
        RuntimeError(
            "MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 256.00 MB on pool."
        ),
        "it tried to allocate 256.00 MB",
    ),
    "cpu": (real_cpu_error(), "it tried to allocate 1.2e+09 GB"),
    "numpy": (
        np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(np.float32)),  # type: ignore[attr-defined]
        "Unable to allocate 4.00 TiB for an array",
    ),
    "python": (MemoryError(), "MemoryError"),
}


@pytest.mark.parametrize(("error", "said"), OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_names_three_options_in_order(error: BaseException, said: str) -> None:
    assert line(error).startswith(f"out of memory ({said}")
    assert line(error).endswith(
        "in this order: 1. data.batch_size=4 trainer.accumulate_grad_batches=4 (the same steps);"
        " 2. model.context_length=128; 3. model.activation_checkpointing=true (the same steps,"
        " slower)"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch": 1}, "1. model.context_length=128; 2. model.activation_checkpointing=true"),
        ({"batch": 15}, "1. data.batch_size=5 trainer.accumulate_grad_batches=6 (the same steps)"),
        ({"batch": 7}, "1. data.batch_size=1 trainer.accumulate_grad_batches=14 (the same steps)"),
        ({"checkpointing": True, "precision": "fp32"}, "3. precision=bf16"),
        ({"checkpointing": True}, "3. a smaller model=..."),
    ],
)
def test_what_is_done_already_is_not_named(changes: dict[str, Any], expected: str) -> None:
    assert expected in line(MemoryError(), config(**changes))


@pytest.mark.parametrize(("fast", "named"), [(False, "3. precision=bf16"), (True, "3. a smaller")])
def test_auto_that_became_fp32_may_still_become_bf16(
    fast: bool, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlit.device.fast_bf16", lambda device: fast)
    assert named in line(MemoryError(), config(checkpointing=True, precision="auto"))


def test_data_of_other_kinds_may_have_no_batch_size() -> None:
    given = config()
    given["data"] = {}
    assert "1. model.context_length" in line(MemoryError(), given)


@pytest.mark.parametrize(
    ("given", "kind", "cure"),
    [
        ({"batch_size": 32}, "cuda", "try batch_size=16 or device=cpu or a smaller model"),
        ({"batch_size": 32, "prompts": "a.txt"}, "mps", "try batch_size=16 or device=cpu or"),
        ({"batch_size": 32, "prompts": None}, "cuda", "to allocate 2.50 GiB); try device=cpu or"),
        ({}, "cpu", "GB); try a smaller model"),
    ],
)
def test_a_trained_model_that_finds_no_memory(given: dict[str, Any], kind: str, cure: str) -> None:
    with pytest.raises(UserError, match=r"^out of memory \(") as caught, enough_memory(given):
        raise OUT_OF_MEMORY[kind][0]
    assert cure in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes differ"), enough_memory(given):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(number: int) -> None:
    said = line(OSError(number, os.strerror(number)))
    assert said.startswith(f"cannot write to run: {os.strerror(number)}; what was saved before is")
    assert "resume=auto" in said


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.ENOSPC, "Make space, then run the command again"), (errno.EROFS, "choose another pl")],
)
def test_a_full_disk_of_a_command_that_cannot_be_resumed(number: int, cure: str) -> None:
    told = one_line(OSError(number, "x", "answers.jsonl"), "generate")
    assert told is not None and cure in told and "resume" not in told and "output_root" not in told
    assert "resume=auto" in str(one_line(OSError(errno.ENOSPC, "x"), "train"))


def test_a_read_only_disk_is_named_by_the_file() -> None:
    said = line(OSError(errno.EROFS, "Read-only file system", "run/metrics.csv"))
    assert said.startswith("cannot write to run/metrics.csv: Read-only file system; choose output_")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "no such file"), RuntimeError("shapes differ"), KeyError("x")]
)
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained(config(), Path("run")):
        raise error
    assert caught.value is error


def test_divergence_names_the_step_the_causes_and_what_is_kept() -> None:
    said = str(DivergedError("loss is nan", 1200, "bf16", 0.01, 1000))
    assert said.startswith("the loss is nan at step 1,200: training has diverged;")
    assert "the checkpoint of step 1,000 is kept" in said
    assert "optimizer.lr=... (it was 0.01)" in said and "precision=bf16: try fp32" in said
    said = str(DivergedError("loss is nan", 5, "fp32"))
    assert "nothing is kept" in said and "precision" not in said
