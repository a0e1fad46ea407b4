"""The SMS Spam Collection: 5,574 text messages, each marked as ham or spam.

Source: Almeida, Gómez Hidalgo and Yamakami 2011, "Contributions to the Study of SMS Spam
Filtering: New Collection and Results"; UCI Machine Learning Repository, data set 228.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlit.data.labelled import LabelledDataModule
from gptlit.data.labelled_files import LabelledTable
from gptlit.data.labelled_splits import Balance
from gptlit.data.readers import decoded, existing, file_kind
from gptlit.data.tables import SUFFIXES
from gptlit.errors import UserError
from gptlit.files import download_target

NAMES = ("SMSSpamCollection", "SMSSpamCollection.tsv", "SMSSpamCollection.txt")
LABELS = ("ham", "spam")
MOST_BYTES = 100_000_000
"""Of the file in a zip, which may unpack to a thousand times its size; the collection has half a
million."""


class SmsSpamDataModule(LabelledDataModule):
    """Messages of the SMS Spam Collection, or of a table of yours.

    path: the published zip, a folder with the collection, the collection itself, or another table,
        as in `LabelledDataModule`; without it, the zip is downloaded
    balance: as in `LabelledDataModule`; there are six times as many ham messages as spam
    urls: mirrors of the zip; sha256: its hash; file_name: its name in the cache
    arguments: as in `LabelledDataModule`
    """

    def __init__(
        self,
        *,
        balance: Balance = "undersample",
        urls: Sequence[str] | None = None,
        sha256: str | None = None,
        file_name: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(balance=balance, **arguments)
        self.urls = urls
        self.sha256 = sha256
        self.file_name = file_name

    def default_table(self) -> LabelledTable:
        if not (self.urls and self.file_name):
            return super().default_table()
        from gptlit.download import download

        target = download_target(self.file_name, self.cache_dir)
        hint = "or give the zip, or the file in it, as data.path=…"
        return read_messages(download(self.urls, target, sha256=self.sha256, hint=hint))

    def read(self, path: str, key: str) -> LabelledTable:
        place = existing(path, key)
        if place.is_file() and place.name not in NAMES and file_kind(place, SUFFIXES):
            return super().read(path, key)
        return read_messages(place)


def read_messages(place: Path) -> LabelledTable:
    """Read the SMS Spam Collection: on each line a label, a tab and a message. There is no header,
    and quotes mean nothing.

    place: the file, a folder that it is in, or a zip

    Raises UserError for a place without it, a damaged zip, and lines of another form.
    """
    if place.is_dir():
        found = [file for name in NAMES for file in sorted(place.rglob(name)) if file.is_file()]
        if not found:
            raise UserError(f"there is no {NAMES[0]} in the folder {place}; give the file itself")
        place = found[0]
    table = LabelledTable(str(place))
    try:
        if zipfile.is_zipfile(place):
            content = _unzipped(place)
        elif place.suffix == ".zip":
            raise zipfile.BadZipFile("File is not a zip file")
        else:
            content = place.read_bytes()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{place} cannot be unzipped: {error}; delete it and run again, or get it anew"
        ) from None
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}") from None
    lines = "".join(decoded(place, (content, b""))).split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        label, tab, text = line.removesuffix("\r").partition("\t")
        if label not in LABELS or not tab:
            raise UserError(
                f"{place}:{number} is {line[:30]!r}; expected ham or spam, a tab and the message. "
                "A table with a header goes with data=csv"
            )
        table.add(f"{place}:{number}", text, label)
    if not table.texts:
        raise UserError(f"{place} has no messages; get it anew, or give another data.path=…")
    return table


def _unzipped(place: Path) -> bytes:
    """The collection from a zip."""
    with zipfile.ZipFile(place) as archive:
        names = archive.namelist()
        for name in names:
            if Path(name).name in NAMES and "__MACOSX" not in name:
                if (size := archive.getinfo(name).file_size) > MOST_BYTES:
                    raise UserError(
                        f"{name} in {place} has {size:,} bytes, {MOST_BYTES:,} are the most; get"
                        " the zip anew, or unpack it and give the file"
                    )
                return archive.read(name)
    listed = ", ".join(map(repr, names[:5])) or "nothing"
    raise UserError(f"{place} holds {listed}, but no {NAMES[0]}; give the zip that UCI publishes")
