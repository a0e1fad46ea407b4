"""A folder that was prepared: written once, recognised, checked, and trained on like text."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gptlit.data import corpus
from gptlit.data.corpus import TextFiles
from gptlit.data.prepared import is_prepared, prepare_corpus
from gptlit.data.text import TextDataModule
from gptlit.errors import UserError
from gptlit.tokenizer import Tokenizer, get_tokenizer

BYTES = get_tokenizer("byte")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02d}.txt").write_text(f"Text number {i}. " * 10)
    return folder


def prepare(texts: Path, out: Path, tokenizer: Tokenizer = BYTES, **changed: Any) -> Any:
    given = {"val_fraction": 0.1, "seed": 1, "shard_tokens": 500, "say": lambda line: None}
    return prepare_corpus(
        [TextFiles(str(texts), key="input")], tokenizer, out, **{**given, **changed}
    )


def content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def module(path: Path, cache: Path, **changed: Any) -> TextDataModule:
    given: dict[str, Any] = {"tokenizer": BYTES, "context_length": 8, "batch_size": 3, "seed": 1}
    data = TextDataModule(path=str(path), cache_dir=cache, **{**given, **changed})
    data.prepare_data()
    data.setup("fit")
    return data


def test_the_manifest_says_what_a_reader_needs(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(texts, out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["tokenizer"], manifest["vocab_size"]) == ("byte", 257)
    assert (manifest["seed"], manifest["val_fraction"]) == (1, 0.1)
    assert manifest["documents"] == manifest["sources"]["files"] == 20
    assert manifest["sources"]["bytes"] == sum(file.stat().st_size for file in texts.iterdir())
    sources = (out / manifest["sources"]["list"]).read_text().splitlines()
    assert [Path(json.loads(line)["name"]) for line in sources] == sorted(texts.iterdir())
    shards = {shard["file"]: shard for shard in manifest["shards"]}
    assert sorted(shards) == sorted(file.name for file in out.glob("*.bin"))
    assert all(shard["tokens"] <= 500 for shard in shards.values())
    assert sum(shard["tokens"] for shard in shards.values()) == sum(
        split["tokens"] for split in manifest["splits"].values()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "texts"]
    assert {path.suffix for path in out.iterdir()} == {".bin", ".json", ".ndjson"}


def test_training_reads_it_as_it_reads_the_text_itself(texts: Path, tmp_path: Path) -> None:
    prepare(texts, tmp_path / "out")
    read = module(tmp_path / "out", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    plain = module(texts, tmp_path / "cache", split_seed=1)
    for a, b in zip(read.train_dataloader(), plain.train_dataloader(), strict=True):
        assert a.input_ids.equal(b.input_ids)
    for a, b in zip(read.val_dataloader(), plain.val_dataloader(), strict=True):
        assert a.targets.equal(b.targets)
    assert "20 documents" in read.describe()
    corpus = read.corpus
    tokens = corpus.train.tokens, corpus.validation.tokens
    assert f"prepared, {tokens[1] / sum(tokens):.2g} of it for validation" in read.describe()
    # A run may change from one to the other.
    plain.load_state_dict(read.state_dict())


def test_of_separate_validation_text_no_share_is_told(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("Text to validate on. " * 100)
    sources = [TextFiles(str(path), key="input") for path in (texts, tmp_path / "val.txt")]
    settings: dict[str, Any] = {"val_fraction": 0.01, "seed": 1, "shard_tokens": 500}
    prepare_corpus(sources, BYTES, tmp_path / "out", **settings, say=lambda _: None)
    told = module(tmp_path / "out", tmp_path / "cache").describe()
    assert told.endswith("prepared with its own validation text")
    with pytest.raises(UserError, match=r"or less, give more text$"):
        module(tmp_path / "out", tmp_path / "cache", context_length=10**6)


def test_only_a_prepared_folder_is_one(texts: Path, tmp_path: Path) -> None:
    prepare(texts, tmp_path / "out")
    assert is_prepared(str(tmp_path / "out"))
    (texts / "manifest.json").write_text('{"kind": "of another program"}')
    assert not any(map(is_prepared, (str(texts), [str(tmp_path / "out")], None, "nowhere")))
    assert not any(map(is_prepared, ("a" * 250, "a" * 300, "~no one/corpus")))
    assert module(texts, tmp_path / "cache").corpus.train.documents == 18


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"tokenizer": get_tokenizer("gpt2")},
            r"out was prepared with tokenizer=byte, and this run has tokenizer=gpt2: give "
            r"tokenizer=byte, or prepare it again$",
        ),
        ({"val_path": "x.txt"}, r"leave data\.val_path=\.\.\. out, or give val_input="),
        (
            {"context_length": 10**6},
            r"lower val_fraction=0\.1 of python scripts/prepare_corpus\.py",
        ),
    ],
    ids=["tokenizer", "val_path", "context"],
)
def test_what_does_not_fit_is_told_in_one_line(
    texts: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    prepare(texts, tmp_path / "out")
    with pytest.raises(UserError, match=told) as raised:
        module(tmp_path / "out", tmp_path / "cache", **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["cut", "missing", "format", "manifest"])
def test_a_damaged_folder_is_refused(texts: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    prepare(texts, out)
    manifest = json.loads((out / "manifest.json").read_text())
    if damage == "cut":
        os.truncate(out / "train-00001.bin", 10)
    elif damage == "missing":
        (out / "train-00001.bin").unlink()
    else:
        manifest |= {"format": 99} if damage == "format" else {"splits": {}}
        (out / "manifest.json").write_text(json.dumps(manifest))
    told = {
        "cut": r"train-00001\.bin is missing or cut short",
        "missing": r"train-00001\.bin is missing or cut short",
        "format": "another version of gptlit",
        "manifest": "the manifest of .* is damaged",
    }
    with pytest.raises(UserError, match=told[damage]):
        module(out, tmp_path / "cache")


UNFIT: dict[str, Any] = {
    "beyond the file": lambda m: m["splits"]["train"]["segments"][0].__setitem__(2, 10**6),
    "before the file": lambda m: m["splits"]["train"]["segments"][0].__setitem__(1, -5),
    "other count": lambda m: m["splits"]["train"].update(tokens=10**6),
    "no count": lambda m: m["splits"]["train"].update(documents="all"),
    "no split": lambda m: m.update(splits={"train": "x", "validation": []}),
    "no segments": lambda m: m["splits"]["train"].update(segments=[[1]]),
    "no type of ids": lambda m: m.update(dtype="float32"),
    "no files": lambda m: m.pop("shards"),
}


@pytest.mark.parametrize("change", UNFIT.values(), ids=UNFIT)
def test_a_manifest_that_does_not_fit_its_files_is_refused(
    texts: Path, tmp_path: Path, change: Any
) -> None:
    prepare(texts, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    change(manifest)
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"the manifest of .*out is damaged; prepare it again$"):
        module(tmp_path / "out", tmp_path / "cache")


def test_a_token_that_the_vocabulary_lacks_is_damage(texts: Path, tmp_path: Path) -> None:
    prepare(texts, tmp_path / "out")
    shard = min((tmp_path / "out").glob("train-*.bin"))
    shard.write_bytes(b"\xff\xff" + shard.read_bytes()[2:])
    data = module(tmp_path / "out", tmp_path / "cache")
    with pytest.raises(UserError, match=r"out holds the token 65535, and the tokenizer has 257"):
        list(data.train_dataloader())


def test_preparing_again_finds_it_whole_or_says_what_differs(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(texts, out)
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert prepare(texts, out).cached
    assert before == {file: file.stat().st_mtime_ns for file in out.iterdir()}
    with pytest.raises(UserError, match=r"was prepared with seed=1, not 2; delete it"):
        prepare(texts, out, seed=2)
    with pytest.raises(UserError, match=r"was prepared with tokenizer=byte, not gpt2"):
        prepare(texts, out, get_tokenizer("gpt2"))
    (texts / "05.txt").write_text("other")
    with pytest.raises(UserError, match=r"from other text: .*/05\.txt is not as it was"):
        prepare(texts, out)


def test_preparing_again_notices_a_rotten_shard(texts: Path, tmp_path: Path) -> None:
    prepare(texts, tmp_path / "out")
    shard = tmp_path / "out" / "train-00001.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=r"is damaged \(train-00001\.bin\); delete it"):
        prepare(texts, tmp_path / "out")


def test_a_folder_with_something_else_is_left_alone(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists and is no prepared corpus"):
        prepare(texts, texts)
    (tmp_path / "empty").mkdir()
    assert not prepare(texts, tmp_path / "empty").cached
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/out"):
        prepare(texts, tmp_path / "file" / "out")
    with pytest.raises(UserError, match=r"aaa: File name too long; "):
        prepare(texts, tmp_path / ("a" * 300))


def test_nothing_is_written_into_a_folder_that_is_there(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "MEMO_AGE_NS", -1)  # files as old as those of most corpora
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "hashes.json").write_text('{"of": "photos"}')
    prepare(texts, tmp_path / "out")
    before = content(tmp_path)
    assert prepare(texts, tmp_path / "out").cached
    monkeypatch.setattr(TextFiles, "parts", None)  # the text is not read for a refusal
    with pytest.raises(UserError, match="photos exists and is no prepared corpus"):
        prepare(texts, tmp_path / "photos")
    assert content(tmp_path) == before


def test_a_folder_that_is_being_prepared_is_refused(texts: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    draft = tmp_path / "out.unfinished"
    draft.mkdir()
    with FileLock(draft / ".lock"), pytest.raises(UserError, match="another process is preparing"):
        prepare(texts, tmp_path / "out")
    assert (draft / ".lock").exists()  # the other one's work


def test_a_folder_that_is_not_whole_is_not_trained_on(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "out.unfinished").mkdir()
    with pytest.raises(UserError, match=r"out is not whole yet: give the same .* command again"):
        module(tmp_path / "out", tmp_path / "cache")
