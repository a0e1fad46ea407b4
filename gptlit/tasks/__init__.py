"""One file per task: what is trained, what the loss is, what is measured."""

from gptlit.tasks.base import StepStats, Task, task_class

__all__ = ["StepStats", "Task", "task_class"]
