import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.data.labelled_files import LabelledTable
from gptlit.data.labelled_saved import saved_splits
from gptlit.data.labelled_splits import SPLITS, Splits, SplitSettings, make_splits
from gptlit.errors import UserError

Rows = list[tuple[str, str]]


def table(rows: Rows, name: str = "rows.csv") -> LabelledTable:
    made = LabelledTable(name)
    for number, (text, label) in enumerate(rows, 2):
        made.add(f"{name}:{number}", text, label)
    return made


def how(**given: Any) -> SplitSettings:
    defaults = {"seed": 1, "balance": "none", "deduplicate": True}
    return SplitSettings(**{**defaults, "val_fraction": 0.1, "test_fraction": 0.2, **given})


def rows_of(splits: Splits) -> dict[str, Rows]:
    return {
        name: list(zip(part.texts, part.labels, strict=True))
        for name, part in splits.tables.items()
    }


def numbered(**counts: int) -> Rows:
    """Rows of different texts, as many of each label as given, the labels in turn."""
    rows = [(f"{label} {number}", label) for label, n in counts.items() for number in range(n)]
    return sorted(rows, key=lambda row: int(row[0].split()[1]))


@settings(derandomize=True, max_examples=100)
@given(
    counts=st.lists(st.integers(10, 60), min_size=2, max_size=4),
    seed=st.integers(0, 2**32),
    val_fraction=st.sampled_from([0.1, 0.15, 0.3]),
    test_fraction=st.sampled_from([0.1, 0.2, 0.35]),
    balance=st.sampled_from(["none", "undersample", "weights"]),
)
def test_splits_share_the_rows_and_each_class_in_proportion(
    counts: list[int], seed: int, val_fraction: float, test_fraction: float, balance: str
) -> None:
    rows = numbered(**{chr(97 + i): n for i, n in enumerate(counts)})
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    splits = make_splits({"train": table(rows)}, how(seed=seed, balance=balance, **fractions))
    parts = rows_of(splits)
    every = [row for part in parts.values() for row in part]
    total = Counter(label for _, label in every)
    if balance == "undersample":
        assert set(total.values()) == {min(counts)}
        assert len(set(every)) == len(every) == len(rows) - splits.counts.left_out
        assert set(every) <= set(rows)
    else:
        assert sorted(every) == sorted(rows)
        assert splits.counts.left_out == 0
    sizes = [len(parts[name]) for name in SPLITS]
    n = len(every)
    assert sizes[0] == math.floor(round(n * (1 - val_fraction - test_fraction), 6))
    assert sizes[1] == math.floor(round(n * val_fraction, 6))
    for name, size in zip(SPLITS, sizes, strict=True):
        for label, count in Counter(label for _, label in parts[name]).items():
            # A part of the merged row has each class's share of it, give or take a row per end.
            assert abs(count - size * total[label] / n) < 2, (name, label)
    assert splits.classes == sorted(total)


def test_the_book_s_numbers() -> None:
    rows = numbered(ham=4827, spam=747)
    splits = make_splits({"train": table(rows)}, how(balance="undersample", seed=123))
    assert [len(splits.tables[name].texts) for name in SPLITS] == [1045, 149, 300]
    assert Counter(splits.tables["test"].labels) == {"ham": 150, "spam": 150}
    assert splits.counts.rows == 5574
    assert splits.counts.left_out == 4827 - 747


def test_the_seed_chooses_the_rows() -> None:
    given = {"train": table(numbered(ham=80, spam=30))}
    one, same, other = (
        rows_of(make_splits(given, how(seed=seed, balance="undersample"))) for seed in (1, 1, 2)
    )
    assert one == same
    assert all(one[name] != other[name] for name in SPLITS)


def test_no_text_stands_in_two_splits() -> None:
    rows = numbered(ham=50, spam=50)
    repeated = rows * 3 + [(text, "spam") for text, label in rows[:20] if label == "ham"]
    splits = make_splits({"train": table(repeated)}, how())
    texts = [text for part in rows_of(splits).values() for text, _ in part]
    assert sorted(texts) == sorted(text for text, _ in rows)
    assert splits.counts.duplicates == 210
    assert splits.counts.conflicts == 10
    assert Counter(label for part in rows_of(splits).values() for _, label in part) == {
        "ham": 50,
        "spam": 50,
    }, "the first row's label counts"
    kept = make_splits({"train": table(repeated)}, how(deduplicate=False))
    assert sum(map(len, rows_of(kept).values())) == 310
    assert kept.counts.duplicates == 0


