import json
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from gptlit.data.batch import InstructionBatch
from gptlit.data.instructions import InstructionDataModule
from gptlit.errors import UserError
from gptlit.tokenizer import get_tokenizer
from tests.data.recorder import record

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "instruction-data.json"
BYTES = get_tokenizer("byte")
PROMPT = {"name": "short", "template": "{instruction}>", "template_with_input": None}
ROWS = [
    {"instruction": f"{number}" * (1 + number % 4), "input": "", "output": f"{number} " * 2}
    for number in range(40)
]

published = pytest.mark.skipif(
    not REAL.exists(), reason=f"the book's instruction-data.json is not at {REAL}"
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "mine.json").write_text(json.dumps(ROWS))
    return str(tmp_path / "mine.json")


def module(path: str | None, **given: Any) -> InstructionDataModule:
    given = {"tokenizer": BYTES, "context_length": 32, "seed": 1, "batch_size": 4, **given}
    data = InstructionDataModule(path=path, **{"prompt": PROMPT, **given})
    data.prepare_data()
    data.setup("fit")
    return data


def place(rank: int, world_size: int) -> Any:
    """What a data module asks a Trainer."""
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def answers(batches: Any) -> list[str]:
    """The responses of batches."""
    found = []
    for batch in batches:
        for targets in batch.targets.tolist():
            learned = BYTES.decode([target for target in targets if target != -100])
            found += learned.split("<|endoftext|>")[:-1]
    return found


def test_splits_are_in_file_order(path: str) -> None:
    data = module(path)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 34,
        "test": 4,
        "validation": 2,
    }
    in_file = chain(data.splits["train"], data.splits["test"], data.splits["validation"])
    assert [entry.raw for entry in in_file] == ROWS
    mixed = module(path, shuffle=True)
    assert [entry.raw for entry in mixed.splits["train"]] != ROWS[:34]
    assert module(path, shuffle=True).splits == mixed.splits
    assert module(path, shuffle=True, seed=2).splits != mixed.splits


def test_splits_may_have_files_and_fields_of_their_own(path: str, tmp_path: Path) -> None:
    rows = [{"q": "ask", "output": f"{number}"} for number in range(3)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {}]))
    (tmp_path / "q.json").write_text(json.dumps([{**row, "q": row["instruction"]} for row in ROWS]))
    given: dict[str, Any] = {"instruction_field": "q", "test_path": str(tmp_path / "test.jsonl")}
    line = r"test\.jsonl: 1 of 4 entries cannot be used: line 4: no field 'q' \(there are: none\);"
    with pytest.raises(UserError, match=line):
        module(str(tmp_path / "q.json"), **given)
    data = module(str(tmp_path / "q.json"), **given, on_error="skip")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 38,
        "test": 3,
        "validation": 2,
    }
    assert Counter(answers(data.test_dataloader())) == Counter("012")
    told = f"1 broken skipped in {tmp_path / 'test.jsonl'} (line 4: no field 'q' (there are: none))"
    assert data.describe().endswith(told)
    with pytest.raises(UserError, match=r"mine\.json is both data\.path and data\.val_path; give"):
        module(path, val_path=path)
    with pytest.raises(UserError, match=r"data\.test_path=.*no\.json: there is no such file"):
        module(path, test_path=str(tmp_path / "no.json"))


@pytest.mark.parametrize("given", [{}, {"bucket": False}, {"pack": True}], ids=str)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_entry_is_learned_once_per_epoch(
    path: str, given: dict[str, Any], world_size: int
) -> None:
    data = module(path, **given)
    expected = sorted(entry.output for entry in data.splits["train"])
    orders = []
    loaders = []
    for rank in range(world_size):
        data.trainer = place(rank, world_size)
        loaders.append(data.train_dataloader())
    for _ in range(2):
        ranks = [list(loader) for loader in loaders]
        assert {len(batches) for batches in ranks} == {data.train_batches(world_size)}
        found = [answer for batches in ranks for answer in answers(batches)]
        assert sorted(found) == expected
        orders.append(found)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("given", [{}, {"pack": True}], ids=str)
