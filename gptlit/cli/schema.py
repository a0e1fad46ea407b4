"""What every config key means, and what it may be: checked before anything heavy is imported.

A class describes a node of the config; a field's default is never used (values stand in `conf/`),
its type and `key(...)` say what is allowed.
"""

from dataclasses import dataclass
from typing import Any

from gptlit.cli.checking import check, key
from gptlit.errors import UserError
from gptlit.options import option_names, read_option


@dataclass
class Tokenizer:
    name: str = key("tokenizer", choices=("gpt2", "byte"))


@dataclass
class Model:
    name: str = key("what reports call this shape")
    context_length: int = key("longest sequence, tokens", ge=1)
    emb_dim: int = key("width of the residual stream", ge=1)
    n_heads: int = key("attention heads per block", ge=1)
    n_layers: int = key("transformer blocks", ge=1)
    drop_rate: float = key("dropout probability", ge=0, lt=1)
    qkv_bias: bool = key("whether the query, key, value projection has a bias")
    tied_head: bool = key("whether the output head is the token embedding")
    emb_init_std: float = key("standard deviation of the embeddings' initial values", gt=0)
    activation_checkpointing: bool = key("recompute blocks in the backward pass to save memory")


@dataclass
class TextData:
    _target_: str = key("class of the data module")
    name: str = key("what reports call this data")
    batch_size: int = key("windows per micro-batch and process", ge=1)
    val_fraction: float = key("share that validates", gt=0, lt=1)
    num_workers: int = key("processes that load batches; 0: none beside the main one", ge=0)
    cache_dir: str | None = key("where tokenised text is kept; null: ~/.cache/gptlit")


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
class Weights:
    name: str = key("where initial weights come from")
    path: str | None = key("local file or folder of weights")


@dataclass
class PublishedFiles:
    folder: str = key("between the mirror's URL and the file's name")
    files: dict[str, Any] = key("names, and their sizes in bytes or null")


@dataclass
class MirroredWeights(Weights):
    cache_dir: str | None = key("where downloads are kept; null: ~/.cache/gptlit/weights")
    urls: list[str] = key("mirrors, tried in turn")
    models: dict[str, Any] = key("a folder and files for each published model")


@dataclass
class HubRepository:
    repo: str = key("owner/name on the hub")
    file: str = key("safetensors file in it")


@dataclass
class HubWeights(Weights):
    cache_dir: str | None = key("where downloads are kept; null: huggingface_hub's own cache")
    revision: str = key("branch, tag or commit of the repositories")
    models: dict[str, Any] = key("a repository and its file for each published model")


@dataclass
class Optimizer:
    lr: float = key("peak learning rate", gt=0)
    weight_decay: float = key("decoupled weight decay", ge=0)
    betas: list[float] = key("Adam's moments, two numbers", ge=0, lt=1)
    eps: float = key("Adam's stabiliser", gt=0)


@dataclass
class Scheduler:
    name: str = key("course of the learning rate", choices=("cosine", "linear", "constant"))
    warmup_steps: int = key("optimiser steps of linear warm-up", ge=0)
    total_steps: int | None = key("optimiser step at which the decay ends", ge=1)
    min_lr_ratio: float = key("last learning rate over the peak", ge=0, le=1)


@dataclass
class Trainer:
    max_steps: int = key("optimiser steps; -1: no limit", ge=-1)
    max_epochs: int | None = key("passes over the data", ge=1)
    accumulate_grad_batches: int = key("micro-batches per optimiser step", ge=1)
    gradient_clip_val: float | None = key("largest 2-norm of the gradients", gt=0)
    val_interval: int | None = key("optimiser steps between validations", ge=1)
    val_at_start: bool = key("validate before the first step")
    checkpoint_interval: int = key("optimiser steps between saves of last.ckpt", ge=0)
    early_stopping: int = key("validations without a better one before stopping", ge=0)
    log_every_n_steps: int = key("optimiser steps between logged rows", ge=1)
    limit_val_batches: int | float = key("validation batches, or their share", ge=0)
    devices: int | str = key("devices per node, or auto", ge=1, choices=("auto",))
    num_nodes: int = key("machines", ge=1)
    strategy: str = key("Lightning's strategy", choices=("auto", "ddp"))


@dataclass
class Device:
    name: str = key("kind of device", choices=("auto", "cpu", "cuda", "mps"))


@dataclass
class Precision:
    name: str = key("number format of products", choices=("auto", "fp32", "bf16", "fp16"))


