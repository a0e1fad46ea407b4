"""What every config key means, and what it may be: checked before anything heavy is imported.

A class describes a node of the config. A field's type and `key(...)` say what is allowed; its
default is never used, as the values are in `conf/`.
"""

from dataclasses import dataclass
from typing import Any

from gptlit.cli.checking import check, key


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
class Weights:
    name: str = key("where initial weights come from")
    path: str | None = key("local file or folder of weights")


@dataclass
class PublishedFiles:
    folder: str = key("folder between the mirror's URL and the file's name", may_be_empty=True)
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
    betas: list[float] = key("decay rates of Adam's two moments", ge=0, lt=1)
    eps: float = key("Adam's stabiliser", gt=0)


@dataclass
class Scheduler:
    name: str = key("course of the learning rate", choices=("cosine", "linear", "constant"))
    warmup_steps: int | float = key("optimiser steps of linear warm-up, or their share", ge=0)
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
    monitor: str = key("metric of the validation that says what is best")
    monitor_mode: str = key("whether it is best low or high", choices=("auto", "min", "max"))
    early_stopping: int = key("validations without a better one before stopping", ge=0)
    log_every_n_steps: int = key("optimiser steps between logged rows", ge=1)
    limit_val_batches: int | float = key("validation batches, or their share", ge=0)
    devices: int | str = key("devices per node, or auto", ge=1, le=1024, choices=("auto",))
    num_nodes: int | str = key("machines, or auto", ge=1, le=10**6, choices=("auto",))
    strategy: str = key("how processes share the work", choices=("auto", "ddp", "fsdp"))
    profiler: str | None = key("what takes time", choices=("simple", "advanced", "pytorch"))
    timeout_s: float = key("seconds that processes wait for each other", gt=0, le=10**7)


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
class Train:
    tokenizer: Tokenizer = key("text to ids")
    model: Model = key("shape of the network")
    data: dict[str, Any] = key("text, and how it is cut into batches")
    prompt_format: dict[str, Any] = key("how instructions become prompts")
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
    callbacks: dict[str, Any] = key("Lightning callbacks, each with its class as _target_")
    output_root: str = key("folder of all runs")
    debug: bool = key("two steps, to see that all is in place")


@dataclass
class TaskName:
    name: str = key("task")


@dataclass
class Generate:
    device: Device = key("where to compute")
    precision: Precision = key("number format")
    weights: dict[str, Any] = key("where published models come from")
    ckpt: str | None = key("published model, checkpoint, run folder, or other weights")
    task: TaskName = key("task whose newest run is meant")
    output_root: str = key("folder of all runs")
    prompt: str | None = key("text to continue, or an instruction", may_be_empty=True)
    input: str | None = key("what the instruction is about", may_be_empty=True)
    system: str | None = key("what stands before the first instruction", may_be_empty=True)
    history: bool = key("whether typed instructions continue the chat")
    prompts: str | None = key("file with a prompt on each line")
    output: str = key("JSONL file for prompts=")
    batch_size: int = key("prompts at once", ge=1)
    max_new_tokens: int = key("tokens to write at most", ge=1)
    temperature: float = key("0: greedy", ge=0)
    top_k: int = key("0: all tokens", ge=0)
    top_p: float = key("1: all tokens", gt=0, le=1)
    stop: str | list[str] | None = key(
        "what ends the text; in a list, put numbers in quotes", may_be_empty=True
    )
    seed: int = key("of the draws", ge=0, lt=2**62)
    num_samples: int = key("continuations of each prompt", ge=1)
    debug: bool = key("show the traceback where PyTorch fails")


@dataclass
class BaseWeights:
    path: str | None = key("file or folder of the weights that an adapter belongs to")


@dataclass
class Classify:
    device: Device = key("where to compute")
    precision: Precision = key("number format")
    weights: BaseWeights = key("weights of an adapter that was saved without them")
    ckpt: str | None = key("checkpoint or run folder")
    output_root: str = key("folder of all runs")
    text: str | None = key("text to classify", may_be_empty=True)
    input: str | None = key("table of texts")
    output: str | None = key("file for its rows with their labels")
    column: str = key("column with the texts")
    probabilities: bool = key("add the probability of each class")
    batch_size: int = key("texts at once", ge=1)
    debug: bool = key("show the traceback where PyTorch fails")


INSTRUCTION_FIELDS = ("instruction_field", "input_field", "output_field")
"""Keys of data: what the parts of an entry are called in files of instructions."""


@dataclass
class EvaluateData:
    path: str | list[str] | None = key("file, folder, glob, or a list of them")
    column: str = key("column with the text in tables")
    text_column: str = key("column with the texts of a labelled table")
    label_column: str = key("column with the labels of a labelled table")
    on_error: str = key("what to do with broken entries of instructions", choices=("raise", "skip"))
    instruction_field: str = key("field with the instruction")
    input_field: str = key("field with what the instruction is about")
    output_field: str = key("field with the response")


@dataclass
class Export:
    weights: dict[str, Any] = key("where published models come from")
    ckpt: str | None = key("published model, checkpoint, run folder, or other weights")
    task: TaskName = key("task whose newest run is meant")
    output_root: str = key("folder of all runs")
    format: str = key("what will read it", choices=("huggingface", "safetensors"))
    out: str = key("folder or file to write")
    debug: bool = key("show the traceback where PyTorch fails")


@dataclass
class Judge:
    name: str = key("who scores answers", choices=("none", "ollama", "openai"))


@dataclass
class JudgeServer(Judge):
    base_url: str = key("URL of the server, before /api/chat or /chat/completions")
    model: str = key("model that judges, by the server's name")
    api_key_env: str | None = key("environment variable with the key; null: none is sent")
    seed: int | None = key("of the judge's draws; null: the server's choice", ge=0)
    temperature: float | None = key("0: the same each time; null: the server's choice", ge=0)
    num_ctx: int | None = key("tokens that the judge can see; Ollama only", ge=1)
    concurrency: int = key("answers judged at the same time", ge=1, le=64)
    retries: int = key("attempts after the first", ge=0)
    timeout_s: float = key("seconds to wait for a connection, and the next word", gt=0)
    prompt: str = key("with {instruction}, {input}, {output} and {response}")
    reminder: str = key("what follows the prompt if a reply was not a number", may_be_empty=True)


@dataclass
class Evaluate:
    device: Device = key("where to compute")
    precision: Precision = key("number format of products")
    weights: dict[str, Any] = key("where published models come from")
    ckpt: str | None = key("published model, checkpoint, run folder, or other weights")
    task: TaskName = key("task whose newest run is meant")
    output_root: str = key("folder of all runs")
    data: EvaluateData = key("text to score, or instructions to answer")
    judge: dict[str, Any] = key("who scores answers")
    max_new_tokens: int = key("tokens of an answer at most", ge=1)
    stride: int | None = key("tokens between the starts of two windows; null: half", ge=1)
    batch_size: int = key("windows at once", ge=1)
    output: str | None = key("JSON file for the result")
    debug: bool = key("show the traceback where PyTorch fails")


def check_judge(node: dict[str, Any]) -> None:
    """Check an option of `conf/judge`.

    Raises:
        UserError: as `check`.
    """
    check(node, JudgeServer if "base_url" in node else Judge, "judge.")


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
