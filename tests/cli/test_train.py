"""What the training command reads between the lines."""

import shutil
from pathlib import Path

import pytest

from gptlit.cli.arguments import quote
from gptlit.cli.train import FREE_TEXT, rewrite, with_implied, with_text
from gptlit.options import conf_dir, read_option

SAMPLE = read_option("data", "spam-sample")["implies"]


def test_a_text_file_alone_means_text() -> None:
    assert with_text(["data.path=a.txt"]) == ["data.path=a.txt", "data=text"]
    for given in (["data=pydocs"], ["experiment=the-verdict"], ["task=classification"]):
        assert with_text(["data.path=a.txt", *given]) == ["data.path=a.txt", *given]


def test_made_up_data_imply_a_small_model() -> None:
    assert with_implied(["data=spam-sample"]) == [*SAMPLE, "data=spam-sample"]
    assert with_implied(["data='spam-sample'"])[-1] == "data='spam-sample'"


def test_what_is_given_wins_over_what_is_implied() -> None:
    got = with_implied(["model=gpt2-small", "data=spam-sample", "task.trainable=head"])
    assert not {"model=gpt2-nano", "task.trainable=all"} & set(got)
    assert "weights=none" in got
    assert with_implied(["data=spam-sample", "experiment=x"]) == [
        "data=spam-sample",
        "experiment=x",
    ]


def test_what_is_searched_is_not_implied() -> None:
    got = with_implied(["data=spam-sample", "hparams_search=optuna"])
    assert [arg for arg in SAMPLE if arg not in got] == ["optimizer.lr=5e-4"]


def test_a_search_that_names_no_keys_leaves_all_to_be_implied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlit.options.conf_dir", lambda: tmp_path)
    shutil.copytree(conf_dir(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "hparams_search" / "mine.yaml").write_text("hydra: {sweeper: {n_trials: 2}}\n")
    assert {*SAMPLE} < {*with_implied(["data=spam-sample", "hparams_search=mine"])}


def test_flags_stay_in_front_of_the_overrides() -> None:
    got = rewrite(["-m", "data=spam-sample", "optimizer.lr=1e-4,1e-3"])
    assert got[0] == "-m"
    assert "optimizer.lr=5e-4" not in got
    assert all("=" in arg for arg in got[1:])


def test_other_data_imply_nothing() -> None:
    for args in (["data=pydocs"], ["data=a,b"], [], ["--help"]):
        assert with_implied(args) == args


def test_a_column_may_have_a_number_for_a_name() -> None:
    """As pandas writes columns that were given none."""
    for key in ("data.text_column", "data.label_column", "data.column"):
        assert quote(f"{key}=0", FREE_TEXT) == f"{key}='0'"
        assert quote(f"{key}=class (a, b)", FREE_TEXT) == f"{key}='class (a, b)'"