@dataclass
class Logger:
    csv: bool = key("write metrics.csv")
    tensorboard: bool = key("write TensorBoard events")
    wandb: dict[str, Any] | None = key("keys of Lightning's WandbLogger")
    mlflow: dict[str, Any] | None = key("keys of Lightning's MLFlowLogger")


@dataclass
class Sample:
    every_n_validations: int = key("validations between samples; 0: none", ge=0)
    prompt: str = key("text to continue")
    max_new_tokens: int = key("tokens to write", ge=1)
    temperature: float = key("0: greedy", ge=0)
    top_k: int = key("0: all tokens", ge=0)


@dataclass
class PretrainTask:
    name: str = key("task")
    sample: Sample = key("text samples while training")


@dataclass
class LoRA:
    rank: int = key("inner width of the added products", ge=1)
    alpha: float = key("they are scaled by alpha / rank", gt=0)
    dropout: float = key("dropout probability on their input", ge=0, lt=1)
    targets: list[str] = key("layers", choices=("qkv", "q", "k", "v", "out_proj", "fc", "proj"))


@dataclass
class ClassificationTask:
    name: str = key("task")
    trainable: str = key("head, last_block, last_2_blocks ..., all or lora")
    pool: str = key("position that the head sees", choices=("last", "first", "mean"))
    causal: bool = key("whether a token sees only those before it")
    label_smoothing: float = key("probability spread over all classes", ge=0, lt=1)
    cache_features: bool | str = key("compute frozen blocks once", choices=("auto",))
    lora: LoRA = key("what trainable=lora adds")


@dataclass
class Answers:
    max_new_tokens: int = key("tokens of an answer at most; 0: no answers", ge=0)
    batch_size: int = key("prompts at once", ge=1)


@dataclass
class InstructionTask:
    name: str = key("task")
    trainable: str = key("what trains", choices=("all", "lora"))
    lora: LoRA = key("what trainable=lora adds")
    sample: Sample = key("answers while training")
    answers: Answers = key("answers to the test split")


TASKS: dict[str, type] = {
    "pretrain": PretrainTask,
    "classification": ClassificationTask,
    "instruction": InstructionTask,
}
"""Nodes of the tasks that gptlit knows, by name."""


@dataclass
class LabelledData:
    _target_: str = key("class of the data module")
    name: str = key("what reports call this data")
    path: str | None = key("table with texts and labels")
    text_column: str = key("column with the texts")
    label_column: str = key("column with the labels")
    val_path: str | None = key("separate table to validate on")
    test_path: str | None = key("separate table to test on")
    balance: str = key("for rare classes", choices=("none", "undersample", "weights"))
    deduplicate: bool = key("keep only the first of rows with the same text")
    val_fraction: float = key("share that validates", gt=0, lt=1)
    test_fraction: float = key("share that tests", gt=0, lt=1)
    batch_size: int = key("texts per micro-batch and process", ge=1)
    eval_batch_size: int | None = key("texts per batch in evaluation", ge=1)
    bucket: bool = key("texts of about one length to a batch")
    num_workers: int = key("processes that load batches; 0: none beside the main one", ge=0)
    cache_dir: str | None = key("where downloads and splits are kept; null: ~/.cache/gptlit")
    splits_dir: str | None = key("where the splits are saved; null: in cache_dir")


@dataclass
class PublishedLabelledData(LabelledData):
    urls: list[str] = key("mirrors, tried in turn")
    file_name: str = key("name in the download cache")
    sha256: str | None = key("hash of the published file, hexadecimal")


@dataclass
class SampleData(LabelledData):
    implies: list[str] = key("what else the command means")


@dataclass(frozen=True)
class DataKind:
    """A data module that gptlit knows."""

    task: str
    """Who reads it."""
    node: type
    """What its config may be."""
    published: type | None = None
    """The same for a file that is published at a URL."""


DATA = {
    "gptlit.data.pydocs.PydocsDataModule": DataKind("pretrain", TextData),
    "gptlit.data.text.TextDataModule": DataKind("pretrain", TextFileData, PublishedTextData),
    "gptlit.data.labelled.LabelledDataModule": DataKind("classification", LabelledData),
    "gptlit.data.spam.SmsSpamDataModule": DataKind(
        "classification", LabelledData, PublishedLabelledData
    ),
    "gptlit.data.spam_sample.SpamSampleDataModule": DataKind("classification", SampleData),
}
"""By class."""


