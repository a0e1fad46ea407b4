import io
import shutil
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gptlit.data.spam import SmsSpamDataModule, read_messages
from gptlit.errors import UserError
from gptlit.tokenizer import get_tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
MESSAGES = [
    ("ham", 'He said "wait, I am late'),
    ("spam", 'WIN £100 now" or never, txt 12345'),
    ("ham", "two\ttabs, and a dot \x85 of old  "),
    ("spam", '"quoted" prize'),
]
COLLECTION = "".join(f"{label}\t{text}\n" for label, text in MESSAGES).encode()


def zipped(**files: bytes) -> bytes:
    """Without the time, which would be in the names of tests."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def module(tmp_path: Path, **given: Any) -> SmsSpamDataModule:
    data = SmsSpamDataModule(
        tokenizer=get_tokenizer("gpt2"),
        context_length=120,
        batch_size=8,
        seed=123,
        cache_dir=tmp_path / "cache",
        **given,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def test_quotes_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "SMSSpamCollection").write_bytes(COLLECTION)
    table = read_messages(tmp_path / "SMSSpamCollection")
    assert list(zip(table.labels, table.texts, strict=True)) == MESSAGES


def test_the_collection_is_found_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbf" + COLLECTION.replace(b"\n", b"\r\n")[:-2])
    (tmp_path / "a.zip").write_bytes(zipped(readme=b"x", SMSSpamCollection=COLLECTION))
    within = {"__MACOSX/SMSSpamCollection": b"no", "in/SMSSpamCollection.txt": COLLECTION}
    (tmp_path / "no suffix").write_bytes(zipped(**within))
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "SMSSpamCollection.tsv").write_bytes(COLLECTION)
    expected = [text for _, text in MESSAGES]
    for name in ("mine.txt", "a.zip", "no suffix", "folder"):
        assert read_messages(tmp_path / name).texts == expected, name


def rows(n: int) -> bytes:
    return "".join(f"{('ham', 'ham', 'spam')[i % 3]}\tmessage {i}\n" for i in range(n)).encode()


def test_the_classes_are_balanced_and_numbered(tmp_path: Path) -> None:
    (tmp_path / "SMSSpamCollection").write_bytes(rows(90))
    data = module(tmp_path, path=str(tmp_path))
    assert data.labels == ["ham", "spam"]
    labels = [label for split in data.splits.values() for label in split.labels.tolist()]
    assert Counter(labels) == {0: 30, 1: 30}
    whole = module(tmp_path, path=str(tmp_path), balance="none")
    assert sum(len(split.texts) for split in whole.splits.values()) == 90


def test_a_table_may_take_the_collection_s_place(tmp_path: Path) -> None:
    lines = rows(60).decode().splitlines()
    table = "body,kind\n" + "".join("{1},{0}\n".format(*line.split("\t")) for line in lines)
    (tmp_path / "mine.csv").write_text(table)
    (tmp_path / "SMSSpamCollection.tsv").write_bytes(rows(12).replace(b"message", b"test"))
    data = module(
        tmp_path,
        path=str(tmp_path / "mine.csv"),
        text_column="body",
        label_column="kind",
        test_path=str(tmp_path / "SMSSpamCollection.tsv"),
    )
    assert data.splits["test"].texts == [f"test {number}" for number in range(12)]
    assert len(data.splits["train"].texts) == 36


def test_the_published_zip_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(urls: list[str], target: Path, *, sha256: str | None, hint: str) -> Path:
        calls.append((urls, target, sha256))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(zipped(SMSSpamCollection=rows(90)))
        return target

    fake = ModuleType("gptlit.download")
    fake.download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gptlit.download", fake)
    data = module(tmp_path, urls=["https://a", "https://b"], file_name="sms.zip")
    target = tmp_path / "cache" / "downloads" / "sms.zip"
    assert calls == [(["https://a", "https://b"], target, None)]
    assert data.describe().startswith(f"{target}: 90 rows, 30 left out")
    with pytest.raises(UserError, match=r"data\.path is not set"):
        module(tmp_path)


def locked() -> bytes:
    """A zip that says that its file is encrypted."""
    packed = bytearray(zipped(SMSSpamCollection=COLLECTION))
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


def damaged() -> bytes:
    packed = bytearray(zipped(SMSSpamCollection=rows(90)))
    packed[60] ^= 0xFF
    return bytes(packed)


MISTAKES = [
    (
        "a.zip",
        zipped(readme=b"x"),
        r"a\.zip holds 'readme', but no SMSSpamCollection; give the zip",
    ),
    ("a.zip", zipped(), r"a\.zip holds nothing, but no SMSSpamCollection"),
    ("a.zip", b"<html>log in first</html>", r"a\.zip cannot be unzipped: File is not a zip"),
    ("a.zip", zipped(SMSSpamCollection=COLLECTION)[:-9], r"a\.zip cannot be unzipped"),
    ("a.zip", damaged(), r"a\.zip cannot be unzipped: .*delete it and run again"),
    ("a.zip", locked(), r"a\.zip cannot be unzipped: .*encrypted"),
    ("a.zip", zipped(SMSSpamCollection=b"ham\tx\nbad\n"), r"a\.zip:2 is 'bad'; expected ham or"),
    ("SMSSpamCollection", b"", r"SMSSpamCollection has no messages"),
    ("SMSSpamCollection", b"\n\n", r"SMSSpamCollection has no messages"),
    ("SMSSpamCollection", b"ham\tx\nspam\n", r"SMSSpamCollection:2 is 'spam'; expected ham or sp"),
    ("SMSSpamCollection", b"ham\tx\n\ty\n", r"SMSSpamCollection:2 is '\\ty'; .*data=csv"),
    ("SMSSpamCollection", b"label\ttext\nham\tx\n", r"SMSSpamCollection:1 is 'label\\ttext'"),
    ("SMSSpamCollection", b"ham\tcaf\xe9\n", r"is not UTF-8 text: byte 0xe9 at offset 7"),
    ("SMSSpamCollection", b"ham\tx\0\n", r"is a binary file: NUL byte at offset 5"),
    ("SMSSpamCollection", "ham\tx\n".encode("utf-16"), r"but UTF-16; convert it with iconv"),
]


@pytest.mark.parametrize(("name", "data", "told"), MISTAKES)
def test_mistakes_are_named_in_one_line(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=told) as raised:
        module(tmp_path, path=str(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_places_without_the_collection_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no SMSSpamCollection in the folder .*empty; give the"):
        module(tmp_path, path=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"data\.path=.*emtpy: .*did you mean .*empty\?"):
        module(tmp_path, path=str(tmp_path / "emtpy"))


def test_a_zip_that_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(SMSSpamCollection=COLLECTION))
    monkeypatch.setattr("gptlit.data.spam.MOST_BYTES", len(COLLECTION))
    assert len(read_messages(tmp_path / "a.zip").texts) == len(MESSAGES)
    monkeypatch.setattr("gptlit.data.spam.MOST_BYTES", len(COLLECTION) - 1)
    with pytest.raises(UserError, match=r"^SMSSpamCollection in .*a\.zip has \d+ bytes, "):
        read_messages(tmp_path / "a.zip")


@pytest.fixture
def published() -> str:
    if not (SHARED / "SMSSpamCollection").exists():
        pytest.skip(f"the published SMSSpamCollection is not in {SHARED}")
    return str(SHARED / "SMSSpamCollection")


def test_the_published_collection_as_the_book_splits_it(published: str, tmp_path: Path) -> None:
    data = module(tmp_path, path=published, deduplicate=False)
    assert data.describe() == (
        f"{published}: 5,574 rows, 4,080 left out to balance the classes; 747 ham + 747 spam; "
        "1,045 train, 149 validation, 300 test; 2 cut to 120 tokens (gpt2)"
    )
    assert data.train_batches() == 131


def test_the_published_collection_without_its_duplicates(published: str, tmp_path: Path) -> None:
    shutil.copy(published, tmp_path / "SMSSpamCollection")
    data = module(tmp_path, path=str(tmp_path))
    texts = [text for split in data.splits.values() for text in split.texts]
    assert len(set(texts)) == len(texts) == 2 * 653
    assert "5,574 rows, 403 duplicates removed, 3,865 left out" in data.describe()
    assert "914 train, 130 validation, 262 test" in data.describe()
