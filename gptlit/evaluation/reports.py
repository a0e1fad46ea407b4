"""The reports that a finished run writes besides its checkpoints, by task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlit.evaluation.classification import write_classification_report
from gptlit.evaluation.instruction import write_instruction_report
from gptlit.tasks import Task

REPORTS: dict[str, Callable[[Any, Any, Path, str, bool], Path | None]] = {
    "classification": lambda task, data, folder, *_: write_classification_report(
        task, data, folder
    ),
    "instruction": write_instruction_report,
}


def write_report(task: Task, data: Any, folder: Path, device: str, brief: bool) -> Path | None:
    """Write the task's tables and plots into the run folder; tasks without any write nothing.

    What still has to be computed is computed on `device`, which the run used; if `brief`, only a
    batch of it.

    Returns:
        the file with the test results of each text, if there is one.
    """
    report = REPORTS.get(task.name)
    return report(task, data, folder, device, brief) if report else None
