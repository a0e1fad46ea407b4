"""What is kept of interrupted work, and whose it is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlit.journal import Journal


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
    ("content", "shared"),
    [
        ("", False),
        ('{"belongs_to": "x"}\n{"a": 1}\n{"a":', False),
        ("my notes\n", True),
        ('{"belongs_to": "y"}\n{"a": 1}\n{"belongs_to": "x"}\n{"a": 2}\n', True),
    ],
    ids=["empty", "cut short", "no journal", "of other work"],
)
def test_it_knows_whether_all_of_it_is_of_this_work(
    tmp_path: Path, content: str, shared: bool
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    assert Journal(tmp_path / "a.jsonl", "x").shared == shared


def test_any_text_survives_it(tmp_path: Path) -> None:
    text = "é \u2028 \ud800 😀 \\ud800 \x00 \n"
    Journal(tmp_path / "a.jsonl", "x").add([{"text": text}])
    assert Journal(tmp_path / "a.jsonl", "x").rows == [{"text": text}]
