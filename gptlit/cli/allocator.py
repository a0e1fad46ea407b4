"""A memory allocator that keeps what it has.

On Linux, glibc's malloc hands every large buffer back to the kernel when it is freed, and a
training step pays page faults for the next one. If malloc is told, before the process starts, to
keep freed memory and to use huge pages, a CPU training step is up to 1.6 times as fast, at the cost
of some tenths of a gigabyte of resident memory.

The heap then has to fit each step's buffers into the holes that the last step's buffers have left.
Aligning a buffer cuts slivers off its ends. malloc puts such small pieces aside for the next small
request, which then separates two large holes for good, and neither is ever large enough again.
Without these stores of small pieces, slivers go back to the holes that they came from, and a run's
resident memory does not grow after its second step.
"""

import os
import platform
import sys

OFF = "GPTLIT_ALLOCATOR"
"""Environment variable; `system` leaves malloc as it is."""

_TUNABLES = {
    "glibc.malloc.hugetlb": 1,  # ask for transparent huge pages
    "glibc.malloc.mmap_max": 0,  # give no buffer a mapping of its own, which free() would unmap
    "glibc.malloc.mmap_threshold": 2**33,
    "glibc.malloc.trim_threshold": 2**34,  # do not give the top of the heap back
    "glibc.malloc.tcache_count": 0,  # put no small pieces aside, neither for one thread
    "glibc.malloc.mxfast": 0,  # nor for all threads
}


def tunables() -> str:
    """The value of GLIBC_TUNABLES that a training process is started with."""
    return ":".join(f"{name}={value}" for name, value in _TUNABLES.items())


def restart_with_tuned_malloc() -> None:
    """Replace this process by itself with the allocator set. Returns if that does not apply: there
    is no glibc, another allocator is preloaded, or malloc is tuned already."""
    env = os.environ
    ours_to_set = (
        platform.system() == "Linux"
        and platform.libc_ver()[0] == "glibc"
        and "glibc.malloc" not in env.get("GLIBC_TUNABLES", "")
        and not env.get("LD_PRELOAD")
        and env.get(OFF) != "system"
    )
    if ours_to_set:
        before = env.get("GLIBC_TUNABLES")
        env["GLIBC_TUNABLES"] = f"{before}:{tunables()}" if before else tunables()
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
