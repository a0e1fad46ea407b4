"""Devices and number formats: what is chosen, and what is refused."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlit import device as device_module
from gptlit.device import (
    available_devices,
    cpu_has_bf16,
    device_name,
    peak_flops,
    peak_memory_gb,
    products,
    resolve_device,
    resolve_precision,
)
from gptlit.errors import UserError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend to be on a machine with these devices and fast number formats."""

    def pretend(
        cuda: bool = False,
        mps: bool = False,
        bf16: bool = False,
        amx: bool = False,
        vendor: str = "AuthenticAMD",
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla V100")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(device_module, "_cpuinfo", lambda field: vendor)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "found"),
    [
        (False, False, ["cpu"]),
        (True, False, ["cuda", "cpu"]),
        (False, True, ["mps", "cpu"]),
        (True, True, ["cuda", "mps", "cpu"]),
    ],
)
def test_auto_is_the_fastest_there_is(
    machine: Any, cuda: bool, mps: bool, found: list[str]
) -> None:
    machine(cuda=cuda, mps=mps)
    assert available_devices() == found
    assert resolve_device("auto") == found[0]
    assert [resolve_device(name) for name in found] == found


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_a_missing_device_is_answered_with_those_there_are(machine: Any, name: str) -> None:
    machine()
    with pytest.raises(UserError) as caught:
        resolve_device(name)
    line = str(caught.value)
    assert f"device={name} is not available: this machine has cpu" in line
    assert "device=cpu or device=auto" in line


@pytest.mark.parametrize(
    ("device", "bf16", "asked", "given"),
    [
        ("cpu", False, "auto", "fp32"),
        ("cpu", True, "auto", "bf16"),
        ("cuda", True, "auto", "bf16"),
        ("cuda", False, "auto", "fp16"),
        ("mps", False, "auto", "fp32"),
        ("mps", True, "auto", "fp32"),
        ("cpu", False, "bf16", "bf16"),
        ("cpu", True, "fp32", "fp32"),
        ("cuda", True, "fp16", "fp16"),
        ("cuda", False, "fp32", "fp32"),
        ("cpu", False, "fp16", None),
        ("mps", False, "fp16", None),
        ("cuda", False, "bf16", None),
    ],
)
def test_the_format_that_trains_well(
    machine: Any, device: str, bf16: bool, asked: str, given: str | None
) -> None:
    machine(cuda=device == "cuda", mps=device == "mps", bf16=bf16)
    if given is None:
        with pytest.raises(UserError, match=rf"precision={asked} .*use .*fp32"):
            resolve_precision(asked, device)
    else:
        assert resolve_precision(asked, device) == given


@pytest.mark.parametrize(
    ("vendor", "bf16", "amx", "given"),
    [
        ("GenuineIntel", True, True, "bf16"),
        ("GenuineIntel", True, False, "fp32"),
        ("AuthenticAMD", True, False, "bf16"),
        ("AuthenticAMD", False, False, "fp32"),
    ],
)
def test_instructions_for_bf16_are_not_always_faster(
    machine: Any, vendor: str, bf16: bool, amx: bool, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(bf16=bf16, amx=amx, vendor=vendor)
    monkeypatch.setattr("platform.machine", lambda: "AMD64")  # as Windows has it
    assert resolve_precision("auto", "cpu") == given
    assert cpu_has_bf16() == bf16
    assert (products("bf16", "cpu"), products("fp32", "cpu")) == (given, "fp32")
    assert products("bf16", "cuda") == "bf16"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert products("bf16", "cpu") == "bf16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_this_cpu_has_a_peak(precision: str) -> None:
    assert 1e8 < peak_flops("cpu", precision) < 1e15


def test_what_the_first_product_sets_up_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = itertools.chain([10.0], itertools.repeat(0.01))
    now = 0.0

    def wait(product: torch.Tensor) -> None:
        nonlocal now
        now += next(takes)

    monkeypatch.setattr("torch.Tensor.item", wait)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert peak_flops("cpu", "fp32") == pytest.approx(2 * 768**3 / 0.01)


@pytest.mark.parametrize(
    ("name", "fp32", "half"),
    [
        ("NVIDIA A100-SXM4-80GB", 156e12, 312e12),
        ("NVIDIA A100 80GB PCIe", 156e12, 312e12),
        ("NVIDIA H100 80GB HBM3", 494.7e12, 989.4e12),
        ("NVIDIA H200", 494.7e12, 989.4e12),
        ("NVIDIA L4", 60e12, 121e12),
        ("NVIDIA L40S", 183e12, 362e12),
        ("NVIDIA A40", 74.8e12, 149.7e12),
        ("NVIDIA GeForce RTX 4090", 82.6e12, 165.2e12),
        ("Tesla T4", 8.1e12, 65e12),
    ],
)
def test_a_known_gpu_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, name: str, fp32: float, half: float
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch, "randn", None)
    assert [peak_flops("cuda", precision) for precision in ("fp32", "bf16", "fp16")] == [
        pytest.approx(fp32),
        pytest.approx(half),
        pytest.approx(half),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX A4000",
        "NVIDIA RTX A1000",
        "NVIDIA A10G",
        "AMD Instinct MI300X",
    ],
)
def test_a_gpu_whose_name_only_looks_known_is_measured(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class MeasuredError(Exception):
        pass

    def measured(*_: Any, **__: Any) -> None:
        raise MeasuredError

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch, "randn", measured)
    with pytest.raises(MeasuredError):
        peak_flops("cuda", "bf16")


def test_this_cpu_has_a_name_and_memory() -> None:
    assert device_name("cpu")
    assert 0.05 < peak_memory_gb("cpu") < 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it")
def test_peak_memory_is_not_that_of_the_process_that_started_this_one() -> None:
    parent = """
import subprocess, sys
held = bytearray(2**30)
child = "from gptlit.device import peak_memory_gb; print(peak_memory_gb('cpu'))"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=True
    )
    assert 0.05 < float(done.stdout) < 1
