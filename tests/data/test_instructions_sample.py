import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from gptlit.data.entry import Entry
from gptlit.data.instructions_sample import InstructionsSampleDataModule, made_up_tasks
from gptlit.tokenizer import get_tokenizer

CONF = Path(__file__).parents[2] / "conf"
TASKS = [
    "copy",
    "capitals",
    "reverse",
    "first",
    "last",
    "count",
    "twice",
    "sum",
    "next",
    "opposite",
]


def module(prompt: str = "input-first", **given: Any) -> InstructionsSampleDataModule:
    file = CONF / "prompt_format" / f"{prompt}.yaml"
    values: Any = OmegaConf.to_container(OmegaConf.load(file))
    settings = {"tokenizer": get_tokenizer("byte"), "context_length": 128, "batch_size": 32}
    data = InstructionsSampleDataModule(prompt=values, **{**settings, "seed": 1, **given})
    data.prepare_data()
    data.setup("fit")
    return data


def by_task(entries: list[Entry]) -> dict[str, list[Entry]]:
    """Entries sorted by what they ask for."""
    names = {
        entry.instruction: name
        for name, cases in zip(TASKS, made_up_tasks(), strict=True)
        for entry in cases
    }
    found: dict[str, list[Entry]] = {name: [] for name in TASKS}
    for entry in entries:
        found[names[entry.instruction]].append(entry)
    return found


def test_the_instructions_are_always_the_same() -> None:
    assert list(made_up_tasks()) == list(made_up_tasks()) != list(made_up_tasks(seed=1))
    assert module().splits == module(seed=2).splits
    assert module(shuffle=True).splits != module().splits


def test_each_task_has_several_wordings_of_its_own() -> None:
    wordings = [{entry.instruction for entry in cases} for cases in made_up_tasks()]
    assert min(map(len, wordings)) >= 3
    assert sum(map(len, wordings)) == len(set().union(*wordings))


def test_the_answers_are_right() -> None:
    tasks = by_task([entry for cases in made_up_tasks() for entry in cases])
    right = {
        "copy": lambda word: word,
        "capitals": str.upper,
        "reverse": lambda word: "".join(reversed(word)),
        "first": lambda word: word[:1],
        "last": lambda word: word[-1:],
        "count": lambda word: str(len(list(word))),
        "twice": lambda word: " ".join([word] * 2),
        "sum": lambda asked: str(sum(map(int, asked.split(" + ")))),
        "next": lambda number: str(int(number) + 1),
    }
    for name, answer in right.items():
        assert [entry.output for entry in tasks[name]] == [answer(e.input) for e in tasks[name]]
    opposites = {entry.input: entry.output for entry in tasks["opposite"]}
    assert all(opposites[opposites[word]] == word != opposites[word] for word in opposites)


def test_what_is_tested_was_never_asked_in_training() -> None:
    splits = {name: by_task(entries) for name, entries in module().splits.items()}

    def subjects(split: str, task: str) -> set[frozenset[str]]:
        return {frozenset(entry.input.split(" + ")) for entry in splits[split][task]}

    for held_out in ("validation", "test"):
        for task in TASKS[:-1]:
            assert not subjects(held_out, task) & subjects("train", task), task
        trained = {(e.instruction, e.input) for e in splits["train"]["opposite"]}
        tested = {(e.instruction, e.input) for e in splits[held_out]["opposite"]}
        assert not tested & trained
        # The fact itself was seen in other words.
        assert {subject for _, subject in tested} <= {subject for _, subject in trained}


def test_every_task_is_tested_about_equally_often() -> None:
    data = module()
    for name, least in (("train", 600), ("validation", 10), ("test", 25)):
        counts = [len(entries) for entries in by_task(data.splits[name]).values()]
        assert least <= min(counts) <= max(counts) <= 2 * min(counts)
    starts = [len(entries) for entries in by_task(data.splits["train"][:1000]).values()]
    assert min(starts) > 50  # the tasks are mixed


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2"])
def test_all_fits_into_a_short_context(tokenizer: str) -> None:
    data = module(tokenizer=get_tokenizer(tokenizer), context_length=48)
    assert ";" not in data.describe()  # nothing cut or left out
    assert data.describe().startswith("made-up instructions: ")


def test_the_input_comes_first_so_that_it_stands_in_place() -> None:
    prompt = module().prompt
    assert prompt.format_prompt("Reverse:", "lamp") == "lamp\nReverse:\n"
    assert prompt.format_prompt("Hello") == "Hello\n"


def test_a_path_takes_their_place(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": str(number)} for number in range(40)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    data = module(path=str(tmp_path / "mine.json"))
    assert [entry.output for entry in data.splits["train"]] == [str(n) for n in range(34)]
