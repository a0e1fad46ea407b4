"""What the machine has: its devices, the number formats they are fast in, and their peak rate."""

import platform
import re
import time
from pathlib import Path
from typing import Literal

import torch

from gptlit.errors import UserError

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
"""Our names for Lightning's precision plugins; weights stay in fp32 in all of them."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""PyTorch's names for the formats."""
PEAK_S = 0.05
"""Seconds for which the peak rate is measured."""
GPU_TFLOPS = {
    r"H100 80GB HBM3|H200": (494.7, 989.4),
    r"H100 NVL|H200 NVL": (417.5, 835.0),
    r"H100 PCIe": (378.0, 756.0),
    r"A100-(SXM4|PCIE)-[48]0GB|A100 80GB PCIe": (156.0, 312.0),
    r"A30": (82.0, 165.0),
    r"A10": (62.5, 125.0),
    r"A40": (74.8, 149.7),
    r"RTX A6000": (77.4, 154.8),
    r"L4": (60.0, 121.0),
    r"L40": (90.5, 181.0),
    r"L40S": (183.0, 362.0),
    r"RTX 3080": (29.8, 59.5),
    r"RTX 3090": (35.6, 71.0),
    r"RTX 4080": (48.7, 97.5),
    r"RTX 4090": (82.6, 165.2),
    r"RTX 5080": (56.3, 112.6),
    r"RTX 5090": (104.8, 209.5),
    r"T4": (8.1, 65.0),
    r"V100-SXM2-(16|32)GB": (15.7, 125.0),
    r"V100-PCIE-(16|32)GB": (14.0, 112.0),
}
"""The names of GPUs, and their peak rates in 10^12 operations per second, as their maker gives them
for dense matrices with sums in fp32: for fp32 as it trains (in TF32, if the GPU has it), and for 16
bits. Source: NVIDIA's data sheets and white papers; figures for sparse matrices are halved."""


def available_devices() -> list[str]:
    """Names of the kinds of device that this machine has, fastest first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]


def resolve_device(name: str | torch.device) -> str:
    """The name of a kind of device; `auto` is the fastest one there is.

    Raises:
        UserError: the machine lacks the device, or one of several is named by its number.
    """
    have, name = available_devices(), str(name)
    if name == "auto":
        return have[0]
    kind, _, number = name.partition(":")
    if number and kind in have:
        chosen = f" and the variable CUDA_VISIBLE_DEVICES={number}" if kind == "cuda" else ""
        raise UserError(f"device={name}: a device is named by its kind alone, use {kind}{chosen}")
    if name not in have:
        raise UserError(
            f"device={name} is not available: this machine has {', '.join(have)}"
            f" (torch {torch.__version__}); use device={have[0]} or device=auto"
        )
    return name


def device_count(device: str) -> int | None:
    """How many devices of a kind this machine has; None for the CPU, which any number of processes
    may share."""
    if device == "cpu":
        return None
    return torch.cuda.device_count() if device == "cuda" else 1


def fast_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 faster than fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        # Intel's cores multiply bf16 in AMX. If a hypervisor hides that, their AVX-512 instructions
        # for bf16 are half as fast as fp32; on AMD's cores, these are twice as fast.
        intel = "Intel" in (_cpuinfo("vendor_id") or platform.processor())
        return torch.cpu._is_amx_tile_supported() or (cpu_has_bf16() and not intel)
    return False


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for bf16: weights of 16 bits then need no conversion."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_precision(name: str, device: str) -> str:
    """`auto` is the fastest format that trains well on the device.

    Raises:
        UserError: the device lacks the format.
    """
    if name == "auto":
        if fast_bf16(device):
            return "bf16"
        return "fp16" if device == "cuda" else "fp32"
    if name == "bf16" and device == "cuda" and not fast_bf16(device):
        gpu = torch.cuda.get_device_name()
        raise UserError(f"precision=bf16 is not available on {gpu}; use fp16 or fp32")
    if name == "fp16" and device != "cuda":
        raise UserError(
            f"precision=fp16 trains on CUDA only, not on {device}; use precision=bf16 or fp32"
        )
    return name


def products(precision: str, device: str) -> str:
    """The number format of products in a training precision; neither argument is "auto".

    An x86 CPU that multiplies bf16 no faster than fp32 is best left to multiply fp32; bf16 then
    saves memory instead, see `gptlit.model.saved`. For other CPUs this is not known.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    slow = device == "cpu" and x86 and not fast_bf16("cpu")
    return "fp32" if slow and precision == "bf16" else precision


def device_name(device: str) -> str:
    """The device as its maker calls it, for reports."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    if device == "cpu" and (model := _cpuinfo("model name")):
        threads = torch.get_num_threads()
        return f"{model} ({threads} thread{'s' * (threads > 1)})"
    return f"{device} ({platform.processor() or platform.machine()})"


def _cpuinfo(field: str) -> str:
    """What Linux says about the first CPU; "" elsewhere."""
    return _linux_says(Path("/proc/cpuinfo"), field)


def _linux_says(path: Path, field: str) -> str:
    """The first value of a field in a file of Linux's /proc; "" elsewhere."""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def peak_flops(device: str, precision: str) -> float:
    """Peak floating-point operations per second of one device in a training precision.

    Published figures for known GPUs; otherwise the rate of the fastest of the matrix products that
    there is time for in `PEAK_S`.
    """
    dtype = DTYPES[products(precision, device)]
    if device == "cuda":
        name = re.sub(r"^((NVIDIA|Tesla|GeForce) )+", "", torch.cuda.get_device_name())
        # The whole name must match: a slice of an H100 (MIG) or a laptop's RTX 4090 is slower.
        known = [rates for gpu, rates in GPU_TFLOPS.items() if re.fullmatch(gpu, name)]
        if known:
            return known[0][dtype != torch.float32] * 1e12
    n = 768 if device == "cpu" else 4096
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)

    def product_s() -> float:
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        return time.perf_counter() - start

    product_s()  # the first one also sets up the library and the device
    end = time.perf_counter() + PEAK_S
    best = product_s()
    while time.perf_counter() < end:
        best = min(best, product_s())
    return 2 * n**3 / best


def peak_memory_gb(device: str) -> float:
    """Most memory held so far in GB (10^9 bytes): allocated on the GPU, or resident on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    if device == "mps":
        return torch.mps.driver_allocated_memory() / 1e9
    # On Linux, getrusage never reports less than what the parent process held when it started this
    # one.
    if peak := _linux_says(Path("/proc/self/status"), "VmHWM"):
        return int(peak.removesuffix("kB")) * 1024 / 1e9
    import resource

    rusage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rusage * (1 if platform.system() == "Darwin" else 1024) / 1e9
