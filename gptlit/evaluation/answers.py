"""Answers of a model to instructions, written to a file and saved as they come.

The file has the form of the book's `instruction-data-with-response.json` (Raschka 2025, section
7.7): a list of the entries, each with its answer under `model_response`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptlit.files import replacing
from gptlit.inference.generation import Prompt, Sampling, encode_prompt, generate_text
from gptlit.journal import Journal, cannot_write, digest, progress_path
from gptlit.model import GPTModel
from gptlit.tokenizer import Tokenizer

ANSWER = "model_response"
"""The key of an entry that holds the model's answer."""


def write_answers(
    model: GPTModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    entries: Sequence[dict[str, Any]],
    path: Path,
    *,
    fingerprint: str,
    batch_size: int,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    show_progress: bool = False,
) -> list[dict[str, Any]]:
    """Let a model answer each prompt, greedily, and write the entries with their answers.

    Prompts of similar length are answered together, the longest first. Answers are saved as they
    come in a JSONL file beside `path`. After an interruption the next run resumes there, in the
    same batches, so that the result is the same as without one; a run after a finished one has
    nothing left to do.

    Args:
        model: on the device and in the precision to decode with; it is left in the mode it came in.
        tokenizer: of the model.
        prompts: what the model is to continue, one for each entry.
        entries: dicts as they were read; from Parquet they may hold dates, which are written as
            text.
        path: the JSON file to write; nothing incomplete ever gets this name.
        fingerprint: of the model. Answers by another model, or for other prompts, entries,
            `max_new_tokens` or `stop`, are not reused: the work starts anew.
        batch_size: prompts at once.
        max_new_tokens: most tokens per answer; end-of-text stops earlier.
        stop: strings that end an answer, not included.
        show_progress: draw a bar on a terminal.

    Returns:
        the entries in their order, each with its answer, stripped, under `model_response`.

    Raises:
        UserError: the files cannot be written.
        ValueError: there are not as many prompts as entries, or `batch_size` is less than 1.
    """
    if len(prompts) != len(entries):
        raise ValueError(f"{len(prompts)} prompts do not fit {len(entries)} entries")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    work = [fingerprint, list(prompts), list(entries), max_new_tokens, list(stop)]
    journal = Journal(progress_path(path), digest(work))
    answers: dict[int, str] = {row["entry"]: row["answer"] for row in journal.rows}
    with progress_bar(show_progress) as progress:
        bar = progress.add_task("answering", total=len(prompts))
        for batch in _batches(tokenizer, prompts, batch_size):
            # Batches do not depend on which answers are there already: padding may decide between
            # two tokens that are almost equally likely.
            if not answers.keys() >= set(batch):
                texts = generate_text(
                    model, tokenizer, [prompts[i] for i in batch], max_new_tokens, Sampling(), stop
                )
                new = {i: text.strip() for i, text in zip(batch, texts, strict=True)}
                journal.add({"entry": i, "answer": text} for i, text in new.items())
                answers.update(new)
            progress.advance(bar, len(batch))
    written = [{**entry, ANSWER: answers[i]} for i, entry in enumerate(entries)]
    write_json(path, written)
    return written


def _batches(tokenizer: Tokenizer, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Indices of the prompts in batches, the longest first, so that batches need little padding and
    a lack of memory shows at once."""
    length = [len(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -length[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, in a folder that exists, as a whole or not at all. Values without a JSON
    type are written as text.

    Raises:
        UserError: it cannot be written.
    """
    # UTF-8 cannot hold half a surrogate pair; Python's escape of one is JSON's.
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    try:
        with replacing(path) as draft:
            draft.write_bytes(text.encode("utf-8", "backslashreplace") + b"\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def progress_bar(show: bool) -> Progress:
    """A bar on the terminal: how many are done, and the time left."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (show and console.is_terminal),
    )
