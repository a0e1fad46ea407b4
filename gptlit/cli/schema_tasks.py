"""What the config keys of `conf/task` mean, and what they may be; see `gptlit.cli.schema`."""

from dataclasses import dataclass

from gptlit.cli.checking import key


@dataclass
class Sample:
    every_n_validations: int = key("validations between samples; 0: none", ge=0)
    prompt: str = key("text to continue", may_be_empty=True)
    max_new_tokens: int = key("tokens to write", ge=1)
    temperature: float = key("0: greedy", ge=0)
    top_k: int = key("0: all tokens", ge=0)


@dataclass
class PretrainTask:
    name: str = key("task")
    sample: Sample | None = key("text samples while training; null: none")


@dataclass
class LoRA:
    rank: int = key("inner width of the added products", ge=1)
    alpha: float = key("the added products are scaled by alpha / rank", gt=0)
    dropout: float = key("dropout probability on the input of the added products", ge=0, lt=1)
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
    adapter_only: bool = key("leave the weights that trainable=lora freezes out of checkpoints")


@dataclass
class Answers:
    max_new_tokens: int = key("tokens of an answer at most; 0: no answers", ge=0)
    batch_size: int = key("prompts at once", ge=1)


@dataclass
class InstructionTask:
    name: str = key("task")
    mask_prompt: bool = key("train on the responses only")
    trainable: str = key("what trains", choices=("all", "lora"))
    lora: LoRA = key("what trainable=lora adds")
    adapter_only: bool = key("leave the weights that trainable=lora freezes out of checkpoints")
    sample: Sample | None = key("answers while training; null: none")
    answers: Answers = key("answers to the test split")


TASKS: dict[str, type] = {
    "pretrain": PretrainTask,
    "classification": ClassificationTask,
    "instruction": InstructionTask,
}
"""Nodes of the tasks that gptlit knows, by name."""
