"""python generate.py prompts=FILE: the completions of each line, in a file."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlit.cli.output import alone, check_unread
from gptlit.errors import UserError
from gptlit.files import replacing
from gptlit.journal import Journal, cannot_write, digest, progress_path

if TYPE_CHECKING:
    from gptlit.inference.api import LanguageModel


def read_prompts(path: str) -> list[str]:
    """The lines of a text file, plain or packed, whatever its name."""
    from gptlit.data.readers import PACKINGS, FileKind, existing, read_text
    from gptlit.data.rows import text_lines

    file = existing(path, "prompts")
    packing = file.suffix.lower()
    kind = FileKind(".txt", packing if packing in PACKINGS else "")
    lines = text_lines(read_text(file, kind))
    prompts = [line.rstrip("\r\n") for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"prompts={path} has no prompt: write one on each line")
    return prompts


def check_output(config: dict[str, Any], checkpoint: Path | None) -> None:
    """Refuse, before the work, an output that would overwrite what is read."""
    output = Path(config["output"])
    read = [Path(config["prompts"]).expanduser(), *([checkpoint] if checkpoint else [])]
    check_unread([output, progress_path(output)], read)


def complete_file(
    model: "LanguageModel",
    prompts: list[str],
    config: dict[str, Any],
    options: dict[str, Any],
    checkpoint: Path | None,
) -> None:
    """Continue each prompt `num_samples` times, in batches, into a JSONL file.

    The file gets its name once it is complete. Until then, what was done is in a journal beside it:
    after an interruption, the same command goes on from there, even with another batch size.

    Args:
        model: writes the completions.
        prompts: at least one.
        config: of generate.py.
        options: arguments of the model's `generate`, except for the seed.
        checkpoint: the model's file, None for a published model.
    """
    from rich.progress import track

    jobs = [prompt for prompt in prompts for _ in range(config["num_samples"])]
    size, output = config["batch_size"], Path(config["output"])
    state = checkpoint.stat() if checkpoint else None
    made_by = [state.st_size, state.st_mtime_ns] if state else [config["ckpt"], config["weights"]]
    made_by += [model.device, model.precision, config["seed"]]
    kept = progress_path(output)
    with alone(output, kept):
        journal = Journal(kept, digest([made_by, options, jobs]))
        done: dict[int, str] = {row["number"]: row["completion"] for row in journal.rows}
        try:
            starts = range(0, len(jobs), size)
            for start in track(starts, "generating", disable=not sys.stdout.isatty()):
                batch = jobs[start : start + size]
                numbers = range(start, start + len(batch))
                if done.keys() >= set(numbers):
                    continue
                texts = model.generate(batch, **options, seed=config["seed"] + start)
                rows = zip(numbers, batch, texts, strict=True)
                journal.add(
                    {"number": number, "prompt": prompt, "completion": text}
                    for number, prompt, text in rows
                )
                done.update(zip(numbers, texts, strict=True))
            _write(output, [(prompt, done[number]) for number, prompt in enumerate(jobs)])
        except BaseException as error:
            told = (
                f"{len(done)} of {len(jobs)} completions are kept in {kept}, and the same"
                " command goes on with them"
            )
            if not done and not journal.shared:
                kept.unlink(missing_ok=True)
            elif isinstance(error, UserError):
                raise UserError(f"{error}; {told}") from error
            else:
                print(f"interrupted: {told}", file=sys.stderr)
            raise
        if not journal.shared:  # else it also holds other completions, which were interrupted
            kept.unlink()
    print(f"{len(jobs)} completions written to {output}")


def _write(output: Path, completions: list[tuple[str, str]]) -> None:
    try:
        with replacing(output) as draft, draft.open("wb") as file:
            for prompt, completion in completions:
                line = {"prompt": prompt, "completion": completion}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise cannot_write(output, error) from error