def test_rows_say_where_an_entry_stands_in_its_split(path: str, given: dict[str, Any]) -> None:
    data = module(path, context_length=13, too_long="drop", **given)
    loaders = {"validation": data.val_dataloader(), "test": data.test_dataloader()}
    if not given:
        loaders["train"] = data.train_dataloader()
    for name, loader in loaders.items():
        seen = []
        for batch in loader:
            assert isinstance(batch, InstructionBatch)
            assert (batch.positions is None) is (batch.segments is None)
            rows = batch.rows.tolist()
            assert answers([batch]) == [data.splits[name][row].output for row in rows]
            seen += rows
        fitting = [
            row
            for row, entry in enumerate(data.splits[name])
            if len(entry.instruction) + 1 + len(entry.output) <= 13
        ]
        assert sorted(seen) == fitting
        assert len(fitting) < len(data.splits[name])


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_entry_is_evaluated_on_one_rank(path: str, world_size: int) -> None:
    data = module(path, eval_batch_size=3, val_fraction=0.3)
    found: Counter[str] = Counter()
    for rank in range(world_size):
        data.trainer = place(rank, world_size)
        assert {len(batch.rows) for batch in data.val_dataloader()} == {3}
        found.update(answers(data.val_dataloader()))
    assert found == Counter(entry.output for entry in data.splits["validation"])


def test_a_batch_has_entries_of_about_one_length(path: str) -> None:
    def padding(data: InstructionDataModule) -> int:
        sizes = [batch.input_ids.numel() for _ in range(3) for batch in data.train_dataloader()]
        return sum(sizes)

    assert padding(module(path, join_tokens=0)) < padding(module(path, join_tokens=0, bucket=False))


@pytest.mark.parametrize("pack", [False, True])
def test_prompts_are_learned_on_demand(path: str, pack: bool) -> None:
    def targets(**given: Any) -> int:
        batches = module(path, pack=pack, **given).train_dataloader()
        return sum(int((batch.targets != -100).sum()) for batch in batches)

    prompts = sum(len(row["instruction"]) + 1 for row in ROWS[:34])
    assert targets(mask_prompt=False) == targets() + prompts - 34  # not the first token of each


@pytest.mark.parametrize("given", [{}, {"pack": True}], ids=str)
def test_workers_change_nothing(path: str, given: dict[str, Any]) -> None:
    plain, ahead = module(path, **given), module(path, num_workers=2, **given)
    pairs = chain(
        zip(plain.train_dataloader(), ahead.train_dataloader(), strict=True),
        zip(plain.val_dataloader(), ahead.val_dataloader(), strict=True),
    )
    for batch, other in pairs:
        for tensor, expected in zip(batch, other, strict=True):
            assert (tensor is expected is None) or torch.equal(tensor, expected)


def test_describe_counts_all_that_was_changed(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        {"instruction": "x" * 10, "output": "y" * 30},
        {"instruction": "x" * 32, "output": "y"},
        {"instruction": "", "output": "y"},
        {"instruction": "z", "output": "y"},
    ]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="1 of 44 entries cannot be used: entry 43: instruction is"):
        module(str(path))
    data = module(str(path), on_error="skip")
    assert data.describe() == (
        f"{path}: 36 train, 3 validation, 4 test entries, 389 training tokens, 232 of them in "
        "responses (prompt short, byte); 1 cut to 32 tokens; 1 left out, too long for 32 tokens; "
        "1 broken skipped (entry 43: instruction is empty)"
    )
    assert len(data.broken) == 1
    data = module(str(path), on_error="skip", too_long="drop", context_length=99)
    assert data.describe().endswith(
        "(prompt short, byte); 1 broken skipped (entry 43: instruction is empty)"
    )
    data = module(str(path), on_error="skip", too_long="drop")
    assert "; 2 left out, too long for 32 tokens; " in data.describe()


