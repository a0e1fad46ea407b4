"""python evaluate.py with a classifier: how well it tells the classes of labelled texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlit.cli.output import check_unread
from gptlit.errors import UserError, visible_line

if TYPE_CHECKING:
    from gptlit.data.labelled_files import Columns, LabelledTable
    from gptlit.inference.classifier import Classifier


def check_table(data: dict[str, Any]) -> None:
    """Check the name and the first row of data=FILE, before a model is loaded.

    Raises:
        UserError: it is no table, or lacks a column.
    """
    from gptlit.data.labelled_files import check_labelled_table

    check_labelled_table(data["path"], *_columns(data))


def _columns(data: dict[str, Any]) -> tuple["Columns", str]:
    """The columns, and the key of the file, as the readers of labelled tables take them."""
    from gptlit.data.labelled_files import Columns

    return Columns(data["text_column"], data["label_column"]), "data.path"


def evaluate_labelled(config: dict[str, Any], ckpt: Path, classifier: "Classifier") -> None:
    """Classify the texts of data=FILE, and compare with their labels. With output=FILE.json, write
    the metrics there, and all predictions into FILE-predictions.csv.

    Args:
        config: of evaluate.py.
        ckpt: the checkpoint file.
        classifier: the model in it.

    Raises:
        UserError: the table cannot be read, or has a label that the classifier does not know.
    """
    import torch

    from gptlit.data.labelled_files import read_labelled_table
    from gptlit.evaluation.answers import write_json
    from gptlit.evaluation.classification import write_predictions
    from gptlit.predictions import Predictions, classification_metrics

    data, output = config["data"], config["output"]
    table = read_labelled_table(data["path"], *_columns(data))
    labels = torch.tensor(_numbers(table, classifier.labels))
    results = []
    if output is not None:
        results = [Path(output), Path(output).with_name(f"{Path(output).stem}-predictions.csv")]
        check_unread(results, [ckpt, Path(data["path"]).expanduser()])
    said = classifier.predict(table.texts, config["batch_size"], show_progress=True)
    found = Predictions(
        rows=torch.arange(len(said)),
        labels=labels,
        probabilities=torch.tensor([list(one.probabilities.values()) for one in said]),
    )
    of_truth = found.probabilities.gather(1, labels[:, None]).clamp_min(1e-38)
    metrics = {
        "loss": float(-of_truth.log().mean()),
        **classification_metrics(found.probabilities, labels, classifier.labels),
    }
    cut = sum(one.cut for one in said)
    context = classifier.model.cfg.context_length
    print(
        f"texts:     {len(said):,} of {table.name}"
        + f"; {cut:,} were cut to {context} tokens" * (cut > 0)
    )
    for name, value in metrics.items():
        if "/" not in name:
            print(f"{name + ':':<10} {value:.4g}")
    if output is not None:
        origin = {"ckpt": str(ckpt), "data": data["path"], "texts": len(said)}
        write_json(results[0], {**metrics, **origin})
        write_predictions(results[1], table.texts, classifier.labels, found)
        print(f"results:   {results[0]}, {results[1]}")


def _numbers(table: "LabelledTable", names: list[str]) -> list[int]:
    """The number of each row's class."""
    from gptlit.data.rows import shown

    number = {name: index for index, name in enumerate(names)}
    unknown = next((label for label in table.places if label not in number), None)
    if unknown is not None:
        known = ", ".join(map(visible_line, names))
        raise UserError(
            f"{table.places[unknown]}: the classifier was not trained on the label"
            f" {shown(unknown)}; it knows {known}: mend the row, or set data.label_column"
        )
    return [number[label] for label in table.labels]
