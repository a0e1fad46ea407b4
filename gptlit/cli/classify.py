"""python classify.py: say which class texts are of, with a trained classifier."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlit.cli import app, schema
from gptlit.cli.checking import check
from gptlit.cli.conversation import typed
from gptlit.cli.entry import large_imports
from gptlit.cli.output import output_file
from gptlit.errors import UserError, visible_line
from gptlit.inference.lookup import check_ckpt

if TYPE_CHECKING:
    from gptlit.inference.classifier import Classifier


def main() -> None:
    """Run the command; `gptlit.cli.entry` calls it."""
    free_text = ("text", "ckpt", "weights.path", "input", "output", "column")
    app.run("classify", check_config, classify, free_text=free_text, short={})


def check_config(config: dict[str, Any]) -> None:
    """Check types and ranges, and that the options go together."""
    check(config, schema.Classify)
    table, output = config["input"], config["output"]
    if config["text"] is not None and table is not None:
        raise UserError("give either text=... or input=FILE, not both")
    if table is not None and output is None:
        raise UserError(f"input={table} needs a file for the answers: give output=FILE.csv too")
    if table is None and output is not None:
        raise UserError(f"output={output} is for the answers to input=FILE: give that too")


def classify(config: dict[str, Any], _folder: Path) -> None:
    """One text, a table of texts, or a conversation."""
    if config["input"] is not None:
        _classify_table(config)
        return
    classifier = _load(config)
    given, classes = config["text"], ", ".join(map(visible_line, classifier.labels))
    invitation = f"Type a text, to hear which of {classes} it is; or quit."
    for text in typed(invitation) if given is None else [given]:
        print(_line(classifier, text))


def _classify_table(config: dict[str, Any]) -> None:
    """Write the rows of a table with two more columns, and print a summary. All that can be wrong
    is found before the work."""
    from gptlit.data.tables import read_table
    from gptlit.data.tables_out import check_labels, check_writable, write_table

    output = output_file(config["output"])
    table = read_table(config["input"], "input", config["column"])
    texts = table.texts(config["column"], "column")
    check_writable(output, table, "output")
    classifier = _load(config)
    check_labels(output, classifier.labels, "output")
    predictions = classifier.predict(texts, config["batch_size"], show_progress=True)
    label, probability = (_free(name, table.columns) for name in ("label", "probability"))
    columns: dict[str, list[Any]] = {
        label: [prediction.label for prediction in predictions],
        probability: [round(prediction.probability, 6) for prediction in predictions],
    }
    for name in classifier.labels if config["probabilities"] else ():
        values = [round(prediction.probabilities[name], 6) for prediction in predictions]
        columns[_free(f"p({name})", table.columns)] = values
    write_table(output, table, columns, "output")
    cut = sum(prediction.cut for prediction in predictions)
    context = classifier.model.cfg.context_length
    print(
        f"{len(predictions):,} texts classified into {output}, columns {label} and {probability}"
        + f"; {cut:,} were cut to {context} tokens" * (cut > 0)
    )


def _load(config: dict[str, Any]) -> "Classifier":
    ckpt = config["ckpt"]
    check_ckpt(ckpt, "classification", config["output_root"], config["weights"])
    with large_imports():
        from gptlit.inference.api import load
        from gptlit.inference.classifier import Classifier

    loaded = load(
        ckpt,
        device=config["device"]["name"],
        precision=config["precision"]["name"],
        task="classification",
        outputs=config["output_root"],
        weights=config["weights"],
    )
    if not isinstance(loaded, Classifier):
        raise UserError(
            f"ckpt={ckpt} is no classifier but a language model, which writes text: use"
            f" python generate.py ckpt={ckpt}"
        )
    return loaded


def _line(classifier: "Classifier", text: str) -> str:
    prediction = classifier.predict(text)
    context = classifier.model.cfg.context_length
    return str(prediction) + f" (of the first {context} tokens)" * prediction.cut


def _free(name: str, taken: list[str]) -> str:
    """A name for a new column that no column of the table has yet."""
    while name in taken:
        name = f"predicted_{name}"
    return name