def test_every_answer_of_a_chat_is_counted(tmp_path: Path) -> None:
    roles = ("user", "assistant") * 2
    turns = [{"role": role, "content": role[:2]} for role in roles]
    (tmp_path / "chats.json").write_text(json.dumps([{"messages": turns}] * 20))
    data = module(str(tmp_path / "chats.json"))
    # us>as|us>as| is twelve tokens, of which the last is no input.
    told = f"17 train, 1 validation, 2 test entries, {17 * 11} training tokens, {17 * 6} of them in"
    assert told in data.describe()
    assert answers(data.val_dataloader()) == ["as", "as"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"context_length": 1},
            r"none of the 34 entries for train fits in model\.context_length=1; "
            r"the longest has \d+ tokens: raise it",
        ),
        ({"val_fraction": 0.95}, r"data\.val_fraction=0\.95 .* leave none for train"),
        ({"prompt": {"name": "x", "template": "x"}}, r"needs a place for the instruction"),
    ],
)
def test_data_of_which_nothing_is_left_are_named(
    path: str, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        module(path, **given)


def test_fewer_entries_than_processes_are_named(path: str) -> None:
    data = module(path)
    assert data.train_batches(34) == 1
    with pytest.raises(UserError, match="training data are 34 entries, but"):
        data.train_batches(35)


def test_a_published_file_is_downloaded_where_no_path_is_set(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(urls: list[str], target: Path, *, sha256: str, hint: str) -> Path:
        calls.append((urls, target, sha256))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(path).read_bytes())
        return target

    fake = ModuleType("gptlit.download")
    fake.download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gptlit.download", fake)
    data = module(
        None, urls=["https://a"], sha256="12", file_name="entries.json", cache_dir=tmp_path / "c"
    )
    assert set(map(str, calls)) == {
        str((["https://a"], tmp_path / "c" / "downloads" / "entries.json", "12"))
    }
    assert data.describe().startswith("entries.json: 34 train")
    with pytest.raises(UserError, match=r"data\.path is not set"):
        module(None)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("steps", [4, 9, 13])
def test_a_trainer_resumes_in_the_middle_of_an_epoch(
    path: str, tmp_path: Path, pack: bool, steps: int
) -> None:
    whole = record(module(path, pack=pack), InstructionBatch, max_steps=20)
    half = record(module(path, pack=pack), InstructionBatch, max_steps=steps)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest = record(
        module(path, pack=pack), InstructionBatch, checkpoint=tmp_path / "half.ckpt", max_steps=20
    )
    assert half.seen + rest.seen == whole.seen
    assert len(whole.seen) == 20


@published
def test_the_books_file_splits_as_in_the_book() -> None:
    rows = json.loads(REAL.read_text())
    alpaca: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/prompt_format/alpaca.yaml"))
    data = module(
        str(REAL), tokenizer=get_tokenizer("gpt2"), prompt=alpaca, context_length=1024, batch_size=8
    )
    splits = {"train": rows[:935], "test": rows[935:1045], "validation": rows[1045:]}
    assert {name: [entry.raw for entry in data.splits[name]] for name in splits} == splits
    assert data.train_batches() == 117
    assert data.describe() == (
        f"{REAL}: 935 train, 55 validation, 110 test entries, 52,760 training tokens, 12,266 of "
        "them in responses (prompt alpaca, gpt2)"
    )


@published
def test_the_books_texts_have_the_ids_of_the_whole() -> None:
    """Prompt and response are tokenized apart; no token would span their border."""
    alpaca: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/prompt_format/alpaca.yaml"))
    gpt2 = get_tokenizer("gpt2")
    data = module(str(REAL), tokenizer=gpt2, prompt=alpaca, context_length=1024, batch_size=1)
    for batch in data.val_dataloader():
        entry = data.splits["validation"][int(batch.rows)]
        whole = data.prompt.format_prompt(entry.instruction, entry.input) + entry.output
        assert batch.input_ids[0].tolist() == gpt2.encode(whole)
        assert batch.targets[0].tolist()[-1] == gpt2.eot_id
