"""A corpus tokenized ahead of time into a folder of the user's: making it and opening it."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from gptlit.data.bytebar import ByteBar
from gptlit.data.corpus import Source
from gptlit.data.journal import PROGRESS, Journal, compare_sources
from gptlit.data.readers import looking_at
from gptlit.data.shards import (
    FORMAT,
    TokenizedCorpus,
    damaged_shards,
    open_corpus,
    read_manifest,
)
from gptlit.data.tokenizing import Plan
from gptlit.errors import UserError
from gptlit.tokenizer import Tokenizer

UNFINISHED = ".unfinished"
"""What a folder's name ends in until the corpus is complete."""


def prepare_corpus(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    out: Path,
    *,
    val_fraction: float,
    seed: int,
    shard_tokens: int,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> TokenizedCorpus:
    """Tokenize `sources` into the folder `out`; see `Plan` for these and for the settings.

    If a call is interrupted, in whatever way, the next one resumes its work, with the same result.
    A folder that holds this corpus already is checked against its hashes and kept. `say` is called
    with what a user may want to know.

    Raises UserError as `Plan` does, for a folder that holds something else or cannot be written,
    and if another process is working on it.
    """
    draft = out.with_name(out.name + UNFINISHED)
    with ByteBar(bar=True, lines=True) as bar:
        make_plan = partial(
            Plan,
            sources,
            tokenizer,
            val_fraction=val_fraction,
            seed=seed,
            bar=bar,
            shard_tokens=shard_tokens,
            workers=workers,
        )
        with looking_at(out, "out"):
            taken = out.is_file() or (out.is_dir() and any(out.iterdir()))
        if taken:
            return _same(out, make_plan)
        from filelock import FileLock, Timeout

        try:
            draft.mkdir(parents=True, exist_ok=True)
            with FileLock(draft / ".lock", timeout=0):
                try:
                    plan = make_plan(memo_dir=draft)
                    journal = plan.journal(draft)
                    _tell(journal, plan.size, say)
                    plan.write(draft, journal)
                    for extra in (".lock", "hashes.json"):
                        (draft / extra).unlink(missing_ok=True)
                    draft.replace(out)
                finally:
                    if not (draft / PROGRESS).exists():
                        shutil.rmtree(draft, ignore_errors=True)
        except Timeout:
            raise UserError(
                f"another process is preparing {out}; wait for it, or choose another out=..."
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write {out}: {error.strerror or error}; make room and give the same "
                "command, which goes on where it stopped, or choose another out=..."
            ) from error
    corpus = open_corpus(out, cached=False)
    assert corpus is not None, f"{out} was written a moment ago"
    return corpus


def is_prepared(path: object) -> TypeGuard[str]:
    """Whether `path` is the name of a folder that `prepare_corpus` made.

    Raises UserError for one that is not finished.
    """
    if not isinstance(path, str):
        return False
    try:
        folder = Path(path).expanduser()
        unfinished = not folder.exists() and folder.with_name(folder.name + UNFINISHED).is_dir()
    except (OSError, RuntimeError):  # left to the reader of another kind of data
        return False
    if unfinished:
        raise UserError(
            f"{path} is not whole yet: give the same python scripts/prepare_corpus.py command "
            "again, which goes on where it stopped"
        )
    return read_manifest(folder) is not None


def open_prepared(path: str, tokenizer: Tokenizer) -> TokenizedCorpus:
    """The corpus in a folder that `prepare_corpus` made. How long this takes depends only on the
    number of shards.

    Raises UserError for a corpus of another tokenizer or format, and for one with files missing.
    """
    folder = Path(path).expanduser()
    manifest = read_manifest(folder) or {}
    if manifest.get("format") != FORMAT:
        raise UserError(f"{folder} was prepared by another version of gptlit; prepare it again")
    there = manifest.get("tokenizer"), manifest.get("vocab_size")
    if there != (tokenizer.name, tokenizer.vocab_size):
        raise UserError(
            f"{folder} was prepared with tokenizer={there[0]}, and this run has "
            f"tokenizer={tokenizer.name}: give tokenizer={there[0]}, or prepare it again"
        )
    corpus = open_corpus(folder)
    if corpus is None and (damaged := _damaged(folder, manifest)):
        raise UserError(
            f"{folder / damaged[0]} is missing or cut short; copy it again, or delete the folder "
            "and prepare it again"
        )
    if corpus is None:
        raise UserError(f"the manifest of {folder} is damaged; prepare it again")
    return corpus


def _damaged(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The files that are missing or cut short; none if the manifest does not even name files."""
    try:
        return damaged_shards(folder, manifest)
    except (LookupError, TypeError, ValueError):
        return []


def _same(out: Path, make_plan: Callable[[], Plan]) -> TokenizedCorpus:
    """The corpus that is in `out` already, if it is the one that is wanted. Nothing is written."""
    manifest = read_manifest(out)
    if manifest is None:  # checked first: to make a plan, all text is read
        raise UserError(f"out={out} exists and is no prepared corpus; choose another name")
    plan = make_plan()
    wanted = vars(plan.settings)
    for key in ("tokenizer", "seed", "val_fraction", "format"):
        if manifest.get(key) != wanted[key]:
            raise UserError(
                f"out={out} was prepared with {key}={manifest.get(key)}, not {wanted[key]}; delete "
                "it, or choose another name"
            )
    if (changed := compare_sources(out, plan.parts)[1]) or manifest["content"] != wanted["content"]:
        raise UserError(
            f"out={out} was prepared from other text: {changed} is not as it was; delete it, or "
            "choose another name"
        )
    damaged = damaged_shards(out, manifest, deep=True)
    corpus = open_corpus(out)
    if damaged or corpus is None:
        raise UserError(f"{out} is damaged ({', '.join(damaged)}); delete it and prepare it again")
    return corpus


def _tell(journal: Journal, size: int, say: Callable[[str], None]) -> None:
    """Tell the user about an earlier run that was interrupted."""
    done = journal.point.done
    if journal.changed:
        say(f"{journal.changed}: not as for the run that was interrupted")
    if done or journal.changed:
        say(f"going on at {done / 1e6:,.1f} of {size / 1e6:,.1f} MB")
