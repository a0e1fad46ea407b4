import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from gptlit.data.pydocs import PydocsDataModule
from gptlit.errors import UserError
from gptlit.tokenizer import get_tokenizer


def module(cache_dir: Path, **settings: Any) -> PydocsDataModule:
    data = PydocsDataModule(
        tokenizer=get_tokenizer("gpt2"),
        context_length=64,
        batch_size=4,
        seed=0,
        cache_dir=cache_dir,
        **settings,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def test_the_topics_are_documents_in_the_order_of_their_names(tmp_path: Path) -> None:
    data = module(tmp_path)
    train, validation = (
        get_tokenizer("gpt2").decode(data.corpus.stream(s).read(0, s.tokens).tolist())
        for s in (data.corpus.train, data.corpus.validation)
    )
    texts = [topics[name] + "<|endoftext|>" for name in sorted(topics)]
    chosen = [text for text in texts if text in validation]
    assert len(chosen) == data.corpus.validation.documents >= len(texts) // 10
    assert validation == "".join(chosen)
    assert train == "".join(text for text in texts if text not in chosen)
    assert data.describe().startswith(f"Python's language reference: {len(texts)} documents")


def test_the_second_run_finds_the_first_ones_tokens(tmp_path: Path) -> None:
    assert not module(tmp_path).corpus.cached
    assert module(tmp_path).corpus.cached


def test_a_path_takes_the_topics_place(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("some words of mine " * 100)
    assert module(tmp_path, path=str(tmp_path / "mine.txt")).corpus.train.bytes < 2000


def test_an_interpreter_without_the_topics_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"pydoc_data\.topics.*set data=text and data\.path="):
        module(tmp_path)
