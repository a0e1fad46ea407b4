"""The report on an instruction-tuned model: its answers to the test split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlit.data.entry import Entry, chat_field
from gptlit.evaluation.answers import ANSWER, write_answers
from gptlit.evaluation.text_scores import score_answers
from gptlit.inference.api import LanguageModel
from gptlit.journal import digest

ANSWERS = "instruction-data-with-response.json"


def answer_entries(
    model: LanguageModel,
    entries: list[Any],
    path: Path,
    checkpoint: Path,
    settings: dict[str, int],
    warn: Callable[[str], object] = lambda _: None,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Answer entries, and say how good the answers are.

    Args:
        model: of an instruction task.
        entries: of `InstructionDataModule.splits`.
        path: the JSON file to write; answers in the journal beside it are reused.
        checkpoint: the file that the model was loaded from.
        settings: `max_new_tokens` and `batch_size`.
        warn: called with a line, before the work, if prompts are too long.

    Returns:
        the entries with their answers, and scores such as "exact_match", see `score_answers`.
    """
    most = settings["max_new_tokens"]
    prompts = [
        model.wrap_prompt(one.instruction, one.input, one.history, most, one.system)
        for one in entries
    ]
    for line in model.told_of_cut(prompts):
        warn(line)
    state = checkpoint.stat()
    answered = write_answers(
        model.model,
        model.tokenizer,
        prompts,
        [_with_parts(entry) for entry in entries],
        path,
        fingerprint=digest([state.st_size, state.st_mtime_ns, model.device, model.precision]),
        stop=model.trained.stop,
        show_progress=True,
        **settings,
    )
    return answered, score_answers(answered)


def answers_others(path: Path, entries: list[Any]) -> bool:
    """Whether the file exists and holds anything but answers to these entries."""
    try:
        there = json.loads(path.read_bytes())
        asked = [{k: v for k, v in entry.items() if k != ANSWER} for entry in there]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError, TypeError, AttributeError):
        return True
    ours = [{k: v for k, v in _with_parts(entry).items() if k != ANSWER} for entry in entries]
    return digest(asked) != digest(ours)


def _with_parts(entry: Entry) -> dict[str, Any]:
    """An entry as it was in its file. A chat also gets an instruction, input and output, for a
    judge to read: the instruction is all that was said before the last answer. So it is for an
    entry with a history or a system message, which are then no fields of their own any more."""
    raw = entry.raw
    if not chat_field(raw):
        if not (entry.history or entry.system) and "instruction" in raw:
            return raw
        raw = {name: value for name, value in raw.items() if name not in ("history", "system")}
    parts = {"instruction": _transcript(entry), "input": entry.input, "output": entry.output}
    return {**raw, **parts}


def _transcript(entry: Entry) -> str:
    """The chat up to and including the last instruction; a chat of one turn is only that."""
    *before, (instruction, *_) = entry.turns
    if not before:
        return str(instruction)
    said = [f"User: {asked}\n\nAssistant: {answer}" for asked, answer, _ in before]
    return "\n\n".join([*said, f"User: {instruction}"])


def write_instruction_report(
    task: Any, data: Any, folder: Path, device: str, brief: bool
) -> Path | None:
    """Write the best checkpoint's answers to the test split, and add their scores to the metrics.

    Args:
        task: whose `final_metrics` get the scores.
        data: has the entries of the splits in `splits`.
        folder: the run folder.
        device: to answer on; the Trainer has moved the task itself to the CPU.
        brief: answer only the first entries, as many as go into a batch.

    Returns:
        the file of the answers, if there are any.
    """
    from gptlit.inference.checkpoint import load_trained
    from gptlit.inference.lookup import find_checkpoint

    settings = task.settings["answers"]
    if not settings["max_new_tokens"] or not data.splits["test"]:
        return None
    checkpoint = find_checkpoint(str(folder), task.name)
    model = LanguageModel(load_trained(checkpoint), device)
    path = folder / ANSWERS
    entries = data.splits["test"][: settings["batch_size"] if brief else None]
    _, scores = answer_entries(model, entries, path, checkpoint, settings)
    task.final_metrics.update({f"test/{name}": value for name, value in scores.items()})
    return path
