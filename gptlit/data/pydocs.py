"""English text that comes with every Python: the language reference, by topic."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from gptlit.data.corpus import Advance, Document, Part, cut_pieces
from gptlit.data.text import TextDataModule
from gptlit.errors import UserError


class PydocsTopics:
    """The topics of the standard library's `pydoc_data`, one document each, by name.

    Raises UserError if the interpreter lacks them.
    """

    name = "Python's language reference"

    def __init__(self) -> None:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise UserError(
                "this Python comes without pydoc_data.topics, the text of data=pydocs; "
                "set data=text and data.path=… to a text of yours, or use another Python"
            ) from None
        self._texts = [topics[name] for name in sorted(topics)]
        self.size = sum(map(len, self._texts))
        self.done = 0
        self.part = 0

    def parts(self, cache_dir: Path | None, seen: Advance) -> list[Part]:
        """A single part with all texts, which differ between versions of Python."""
        digest = hashlib.sha256()
        for text in self._texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        return [Part("pydoc_data.topics", self.size, digest.hexdigest(), "")]

    def documents(self, first_part: int = 0) -> Iterator[Document]:
        for text in self._texts:
            self.done += len(text)
            yield cut_pieces([text])


class PydocsDataModule(TextDataModule):
    """Windows of Python's language reference, unless `path` names another text."""

    def default_source(self) -> PydocsTopics:
        return PydocsTopics()
