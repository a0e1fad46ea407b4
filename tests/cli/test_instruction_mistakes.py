"""What is wrong with instructions, their form or a command about them: one line that names the
entry and the cure, exit code 2, and nothing left behind."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from gptlit.cli import allocator, evaluate, generate, train
from gptlit.tasks.instruction import InstructionTask
from gptlit.tasks.pretrain import PretrainTask
from tests.inference.classifiers import save

GOOD = {"instruction": "Say it.", "input": "", "output": "It."}
SHAPE = {"vocab_size": 257, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1}


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "a"} for role in roles]}


FILES: dict[str, list[Any] | str] = {
    "good.json": [GOOD] * 40,
    "text.json": "Say it.",
    "cut.json": '[{"instruction": "a", "outp',
    "object.json": '{"instruction": "a", "output": "b"}',
    "nothing.json": "[]",
    "empty.json": "",
    "empty.jsonl": "\n\n",
    "missing.json": [GOOD, {"instruction": "a", "inptu": "b"}, GOOD],
    "no-response.json": [GOOD, GOOD, {**GOOD, "output": " \n"}, *[{**GOOD, "output": ""}] * 3],
    "no-instruction.json": [GOOD, {**GOOD, "instruction": ""}],
    "types.json": [{**GOOD, "output": 5}, GOOD, {**GOOD, "input": ["x"]}, "text", None],
    "broken.jsonl": f'{json.dumps(GOOD)}\n\n{{"instruction": "a",}}\n{json.dumps(GOOD)}\n',
    "chat.json": [chat("user", "assistant"), chat("user"), chat("user", "tool", "assistant")],
    "one.json": [GOOD],
    "b-scores.json": [GOOD],
    "long.json": [{**GOOD, "instruction": "Say it. " * 20}] * 40,
    "names.tsv": "question\toutput\nSay it.\tIt.\n",
    "notes.txt": "Say it.",
}
EMPTY = r"has no entries; expected some with an instruction and an output$"
MEND = r"mend them, or leave them out: data\.on_error=skip$"

DATA = {
    "text.json": r"text\.json is not JSON: .*; expected one list of entries",
    "cut.json": r"cut\.json is not JSON: .*line 1 column 23.*expected one list of entries",
    "object.json": r"object\.json holds an object; expected one list of entries",
    "nothing.json": EMPTY,
    "empty.json": EMPTY,
    "empty.jsonl": EMPTY,
    "missing.json": r"1 of 3 entries cannot be used: entry 2: no field 'output' \(there are: "
    rf"'instruction', 'inptu'\); {MEND}",
    "no-response.json": rf"4 of 6 entries cannot be used: entries 3-6: output is empty; {MEND}",
    "no-instruction.json": rf"entry 2: instruction is empty; {MEND}",
    "types.json": r"4 of 5 .*: entry 1: output is a number, expected text; entry 3: input is a "
    rf"list, expected text; entry 4: it is text, .*; entry 5: it is null, .*; {MEND}",
    "broken.jsonl": rf"1 of 3 .*: line 3: not JSON \(.*column .*\); {MEND}",
    "chat.json": r"2 of 3 .*: entry 2: its last message is by the user; expected an answer by the "
    rf"assistant; entry 3: message 2: role is 'tool', expected 'assistant'; {MEND}",
    "rows.parquet": rf"1 of 2 .*: row 2: output is null, expected text; {MEND}",
    "damaged.parquet": r"damaged\.parquet cannot be read as Parquet: .*; write it again$",
    "names.tsv": r"1 of 1 .*: row 1: no field 'instruction' \(there are: 'question', 'output'\); "
    r"name theirs with data\.instruction_field=question$",
    "notes.txt": r"notes\.txt: expected a file whose name ends in \.json, \.jsonl, \.csv, \.tsv",
    "god.json": r"there is no such file; did you mean (data\.path=)?good\.json\?$",
    ".": r"this is a folder; give one file whose name ends in",
}
"""Files that neither train.py nor evaluate.py takes."""

TRAIN = {
    "one entry": (["data.path=one.json"], r"of 1 entries, .* leave none for train.*give more"),
    "all too long": (
        ["data.path=long.json", "model.context_length=32"],
        r"none of the \d+ entries for train fits in model\.context_length=32; the longest has 165 "
        r"tokens: raise it, or choose a shorter prompt_format",
    ),
    "all dropped": (
        ["data.path=long.json", "data.too_long=drop", "model.context_length=163"],
        r"none of the \d+ entries for train fits in model\.context_length=163",
    ),
    "neither cut nor dropped": (["data.too_long=keep"], r"data\.too_long=keep: allowed are cut, d"),
    "no place for the instruction": (
        ["prompt_format=custom", "prompt_format.template=Answer: {response}"],
        r"prompt_format\.template='Answer: \{response\}': it needs a place for the instruction, "
        r"found none; write \{instruction\} where it goes, before \{response\}$",
    ),
    "a place behind the response": (
        ["prompt_format=custom", "prompt_format.template={response} to {instruction}"],
        r"found only behind \{response\}",
    ),
    "no place for the input": (
        ["prompt_format.template_with_input={instruction}: {response}"],
        r"template_with_input='\{instruction\}: \{response\}': it needs a place for the input",
    ),
    "no template": (["prompt_format=custom"], r"prompt_format\.template must be given"),
    "unknown form": (["prompt_format=alpacka"], r"unknown prompt_format=alpacka.*mean alpaca\?"),
    "LoRA of nothing": (["task.trainable=lora", "task.lora.targets=[]"], r"lora\.targets"),
    "rank": (["task.trainable=lora", "task.lora.rank=99"], r"lora\.rank.* 16"),
    "what trains": (["task.trainable=head"], r"task\.trainable=head: allowed are all, lora"),
    "adapter of all": (["task.adapter_only=true"], r"is for task\.trainable=lora, not all"),
    "adapter to chance": (
        ["task.trainable=lora", "task.adapter_only=true"],
        r"weights=none are random and stand in no file: choose other weights",
    ),
    "data of another task": (["data=pydocs"], r"for task=instruction choose one of data=instructi"),
}
EVALUATE = {
    "no run": (["task=instruction", "output_root=none"], r"no finished instruction run in none/"),
    "no run folder": (["ckpt=answers.ckpt"], r"lies in no run folder, .*: give data=FILE with ins"),
    "no server": (
        ["ckpt=answers.ckpt", "judge=ollama", "judge.base_url=http://127.0.0.1:9"],
        r"no judge answers at http://127\.0\.0\.1:9 \(Connection refused\): start it with `ollama "
        r"serve` and `ollama pull llama3`; the answers stay saved in a\.json, run the comm",
    ),
    "no key": (
        ["ckpt=answers.ckpt", "judge=openai"],
        r"export OPENAI_API_KEY=KEY, or give judge\.",
    ),
    "no place for the answer": (
        ["ckpt=answers.ckpt", "judge=ollama", "judge.prompt=Good?"],
        r"judge\.prompt has no \{response\}",
    ),
    "a judge of text": (
        ["ckpt=writes.ckpt", "judge=ollama"],
        r"judge=ollama scores answers to ins",
    ),
    "instructions as the result": (
        ["ckpt=answers.ckpt", "data=good.json", "output=./good.json"],
        r"output: good\.json is a file that is read; give another output=FILE",
    ),
    "instructions as the scores": (
        ["ckpt=answers.ckpt", "data=b-scores.json", "output=b.json"],
        r"output: b-scores\.json is a file that is read; give another output=FILE",
    ),
    "a text as the result": (
        ["ckpt=writes.ckpt", "data=[*.txt]", "output=notes.txt"],
        r"output: notes\.txt is a file that is read",
    ),
    "a model as the result": (
        ["ckpt=writes.ckpt", "data=notes.txt", "output=writes.ckpt"],
        r"output: writes\.ckpt is a file that is read",
    ),
    "several files": (
        ["ckpt=answers.ckpt", "data=[broken.jsonl]"],
        r"takes one file of instr",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    for name, content in FILES.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    pd.DataFrame([GOOD, {**GOOD, "output": None}]).to_parquet(folder / "rows.parquet")
    (folder / "damaged.parquet").write_bytes((folder / "rows.parquet").read_bytes()[:-9])
    settings = {"prompt": {"name": "x", "template": "{instruction}>"}, "trainable": "all"}
    answers = InstructionTask(model=SHAPE, tokenizer="byte", settings=settings)
    save(answers, folder / "answers.ckpt")
    save(PretrainTask(model=SHAPE, tokenizer="byte"), folder / "writes.ckpt")
    return folder


class Commands:
    """The commands in this process: a mistake need not wait for an interpreter."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.folder, self.patch, self.capsys = folder, patch, capsys
        patch.chdir(folder)
        patch.setenv("NO_PROXY", "*")
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.setattr(allocator, "restart_with_tuned_malloc", lambda: None)

    def mistake(self, command: ModuleType, *args: str) -> str:
        """The line on stderr."""
        self.patch.setattr("sys.argv", [command.__name__, *args])
        before = self.files()
        with pytest.raises(SystemExit) as ended:
            command.main()
        line: str = self.capsys.readouterr().err
        assert ended.value.code == 2, line
        assert line.startswith("error: ") and line.count("\n") == 1, line
        assert {path for path in self.files() - before if path.parts[0] == "outputs"} == set()
        return line.removesuffix("\n")

    def files(self) -> set[Path]:
        return {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Commands:
    return Commands(folder, monkeypatch, capsys)


TRAINING = (
    "task=instruction",
    "model=gpt2-nano",
    "weights=none",
    "device=cpu",
    "logger=csv",
    "model.emb_dim=16",
    "model.n_heads=2",
    "prompt_format=plain",
)


@pytest.mark.parametrize("name", DATA)
def test_files_that_cannot_be_used(commands: Commands, name: str) -> None:
    line = commands.mistake(train, *TRAINING, f"data.path={name}")
    assert re.search(DATA[name], line), line
    line = commands.mistake(evaluate, "ckpt=answers.ckpt", f"data={name}", "device=cpu")
    kinds = r"data\.path=(notes\.txt|\.):|there is no such? file|holds no text|has no rows"
    assert re.search(rf"{DATA[name]}|{kinds}", line), line


@pytest.mark.parametrize("case", TRAIN)
def test_commands_that_cannot_train(commands: Commands, case: str) -> None:
    args, pattern = TRAIN[case]
    given = {arg.partition("=")[0] for arg in args}
    usual = [arg for arg in TRAINING if arg.partition("=")[0] not in given]
    usual += [] if given & {"data", "data.path"} else ["data.path=good.json"]
    line = commands.mistake(train, *usual, *args)
    assert re.search(pattern, line), line


@pytest.mark.parametrize("case", EVALUATE)
def test_commands_that_cannot_evaluate(commands: Commands, case: str) -> None:
    args, pattern = EVALUATE[case]
    usual = ["device=cpu", "max_new_tokens=1", "output=a.json"]
    usual += ["data=good.json"] if "judge" in " ".join(args) else []
    before = {path: path.read_bytes() for path in commands.folder.iterdir() if path.is_file()}
    line = commands.mistake(evaluate, *usual, *args)
    assert re.search(pattern, line), line
    assert all(path.read_bytes() == content for path, content in before.items())


def test_an_input_a_system_and_a_history_are_for_instructions(commands: Commands) -> None:
    line = commands.mistake(generate, "ckpt=writes.ckpt", "prompt=a", "input=b", "device=cpu")
    assert "input=... is what an instruction is about, but this model continues text" in line
    for given, told in (("history=true", "history=true"), ("system=a", "system=...")):
        line = commands.mistake(generate, "ckpt=writes.ckpt", given, "device=cpu")
        assert f"{told} is for models that answer instructions, but this one continues" in line
