"""As much of Slurm as one machine can play: sbatch, srun, scontrol and sacct in one file.

Its first argument says which it is. Each task of an array is started on the spot, and gets the
variables that Slurm gives. The first one of all is sent the signal of its time limit, once it has
written the file called $SLURM_STUB_LIMIT.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ.get("SLURM_STUB_STATE", "."))
FIRST = 100
"""The number of the first job; the next one's is one more."""


def with_slurm(folder: Path, python: Path, **more: str) -> dict[str, str]:
    """The environment of a machine that has it, and where scripts run in `python`; its programs and
    their state lie in `folder`."""
    programs = folder / "slurm" / "bin"
    programs.mkdir(parents=True)
    commands = {name: f'"{__file__}" {name}' for name in ("sbatch", "srun", "scontrol", "sacct")}
    for name, arguments in commands.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    (programs / "python").symlink_to(python)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "SLURM_STUB_STATE": str(programs.parent), **more}


def wait_for_job(folder: Path) -> None:
    """Until the first job that was submitted from `folder` has ended well."""
    code = folder / "slurm" / f"exit-{FIRST}_0"
    while not (code.is_file() and code.read_text()):
        time.sleep(0.1)
    assert code.read_text() == "0", (folder / f"slurm-{FIRST}.out").read_text()


def sbatch(script: str) -> None:
    """Start the tasks of an array in the background."""
    job = str(FIRST + len(list(STATE.glob("job-*.sh"))))
    copy = _script(job)  # what is in the file later does not matter
    copy.write_text(Path(script).read_text())
    last = re.search(r"^#SBATCH --array=0-(\d+)", copy.read_text(), re.MULTILINE)
    for task in range(int(last[1]) + 1 if last else 1):
        command = [sys.executable, __file__, "node", job, str(task)]
        with Path(f"slurm-{job}.out").open("a") as output:
            subprocess.Popen(command, start_new_session=True, stdout=output, stderr=output)
    print(f"Submitted batch job {job}")


def node(job: str, task: str) -> None:
    """Run one task of a job, again for as long as it asks for that."""
    variables = {
        "SLURM_JOB_ID": job,
        "SLURM_ARRAY_JOB_ID": job,
        "SLURM_ARRAY_TASK_ID": task,
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NNODES": "1",
    }
    requeued = [STATE / f"requeue-{name}" for name in (job, f"{job}_{task}")]
    for restarts in range(5):
        again = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        env = {**os.environ, **variables, **again}
        done = subprocess.run(["bash", str(_script(job))], env=env, check=False)
        asked = [path for path in requeued if path.exists()]
        if not asked:
            (STATE / f"exit-{job}_{task}").write_text(str(done.returncode))
            return
        asked[0].unlink()


def srun(*args: str) -> None:
    """Run a command in a process of Slurm's, and tell it about its time limit."""
    at = next(i for i, arg in enumerate(args) if "python" in arg)
    options = dict(zip(args[1:at:2], args[2:at:2], strict=True))  # after --unbuffered
    job, task = os.environ["SLURM_JOB_ID"], os.environ["SLURM_ARRAY_TASK_ID"]
    limit = Path(os.environ.get("SLURM_STUB_LIMIT", "."))
    before = _written(limit)
    process = subprocess.Popen(
        args[at:],
        stdout=_opened(options.get("--output"), job, task),
        stderr=_opened(options.get("--error"), job, task),
        env=os.environ
        | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    )
    asked = re.search(r"--signal=(\w+)@", _script(job).read_text())
    first = (job, task) == (str(FIRST), "0")
    waits = first and asked and "SLURM_RESTART_COUNT" not in os.environ
    while process.poll() is None:
        if waits and asked and _written(limit) != before:
            process.send_signal(signal.Signals[f"SIG{asked[1]}"])
            waits = False
        time.sleep(0.02)
    sys.exit(process.returncode)


def _script(job: str) -> Path:
    """The copy of what was submitted as this job."""
    return STATE / f"job-{job}.sh"


def _written(path: Path) -> int:
    """When a file was, in ns; 0 if there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def _opened(name: str | None, job: str, task: str) -> int | None:
    if name is None:
        return None
    values = {"%A": job, "%a": task, "%t": "0"}
    path = re.sub("%[Aat]", lambda found: values[found[0]], name)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def scontrol(action: str, job: str) -> None:
    """requeue alone."""
    assert action == "requeue"
    (STATE / f"requeue-{job}").touch()


def sacct(*_: str) -> None:
    """Nothing is known yet, which submitit takes for a job that is waiting."""
    print("JobID|State|NodeList")


if __name__ == "__main__":
    programs = (sbatch, srun, scontrol, sacct, node)
    {program.__name__: program for program in programs}[sys.argv[1]](*sys.argv[2:])
