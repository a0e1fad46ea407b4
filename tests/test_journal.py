"""What is kept of interrupted work, and whose it is."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlit.errors import UserError
from gptlit.journal import Journal, digest


@given(
    st.lists(
        st.tuples(
            st.sampled_from("xy"),
            st.integers(1, 3),
            st.integers(0, 40),
            st.sampled_from([b"", b"\n", bytes(9), b'{"of": "x']),
        ),
        max_size=5,
    )
)
def test_what_crashes_leave_gives_no_work_the_rows_of_another(
    tmp_path_factory: pytest.TempPathFactory, crashes: list[tuple[str, int, int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    for work, n, lost, tail in crashes:
        Journal(path, work).add({"of": work} for _ in range(n))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - lost] + tail)
    for work in "xy":
        journal = Journal(path, work)
        assert all(row == {"of": work} for row in journal.rows)
        journal.add([{"of": work, "new": 1}])
        assert Journal(path, work).rows == journal.rows


@pytest.mark.parametrize(
    ("content", "rows", "shared"),
    [
        ("", [], False),
        ('{"belongs_to": "x"}\n{"a": 1}\n{"a":', [{"a": 1}], False),
        ('{"belongs_to": "x"}\n{"a": 1}\n\0\0\n{"a": 2}\n', [{"a": 1}], True),
        ("my notes\n", [], True),
        ("[" * 100_000, [], True),
        ('{"belongs_to": "y"}\n{"a": 1}\n{"belongs_to": "x"}\n{"a": 2}\n', [{"a": 2}], True),
    ],
    ids=["empty", "cut short", "damaged", "no journal", "deep", "of other work"],
)
def test_it_knows_what_is_of_this_work_and_whether_all_of_it_is(
    tmp_path: Path, content: str, rows: list[dict[str, int]], shared: bool
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    journal = Journal(tmp_path / "a.jsonl", "x")
    assert (journal.rows, journal.shared) == (rows, shared)


def test_any_text_survives_it(tmp_path: Path) -> None:
    text = "é \u2028 \ud800 😀 \\ud800 \x00 \n"
    Journal(tmp_path / "a.jsonl", "x").add([{"text": text}])
    assert Journal(tmp_path / "a.jsonl", "x").rows == [{"text": text}]


def test_a_digest_is_of_the_values_not_of_their_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def test_a_row_that_cannot_be_saved_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "work" / "a.jsonl", "x")
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(UserError, match=r"a\.jsonl: No such file or directory; choose another f"):
        journal.add([{"a": 1}])