def test_tables_given_for_validation_and_test_stay_whole() -> None:
    rows = numbered(ham=40, spam=40)
    validation, test = rows[:10] + rows[:2], [*rows[5:15], ("new", "ham"), ("new", "ham")]
    given = {"train": table(rows), "validation": table(validation), "test": table(test)}
    splits = make_splits(given, how())
    parts = rows_of(splits)
    assert parts["test"] == test
    assert parts["validation"] == rows[:5] + rows[:2], "what the test has is left out"
    assert parts["train"] == rows[15:]
    assert splits.counts.duplicates == 5 + 15
    plain = rows_of(make_splits(given, how(deduplicate=False)))
    assert (plain["train"], plain["validation"], plain["test"]) == (rows, validation, test)


@pytest.mark.parametrize(("split", "sizes"), [("test", [92, 11, 2]), ("validation", [82, 2, 21])])
def test_one_table_beside_the_other_leaves_the_rest_to_split(split: str, sizes: list[int]) -> None:
    given = {
        "train": table(numbered(ham=53, spam=50)),
        split: table([("x", "ham"), ("y", "spam")]),
    }
    splits = make_splits(given, how())
    assert [len(splits.tables[name].texts) for name in SPLITS] == sizes


MISTAKES: list[tuple[dict[str, Rows], dict[str, Any], str]] = [
    ({"train": numbered(ham=20)}, {}, r"all 20 rows of rows\.csv have the label 'ham'.*label_col"),
    ({"train": numbered(ham=4, spam=4)}, {}, r"the validation split of rows\.csv is empty \(5 tr"),
    (
        {"train": [(f"text {n % 3}", "ab"[n % 2]) for n in range(40)]},
        {},
        r"is empty \(2 train, .* 37 duplicates removed; check data\.text_column\)",
    ),
    (
        {"train": numbered(ham=40, spam=2)},
        {"balance": "undersample"},
        r"is empty \(2 train, .* rows, 38 left out to balance the classes\); give more rows",
    ),
    (
        {"train": numbered(ham=20, spam=20)},
        {"val_fraction": 0.5, "test_fraction": 0.5},
        r"val_fraction=0\.5 and data\.test_fraction=0\.5 leave nothing to train on",
    ),
    (
        {"train": numbered(ham=20, spam=20)},
        {"test_fraction": 0.0, "val_fraction": 0.0},
        r"the validation split .* is empty \(40 train, 0 validation, 0 test rows\)",
    ),
    (
        {"train": [(f"text {n}", f"label {n}") for n in range(30)]},
        {},
        r"rows\.csv:\d+: the label 'label .*', which the validation split has, is not among those "
        r"to train on \('label 0', .* and 13 more\)",
    ),
    (
        {"train": numbered(ham=20, spam=20), "test": [("x", "ham"), ("y", "eggs")]},
        {},
        r"rows\.csv:3: the label 'eggs', which the test split has, .*\('ham', 'spam'\)",
    ),
    (
        {"train": numbered(ham=20, spam=20), "validation": numbered(ham=20, spam=20)},
        {},
        r"none of the 40 rows of rows\.csv is left for train: .*data\.deduplicate=false",
    ),
]


@pytest.mark.parametrize(("given", "settings", "told"), MISTAKES)
def test_what_cannot_be_split_is_named(
    given: dict[str, Rows], settings: dict[str, Any], told: str
) -> None:
    tables = {name: table(rows) for name, rows in given.items()}
    with pytest.raises(UserError, match=told) as raised:
        make_splits(tables, how(**settings))
    assert "\n" not in str(raised.value)


AWKWARD: Rows = [
    *numbered(ham=20, spam=20),
    ('"quoted", and\r\nlines\rof\nall kinds\t', "ham"),
    ("", "spam"),
    ("\ufeff日本 😀\x85 \u2028", "a, label"),
    *((f"more {n}", "a, label") for n in range(9)),
]


