"""python scripts/prepare_corpus.py: tokenize text once, for any number of runs and machines."""

import sys
import time
from pathlib import Path
from typing import Any

from gptlit.cli import app, schema_data
from gptlit.cli.checking import check
from gptlit.data.readers import looking_at
from gptlit.errors import UserError
from gptlit.options import as_typed


def main() -> None:
    """Run the command; `gptlit.cli.entry` calls it."""
    app.run(
        "prepare_corpus",
        check_config,
        prepare,
        free_text=("out",),
        text_lists=("input", "val_input"),
        short={},
    )


def check_config(config: dict[str, Any]) -> None:
    """Check types and ranges, and that the folder to write is not inside of what is read."""
    check(config, schema_data.PrepareCorpus)
    out = _resolved(config["out"], "out")
    for key in ("input", "val_input"):
        for path in _listed(config[key]):
            if out.is_relative_to(_resolved(path, key)):
                raise UserError(f"out={config['out']} is inside {key}={path}; choose another place")


def _resolved(path: str, key: str) -> Path:
    with looking_at(path, key):
        return Path(path).expanduser().resolve()


def _listed(paths: str | list[str] | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def prepare(config: dict[str, Any], _folder: Path) -> None:
    """Write the folder, and print what is in it."""
    from gptlit.data.corpus import TextFiles
    from gptlit.data.prepared import prepare_corpus
    from gptlit.tokenizer import get_tokenizer

    column = config["column"]
    sources = [TextFiles(config["input"], column, key="input")]
    if config["val_input"] is not None:
        sources.append(TextFiles(config["val_input"], column, key="val_input"))
        if both := sources[0].files.keys() & sources[1].files.keys():
            raise UserError(f"{min(both)} is in input and in val_input; leave it out of one")
    out = Path(config["out"]).expanduser()
    start = time.monotonic()
    try:
        corpus = prepare_corpus(
            sources,
            get_tokenizer(config["tokenizer"]["name"]),
            out.absolute(),
            val_fraction=config["val_fraction"],
            seed=config["seed"],
            shard_tokens=config["shard_tokens"],
            workers=config["workers"],
            say=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        raise
    done = "there already, and whole" if corpus.cached else f"{time.monotonic() - start:,.1f} s"
    lines = (
        f"{out}: {corpus.describe()}, {done}",
        corpus.lopsided("val_input=FILE"),
        f"next: {as_typed('python train.py')} data.path={out}"
        f" tokenizer={corpus.settings.tokenizer}",
    )
    print("\n".join(filter(None, lines)))
