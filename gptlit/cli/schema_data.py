"""What the config keys of `conf/data` mean, and what they may be; see `gptlit.cli.schema`."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from gptlit.cli.checking import check, key
from gptlit.cli.schema import Tokenizer
from gptlit.cli.schema_tasks import TASKS
from gptlit.errors import UserError
from gptlit.options import option_names, read_option


@dataclass
class Target:
    _target_: str = key("class, by its module and name")


@dataclass
class TextData:
    _target_: str = key("class of the data module")
    name: str = key("what reports call this data")
    batch_size: int = key("windows per micro-batch and process", ge=1)
    val_fraction: float = key("share to validate on", gt=0, lt=1)
    split_seed: int = key("of the draw of the documents to validate on", ge=0, lt=2**32)
    num_workers: int = key("processes that load batches; 0: the main one", ge=0, le=1024)
    cache_dir: str | None = key("where tokenized text is kept; null: ~/.cache/gptlit")
    on_change: str = key("for data other than the checkpoint's", choices=("refuse", "retokenize"))


@dataclass
class TextFileData(TextData):
    path: str | list[str] | None = key("file, folder, glob, or a list of them")
    val_path: str | list[str] | None = key("separate validation text")
    column: str = key("column with the text in tables")


@dataclass
class PublishedTextData(TextFileData):
    urls: list[str] = key("mirrors, tried in turn")
    file_name: str = key("name in the download cache")
    sha256: str = key("hash of the published file, hexadecimal")


@dataclass
class PrepareCorpus:
    tokenizer: Tokenizer = key("text to ids")
    input: str | list[str] = key("file, folder, glob, or a list of them")
    out: str = key("folder to write")
    val_input: str | list[str] | None = key("separate validation text")
    val_fraction: float = key("share to validate on", gt=0, lt=1)
    column: str = key("column with the text in tables")
    seed: int = key("of the draw of the documents to validate on", ge=0, lt=2**32)
    shard_tokens: int = key("tokens per file at most", ge=1)
    workers: int | None = key("processes that tokenize; null: one for each core", ge=1)
    debug: bool = key("show the traceback where PyTorch fails")


@dataclass
class LabelledData:
    _target_: str = key("class of the data module")
    name: str = key("what reports call this data")
    path: str | None = key("table with texts and labels")
    text_column: str = key("column with the texts")
    label_column: str = key("column with the labels")
    val_path: str | None = key("separate table to validate on")
    test_path: str | None = key("separate table to test on")
    balance: str = key("remedy for rare classes", choices=("none", "undersample", "weights"))
    deduplicate: bool = key("keep only the first of rows with the same text")
    val_fraction: float = key("share to validate on", gt=0, lt=1)
    test_fraction: float = key("share to test on", gt=0, lt=1)
    batch_size: int = key("texts per micro-batch and process", ge=1)
    eval_batch_size: int | None = key("texts per batch in evaluation", ge=1)
    bucket: bool = key("texts of about one length to a batch")
    num_workers: int = key("processes that load batches; 0: the main one", ge=0, le=1024)
    cache_dir: str | None = key("where downloads and splits are kept; null: ~/.cache/gptlit")
    splits_dir: str | None = key("where the splits are saved; null: in cache_dir")
    on_change: str = key("for data other than the checkpoint's", choices=("refuse", "retokenize"))


@dataclass
class PublishedLabelledData(LabelledData):
    urls: list[str] = key("mirrors, tried in turn")
    file_name: str = key("name in the download cache")
    sha256: str | None = key("hash of the published file, hexadecimal")


@dataclass
class SampleData(LabelledData):
    implies: list[str] = key("settings that this data implies")


@dataclass
class InstructionData:
    _target_: str = key("class of the data module")
    name: str = key("what reports call this data")
    path: str | None = key("file of instructions and responses")
    prompt: dict[str, Any] = key("the option of prompt_format")
    val_fraction: float = key("share to validate on", gt=0, lt=1)
    test_fraction: float = key("share to test on", ge=0, lt=1)
    shuffle: bool = key("split in random order, not in the file's")
    too_long: str = key("entries over the context", choices=("cut", "drop"))
    on_error: str = key("broken entries", choices=("raise", "skip"))
    mask_prompt: bool = key("train on the responses only")
    join_tokens: int = key("tokens in a row of joined entries; 0: one entry per row", ge=0)
    pack: bool = key("as many entries to a row as the context has room for")
    bucket: bool = key("entries of about one length to a batch")
    batch_size: int = key("entries, or packed rows, per micro-batch and process", ge=1)
    eval_batch_size: int | None = key("entries per batch in evaluation", ge=1)
    num_workers: int = key("processes that load batches; 0: the main one", ge=0, le=1024)
    cache_dir: str | None = key("where downloads are kept; null: ~/.cache/gptlit")
    on_change: str = key("for data other than the checkpoint's", choices=("refuse", "retokenize"))


@dataclass
class InstructionFileData(InstructionData):
    val_path: str | None = key("separate file to validate on")
    test_path: str | None = key("separate file to test on")
    instruction_field: str = key("field with the instruction")
    input_field: str = key("field with what the instruction is about")
    output_field: str = key("field with the response")


@dataclass
class PublishedInstructionData(InstructionFileData):
    urls: list[str] = key("mirrors, tried in turn")
    file_name: str = key("name in the download cache")
    sha256: str | None = key("hash of the published file, hexadecimal")


@dataclass
class SampleInstructionData(InstructionData):
    implies: list[str] = key("settings that this data implies")


@dataclass(frozen=True)
class DataKind:
    """A data module that gptlit knows."""

    task: str
    """The task that reads it."""
    node: type
    """The schema of its config."""
    published: type | None = None
    """The same for a file that is published at a URL."""


DATA = {
    "gptlit.data.pydocs.PydocsDataModule": DataKind("pretrain", TextData),
    "gptlit.data.text.TextDataModule": DataKind("pretrain", TextFileData, PublishedTextData),
    "gptlit.data.labelled.LabelledDataModule": DataKind("classification", LabelledData),
    "gptlit.data.spam.SmsSpamDataModule": DataKind(
        "classification", LabelledData, PublishedLabelledData
    ),
    "gptlit.data.instructions.InstructionDataModule": DataKind(
        "instruction", InstructionFileData, PublishedInstructionData
    ),
    "gptlit.data.instructions_sample.InstructionsSampleDataModule": DataKind(
        "instruction", SampleInstructionData
    ),
    "gptlit.data.spam_sample.SpamSampleDataModule": DataKind("classification", SampleData),
}
"""The data modules that gptlit knows, by class."""


def check_data(node: dict[str, Any], task: str) -> None:
    """Check an option of `conf/data`, and that the task can read it; data and tasks that gptlit
    does not know check themselves.

    Raises:
        UserError: as `check`, for data of another task, and for a prompt format that is none.
    """
    check({"_target_": node.get("_target_")}, Target, "data.")
    kind = DATA.get(node["_target_"])
    if kind is None:
        check_package("data._target_", node["_target_"], next(iter(DATA)))
        return
    if task in TASKS and task != kind.task:
        names = (n for n in option_names("data") if task_of(n) == task)
        raise UserError(
            f"data={node.get('name')} is for task={kind.task}; for task={task} choose one of"
            f" data={', '.join(names)}"
        )
    check(node, kind.published if "urls" in node and kind.published else kind.node, "data.")
    if "prompt" in node:
        from gptlit.prompts import PromptFormat

        PromptFormat.from_dict(node["prompt"])


def check_package(key: str, target: str, example: str) -> None:
    """Raises UserError unless there is a package, or a module, that may have a class."""
    package, dot, _ = target.partition(".")
    if not dot or not package or find_spec(package) is None:
        raise UserError(
            f"{key}={target}: there is no {package or 'such'} module; give a class by its module"
            f" and name, such as {example}"
        )


def task_of(option: str) -> str | None:
    """The task that an option of `conf/data` is for, None where gptlit does not know its class."""
    kind = DATA.get(read_option("data", option).get("_target_", ""))
    return kind.task if kind else None