@dataclass
class Train:
    tokenizer: Tokenizer = key("text to ids")
    model: Model = key("shape of the network")
    data: dict[str, Any] = key("text, and how it is cut into batches")
    weights: dict[str, Any] = key("initial weights")
    optimizer: Optimizer = key("AdamW")
    scheduler: Scheduler = key("course of the learning rate")
    trainer: Trainer = key("length and mechanics of the run")
    device: Device = key("where to compute")
    precision: Precision = key("number format")
    logger: Logger = key("where metrics go")
    task: dict[str, Any] = key("what is trained")
    seed: int = key("of weights, data order and dropout", ge=0, lt=2**32)
    compile: bool = key("torch.compile each block")
    resume: str | None = key("run folder, checkpoint, or auto")
    skip_if_trained: bool = key("take the result of a finished run of the same config")
    output_root: str = key("folder of all runs")
    debug: bool = key("two steps; tracebacks")


@dataclass
class TaskName:
    name: str = key("task")


@dataclass
class Generate:
    device: Device = key("where to compute")
    precision: Precision = key("number format")
    weights: dict[str, Any] = key("where published models come from")
    ckpt: str | None = key("published model, checkpoint, run folder, or other weights")
    task: TaskName = key("whose newest run is meant")
    output_root: str = key("folder of all runs")
    prompt: str | None = key("text to continue")
    prompts: str | None = key("file with a prompt on each line")
    output: str = key("JSONL file for prompts=")
    batch_size: int = key("prompts at once", ge=1)
    max_new_tokens: int = key("tokens to write at most", ge=1)
    temperature: float = key("0: greedy", ge=0)
    top_k: int = key("0: all tokens", ge=0)
    top_p: float = key("1: all tokens", gt=0, le=1)
    stop: str | list[str] | None = key("ends the text")
    seed: int = key("of the draws", ge=0, lt=2**62)
    num_samples: int = key("continuations of each prompt", ge=1)
    debug: bool = key("tracebacks")


@dataclass
class EvaluateData:
    path: str | list[str] = key("file, folder, glob, or a list of them")
    column: str = key("column with the text in tables")


@dataclass
class Export:
    weights: dict[str, Any] = key("where published models come from")
    ckpt: str | None = key("published model, checkpoint, run folder, or other weights")
    task: TaskName = key("whose newest run is meant")
    output_root: str = key("folder of all runs")
    format: str = key("who shall read it", choices=("huggingface", "safetensors"))
    out: str = key("folder or file to write")
    debug: bool = key("tracebacks")


@dataclass
class Evaluate:
    device: Device = key("where to compute")
    precision: Precision = key("number format of products")
    weights: dict[str, Any] = key("where published models come from")
    ckpt: str | None = key("published model, checkpoint, run folder, or other weights")
    task: TaskName = key("whose newest run is meant")
    output_root: str = key("folder of all runs")
    data: EvaluateData = key("text to score")
    stride: int | None = key("tokens between the starts of two windows; null: half", ge=1)
    batch_size: int = key("windows at once", ge=1)
    output: str | None = key("JSON file for the result")
    debug: bool = key("tracebacks")


def check_data(node: dict[str, Any], task: str) -> None:
    """Check an option of `conf/data`, and that the task can read it; data and tasks that gptlit
    does not know check themselves.

    Raises:
        UserError: as `check`, and for data of another task.
    """
    kind = DATA.get(node.get("_target_", ""))
    if kind is None:
        return
    if task in TASKS and task != kind.task:
        names = (n for n in option_names("data") if _task_of(n) == task)
        raise UserError(
            f"data={node.get('name')} is for task={kind.task}; for task={task} choose one of"
            f" data={', '.join(names)}"
        )
    check(node, kind.published if "urls" in node and kind.published else kind.node, "data.")


def _task_of(option: str) -> str | None:
    kind = DATA.get(read_option("data", option).get("_target_", ""))
    return kind.task if kind else None


def check_weights(node: dict[str, Any]) -> None:
    """Check an option of `conf/weights`: from mirrors, from a hub, or local.

    Raises:
        UserError: as `check`.
    """
    mirrored = "urls" in node
    if "models" not in node:
        return check(node, Weights, "weights.")
    check(node, MirroredWeights if mirrored else HubWeights, "weights.")
    for name, model in node["models"].items():
        check(model, PublishedFiles if mirrored else HubRepository, f"weights.models.{name}.")
    return None
