"""What a finished run leaves beside its checkpoints, by the kind of its task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlit.evaluation.classification import write_classification_report
from gptlit.evaluation.instruction import write_instruction_report
from gptlit.tasks import Task

REPORTS: dict[str, Callable[[Any, Any, Path, str], Path | None]] = {
    "classification": lambda task, data, folder, _: write_classification_report(task, data, folder),
    "instruction": write_instruction_report,
}


def write_report(task: Task, data: Any, folder: Path, device: str) -> Path | None:
    """Write the task's tables and plots into the run folder; tasks without any write nothing.

    What has still to be computed is on `device`, which the run was on.

    Returns:
        the table of what the test came to text by text, if there is one.
    """
    report = REPORTS.get(task.name)
    return report(task, data, folder, device) if report else None
