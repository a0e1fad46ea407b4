"""Corrupted command lines: valid commands, and what can happen to them on the way.

Everything is drawn from one seed, so that a number names a command line.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from commands import ROOT, TINY, run, write_corpus

from gptlit.cli.mistakes import config_keys

CLOSED = "http://127.0.0.1:9"
"""Nothing listens on the port: a download, or a judge, is refused at once."""
OFFLINE = {
    **{f"{name}_PROXY": CLOSED for name in ("HTTP", "HTTPS", "ALL")},
    **{f"{name}_proxy": CLOSED for name in ("http", "https", "all")},
    "NO_PROXY": "",
    "no_proxy": "",
    "HF_ENDPOINT": CLOSED,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OPENAI_API_KEY": "none",
}
SHORT = (
    *TINY,
    "trainer.max_steps=2",
    "trainer.limit_val_batches=1",
    "task.sample.every_n_validations=0",
)
TEXT = (*SHORT, "data=text", "data.path=corpus.txt")
LABELLED = (
    "task=classification",
    "data=csv",
    "data.path=spam.csv",
    "weights=none",
    "model=gpt2-nano",
    "task.trainable=all",
    *(arg for arg in SHORT if not arg.startswith("task.")),
)
INSTRUCTIONS = (
    "task=instruction",
    "data.path=instructions.json",
    "weights=none",
    "model=gpt2-nano",
    "task.answers.max_new_tokens=1",
    *SHORT,
    "model.context_length=256",
)
RUNS = {name: f"outputs/{name}/run" for name in ("pretrain", "classification", "instruction")}
UNFINISHED = "outputs/pretrain/unfinished"

VALID: tuple[tuple[str, ...], ...] = (
    ("train", *TEXT),
    ("train", *TEXT, "optimizer.lr=1e-3", "data.batch_size=4", "seed=1", "scheduler=linear"),
    ("train", *TEXT, "optimizer.betas=[0.9,0.95]", "precision=fp32", "trainer.val_interval=1"),
    ("train", *SHORT, "data=text", "data.path=[corpus.txt,more.txt]", "data.val_fraction=0.2"),
    ("train", *SHORT),
    ("train", *LABELLED),
    ("train", *LABELLED, "data.balance=weights", "task.pool=mean", "task.causal=false"),
    ("train", *LABELLED, "data.text_column=text", "task.trainable=lora", "task.lora.rank=2"),
    ("train", *INSTRUCTIONS),
    ("train", *INSTRUCTIONS, "prompt_format=phi3", "data.too_long=drop", "data.pack=true"),
    ("train", "-m", *TEXT, "optimizer.lr=1e-3,1e-2"),
    ("train", *TEXT, "--multirun", "scheduler=cosine,linear", "hydra.sweep.dir=sweep"),
    ("train", f"resume={UNFINISHED}", "trainer.max_steps=3"),
    ("train", *TEXT, "resume=auto"),
    ("train", *TEXT, "skip_if_trained=true"),
    ("train", "experiment=shakespeare-char", *SHORT, "data.path=corpus.txt"),
    ("train", "-m", "hparams_search=optuna", *TEXT, "hydra.sweeper.n_trials=1"),
    ("train", "-m", "launcher=local", "hydra.launcher.n_jobs=1", *TEXT, "optimizer.lr=1e-3,1e-2"),
    ("train", *TEXT, "weights=checkpoint", f"weights.path={RUNS['pretrain']}"),
    ("train", *SHORT, "data=text", "data.path=corpus.txt", "debug=false", "logger=csv"),
    ("train", "--cfg", "job"),
    ("train", "--help"),
    ("generate", "prompt=line 3", "max_new_tokens=3"),
    ("generate", f"ckpt={RUNS['pretrain']}", "prompt=line 3, that", "temperature=0.8", "top_k=5"),
    ("generate", "prompts=prompts.txt", "output=out.jsonl", "max_new_tokens=2", "num_samples=2"),
    ("generate", "prompt=line", "stop=[a,b]", "top_p=0.9", "seed=3", "max_new_tokens=2"),
    ("generate", "task=instruction", "prompt=Say", "input=it", "max_new_tokens=2", "device=cpu"),
    ("generate", "ckpt=gpt2-small", "prompt=Hello", "weights=huggingface"),
    ("generate", "ckpt=gpt2-small", "prompt=Hello", "weights=book", f"weights.urls=[{CLOSED}]"),
    ("classify", "text=You have won a prize, call now"),
    ("classify", f"ckpt={RUNS['classification']}", "input=spam.csv", "output=labelled.csv"),
    ("classify", "input=spam.csv", "output=labelled.csv", "column=text", "batch_size=4"),
    ("evaluate", "data=corpus.txt", "stride=16", "batch_size=64"),
    ("evaluate", f"ckpt={RUNS['pretrain']}", "data=[corpus.txt,more.txt]", "output=result.json"),
    ("evaluate", "data=spam.csv", "data.column=text", "precision=bf16", "device=cpu"),
    ("evaluate", "task=instruction", "max_new_tokens=1"),
    ("evaluate", "task=classification", "data=spam.csv", "data.label_column=label", "stride=1"),
    (
        "evaluate",
        "task=instruction",
        "judge=ollama",
        f"judge.base_url={CLOSED}",
        "judge.retries=0",
        "max_new_tokens=1",
    ),
    ("scripts/export", f"ckpt={RUNS['pretrain']}", "out=exported"),
    ("scripts/export", "format=safetensors", "out=exported.safetensors"),
    ("scripts/export", "ckpt=gpt2-small", "weights=huggingface", "out=exported"),
    ("scripts/compare", "outputs/pretrain", "--out", "curves.csv"),
    ("scripts/compare", RUNS["pretrain"], RUNS["classification"]),
    ("scripts/download", "gpt2-small", "--source", "openai", "--url", CLOSED, "--cache-dir", "dl"),
    ("scripts/download", "gpt2-small", "gpt2-medium"),
)
"""Each ends well, or says that nothing listens."""

FLAGS = (
    *("--cfg", "--cfg=job", "--cfg=nothing", "--help", "--hydra-help", "--bogus", "-x", "-m", "-c"),
    *("--multirun", "--resolve", "--run", "--package=model", "--info", "--info=nothing", "--", "-"),
    *("--config-name=nothing", "--config-path=nothing", "--config-dir=nothing", "--version", "-h"),
    *(
        "-p",
        "-mr",
        "--cfg=job --resolve",
        "--experimental-rerun=nothing",
        "-1",
        "--model=gpt2-nano",
    ),
)
NUMBERS = (
    *("-1", "0", "-0.0", "1.5", "-1e-9", "nan", "inf", "-inf", "1e400", "1e-400", "NaN", ".inf"),
    *("99999999999999999999", "1e18", "9223372036854775808", "-2147483649", "0x10", "1_000", "1e"),
    *("1000000000", "١٢", "1,5", "1 000", "0.1.2", "+3", "--3", "1e3", "007", "1/2", "50%"),
)
TEXTS = (
    *("", " ", "null", "None", "true", "True", "yes", "~", "???", "abc", "auto", "none", "all"),
    *("'", '"', "''", "[", "]", "[]", "[1,2]", "[a", "[[", "{", "{}", "{a:1}", "{a:{b:[1]}}", "("),
    *("a,b", "1,2", ",", ",,", "a,", "=", "a=b", "==", ":", "a:b", "#", "%", "%s", "{x}", "@", "!"),
    *("${", "${}", "${seed}", "${nothing}", "${now:%Y}", "${oc.env:NOPE}", "${hydra:job.num}"),
    *("${model.name}", "${oc.env:USER,x}", "$HOME", "$(ls)", "`ls`", ";ls", "&", "|", "<", ">"),
    *("*", "?", "[a-", "**", "\\", "\\'", '\\"', "a\\", "a b", "\t", "\n", "a\nb", "\r\n", "\x01"),
    *(
        "\x1b[31mred",
        "\x07",
        "\x7f",
        "ünïcödé",
        "日本語",
        "🎉",
        "\u202eback",
        "\u200b",
        "\ufeff",
        "\x85",
    ),
    *("\udcff", "a\udcfe", "x" * 300, "x" * 5000, "interval(1,2)", "choice(1,2)", "range(1,3)"),
    *(
        "glob(*)",
        "shuffle(1,2)",
        "sort(2,1)",
        "tag(a,1)",
        "int(x)",
        "float(1)",
        "str(1)",
        "json(1)",
    ),
)
PLACES = (
    *(".", "..", "nowhere", "nowhere/at/all", "nowhere.txt", "corpus.txt", "outputs", "spam.csv"),
    *(
        "empty.txt",
        "binary.bin",
        "locked",
        "corpus.txt/x",
        "cut.ckpt",
        "/dev/null",
        "*.txt",
        "*.no",
    ),
    *(RUNS["pretrain"], RUNS["classification"], f"{RUNS['pretrain']}/checkpoints/best.ckpt"),
    *("instructions.json", "prompts.txt", "outputs/pretrain", f"{RUNS['pretrain']}/summary.json"),
)


@dataclass(frozen=True)
class Command:
    """One corrupted command line."""

    number: int
    script: str
    args: tuple[str, ...]

    def __str__(self) -> str:
        shown = (arg if len(arg) < 100 else f"{arg[:60]}...({len(arg)})" for arg in self.args)
        return f"#{self.number} python {self.script}.py {' '.join(map(ascii, shown))}"


def corrupted(number: int, seed: int = 0) -> Command:
    """The command line of a number: a valid one with one to three changes."""
    rng = random.Random(f"{seed}/{number}")
    script, *args = VALID[number % len(VALID)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice(CHANGES)
        args = change(rng, script, args)
    given = tuple(arg.replace("\0", "") for arg in args)  # the system passes none
    return Command(number, script, given)


Change = Callable[[random.Random, str, list[str]], list[str]]


def _typo(rng: random.Random, text: str) -> str:
    """A letter left out, doubled, swapped, replaced, or one too many."""
    at = rng.randrange(len(text) + 1)
    kind = rng.randrange(6)
    letter = rng.choice("abcxyz_.-019=/,' \"[]{}()$~+@:#é\x00\x1f")
    return (
        text[:at] + text[at + 1 :],
        text[:at] + text[at : at + 1] * 2 + text[at + 1 :],
        text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :],
        text[:at] + letter + text[at + 1 :],
        text[:at] + letter + text[at:],
        text.swapcase(),
    )[kind]


def _place(rng: random.Random, args: list[str]) -> int:
    return rng.randrange(len(args)) if args else 0


def _change_one(rng: random.Random, args: list[str], new: Callable[[str], str]) -> list[str]:
    if not args:
        return [new("")]
    at = _place(rng, args)
    return [*args[:at], new(args[at]), *args[at + 1 :]]


def _pair(arg: str, key: Callable[[str], str], value: Callable[[str], str]) -> str:
    name, equals, given = arg.partition("=")
    return key(name) + equals + value(given) if equals else value(arg)


def typo_in_key(rng: random.Random, script: str, args: list[str]) -> list[str]:
    return _change_one(rng, args, lambda arg: _pair(arg, lambda key: _typo(rng, key), str))


def typo_in_value(rng: random.Random, script: str, args: list[str]) -> list[str]:
    return _change_one(rng, args, lambda arg: _pair(arg, str, lambda value: _typo(rng, value)))


def other_value(rng: random.Random, script: str, args: list[str]) -> list[str]:
    return _change_one(rng, args, lambda arg: _pair(arg, str, lambda _: _value(rng)))


def prefix(rng: random.Random, script: str, args: list[str]) -> list[str]:
    marks = ("~", "+", "++", "~~", "+~", "=", ".", "-", "--", " ", "@", "hydra.", "model.", "data@")
    return _change_one(rng, args, lambda arg: rng.choice(marks) + arg)


def deleted_key(rng: random.Random, script: str, args: list[str]) -> list[str]:
    return [*args, f"~{rng.choice(known_keys(script))}"]


def known_key(rng: random.Random, script: str, args: list[str]) -> list[str]:
    """A key that exists, with a value that may not fit."""
    mark = rng.choice(("", "", "", "", "+", "++"))
    return [*args, f"{mark}{rng.choice(known_keys(script))}={_value(rng)}"]


def likely_value(rng: random.Random, script: str, args: list[str]) -> list[str]:
    """A value of the kind that the key wants, as far as its name says that."""
    key = rng.choice(known_keys(script))
    words = key.replace("_", ".").split(".")
    is_place = set(words) & {"path", "ckpt", "input", "output", "out", "prompts", "resume", "dir"}
    values = PLACES if is_place else ("0", "1", "7", "1e-9", "0.5", "1000000000", "true", "all")
    return [*args, f"{key}={rng.choice(values)}"]


def unknown_option(rng: random.Random, script: str, args: list[str]) -> list[str]:
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    group = rng.choice((*groups, "hydra/launcher", "hydra/sweeper", "model@data", "trainer/x"))
    return [*args, f"{group}={rng.choice((*TEXTS, *NUMBERS, 'gpt2-nano', 'optuna', 'auto'))}"]


def hydra_key(rng: random.Random, script: str, args: list[str]) -> list[str]:
    names = ("run.dir", "sweep.dir", "sweep.subdir", "job.name", "job.chdir", "mode", "verbose")
    more = ("output_subdir", "callbacks", "callbacks.sweep", "sweeper", "sweeper.n_trials", "help")
    name = rng.choice((*names, *more, "searchpath", "nothing", "job.env_set", "launcher.n_jobs"))
    return [*args, f"hydra.{name}={_value(rng)}"]


def twice(rng: random.Random, script: str, args: list[str]) -> list[str]:
    return [*args, rng.choice(args)] if args else args


def left_out(rng: random.Random, script: str, args: list[str]) -> list[str]:
    at = _place(rng, args)
    return [*args[:at], *args[at + 1 :]]


def without_equals(rng: random.Random, script: str, args: list[str]) -> list[str]:
    return _change_one(rng, args, lambda arg: arg.replace("=", rng.choice(("", " ", ":")), 1))


def split_in_two(rng: random.Random, script: str, args: list[str]) -> list[str]:
    at = _place(rng, args)
    left, _, right = "".join(args[at : at + 1]).partition("=")
    return [*args[:at], f"{left}=", right, *args[at + 1 :]]


def flag(rng: random.Random, script: str, args: list[str]) -> list[str]:
    at = rng.randrange(len(args) + 1)
    return [*args[:at], *rng.choice(FLAGS).split(" "), *args[at:]]


def stray_word(rng: random.Random, script: str, args: list[str]) -> list[str]:
    at = rng.randrange(len(args) + 1)
    return [*args[:at], rng.choice((*TEXTS, *NUMBERS, *PLACES)), *args[at:]]


def swept(rng: random.Random, script: str, args: list[str]) -> list[str]:
    """Values of a sweep, without or with its flag."""
    mark = rng.choice(([], ["-m"], ["--multirun"]))
    return [*mark, *_change_one(rng, args, lambda arg: f"{arg},{_value(rng)}")]


def nothing_but(rng: random.Random, script: str, args: list[str]) -> list[str]:
    return args[: rng.randrange(3)]


def _value(rng: random.Random) -> str:
    return rng.choice(rng.choice((NUMBERS, TEXTS, PLACES)))


CHANGES: tuple[Change, ...] = (
    *(typo_in_key, typo_in_key, typo_in_value, typo_in_value, other_value, other_value),
    *(other_value, known_key, known_key, prefix, deleted_key, unknown_option, hydra_key),
    *(likely_value, likely_value, likely_value, likely_value),
    *(twice, left_out, without_equals, split_in_two, flag, stray_word, swept, nothing_but),
)

CONF = ROOT / "conf"


@cache
def known_keys(script: str) -> list[str]:
    """Keys of the command, and names of its groups."""
    name = Path(script).name
    return config_keys(name) if (CONF / f"{name}.yaml").is_file() else ["--out", "--url"]


def make_world(folder: Path) -> None:
    """Files and runs that the commands are about."""
    folder.mkdir(parents=True)
    write_corpus(folder / "corpus.txt")
    write_corpus(folder / "more.txt", 50)
    rows = [f"{'win a prize now' if i % 3 else 'see you at home'} {i}" for i in range(90)]
    labels = ["spam" if i % 3 else "ham" for i in range(90)]
    table = "".join(f"{label},{text}\n" for label, text in zip(labels, rows, strict=True))
    (folder / "spam.csv").write_text(f"label,text\n{table}")
    entries = [{"instruction": f"Say {i}.", "input": "", "output": f"{i}."} for i in range(60)]
    (folder / "instructions.json").write_text(json.dumps(entries))
    (folder / "prompts.txt").write_text("line 1\nline 2\n")
    (folder / "empty.txt").write_text("")
    (folder / "binary.bin").write_bytes(bytes(range(256)) * 20)
    (folder / "locked").write_text("a file where a folder might be")
    for name, args in (("pretrain", TEXT), ("classification", LABELLED)):
        _train(folder, RUNS[name], *args)
    _train(folder, RUNS["instruction"], *INSTRUCTIONS)
    _train(folder, UNFINISHED, *TEXT)
    (folder / UNFINISHED / "summary.json").unlink()
    whole = (folder / RUNS["pretrain"] / "checkpoints" / "best.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    for plots in folder.glob("outputs/*/*/plots"):
        shutil.rmtree(plots)


def _train(folder: Path, run_folder: str, *args: str) -> None:
    done = run("train", *args, f"hydra.run.dir={run_folder}", cwd=folder, timeout=1200, **OFFLINE)
    assert done.returncode == 0, done.stderr