def test_saved_splits_are_found_again(tmp_path: Path) -> None:
    given = {"train": table(AWKWARD * 2)}
    made = saved_splits(given, how(), tmp_path, None)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == [
        "splits.json",
        "test.csv",
        "train.csv",
        "validation.csv",
    ]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    found = saved_splits(given, how(), tmp_path, None)
    assert rows_of(found) == rows_of(made) == rows_of(make_splits(given, how()))
    assert (found.counts, found.classes) == (made.counts, made.classes)
    assert found.tables["train"].name == "rows.csv"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    saved_splits(given, how(balance="weights"), tmp_path, None)
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert folders == [folder], "weights need no splits of their own"


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (AWKWARD, {"seed": 2}),
        (AWKWARD, {"balance": "undersample"}),
        (AWKWARD, {"val_fraction": 0.2}),
        (AWKWARD, {"deduplicate": False}),
        ([*AWKWARD, ("one more", "ham")], {}),
        ([(text, "eggs" if label == "ham" else label) for text, label in AWKWARD], {}),
    ],
)
def test_other_rows_and_settings_make_other_splits(
    tmp_path: Path, rows: Rows, settings: dict[str, Any]
) -> None:
    saved_splits({"train": table(AWKWARD)}, how(), tmp_path, None)
    other = saved_splits({"train": table(rows)}, how(**settings), tmp_path, None)
    assert rows_of(other) == rows_of(make_splits({"train": table(rows)}, how(**settings)))


def test_a_folder_of_yours_keeps_its_splits(tmp_path: Path) -> None:
    given = {"train": table(AWKWARD)}
    mine = tmp_path / "splits" / "mine"
    made = saved_splits(given, how(), tmp_path, mine)
    assert rows_of(saved_splits(given, how(seed=7), tmp_path, mine)) == rows_of(made)
    with (mine / "test.csv").open("a", newline="") as file:
        file.write("by hand,ham\r\n")
    edited = saved_splits(given, how(), tmp_path, mine)
    assert rows_of(edited)["test"] == [*rows_of(made)["test"], ("by hand", "ham")]
    for other, told in [
        ({"val_fraction": 0.2}, r"made from val_fraction=0\.1, not 0\.2; .*data\.splits_dir"),
        ({"deduplicate": False}, r"made from deduplicate=True, not False"),
    ]:
        with pytest.raises(UserError, match=told):
            saved_splits(given, how(**other), tmp_path, mine)
    with pytest.raises(UserError, match=r"the splits in .*mine were made from other rows"):
        saved_splits({"train": table(AWKWARD[:-1])}, how(), tmp_path, mine)


def test_the_folder_may_be_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, here = {"train": table(AWKWARD)}, tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    made = saved_splits(given, how(), tmp_path, Path())
    assert rows_of(saved_splits(given, how(), tmp_path, here)) == rows_of(made)


def test_what_someone_else_wrote_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("Label,Text\nham,x\n")
    with pytest.raises(UserError, match=r"train\.csv was not written by gptlit.*data\.test_path"):
        saved_splits({"train": table(AWKWARD)}, how(), tmp_path, tmp_path)
    assert (tmp_path / "train.csv").read_text() == "Label,Text\nham,x\n"


@pytest.mark.parametrize("lost", ["train.csv", "test.csv", "splits.json"])
def test_splits_of_a_killed_run_are_made_again(tmp_path: Path, lost: str) -> None:
    given = {"train": table(AWKWARD)}
    made = saved_splits(given, how(), tmp_path, tmp_path / "mine")
    (tmp_path / "mine" / lost).unlink()
    if lost == "splits.json":  # which is written first
        for name in SPLITS:
            (tmp_path / "mine" / f"{name}.csv").unlink()
    again = saved_splits(given, how(), tmp_path, tmp_path / "mine")
    assert rows_of(again) == rows_of(made)
    assert len(list((tmp_path / "mine").iterdir())) == 4


@pytest.mark.parametrize("damage", ["{", "[]", '{"made_from": {}}', '{"made_from": 1}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: str) -> None:
    given = {"train": table(AWKWARD)}
    saved_splits(given, how(), tmp_path, tmp_path / "mine")
    (tmp_path / "mine" / "splits.json").write_text(damage)
    with pytest.raises(UserError, match=r"splits\.json is damaged; delete"):
        saved_splits(given, how(), tmp_path, tmp_path / "mine")


def test_processes_that_come_at_once_agree(tmp_path: Path) -> None:
    given = {"train": table(AWKWARD)}
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(saved_splits, given, how(), tmp_path, None) for _ in range(8)]
    assert len({json.dumps(rows_of(job.result())) for job in jobs}) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot keep the splits in .*data\.splits_dir=… or"):
        saved_splits({"train": table(AWKWARD)}, how(), tmp_path / "file" / "cache", None)
