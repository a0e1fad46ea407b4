"""Instructions and responses for fine-tuning: read, split, tokenized and batched."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from gptlit.data.buckets import BucketLoader, SortedLoader
from gptlit.data.entry import Entry, Fields
from gptlit.data.instruction_batches import (
    InstructionDataset,
    PackedDataset,
    PackedLoader,
    TokenizedEntries,
)
from gptlit.data.instruction_files import Broken, read_entries, split_entries, tell_broken
from gptlit.data.module import (
    SPLIT_KEYS,
    OnChange,
    ResumableDataModule,
    require_choice,
    require_different,
)
from gptlit.errors import UserError
from gptlit.files import default_cache_dir, download_target
from gptlit.prompts import PromptFormat
from gptlit.tokenizer import Tokenizer, get_tokenizer

SPLITS = ("train", "validation", "test")
TooLong = Literal["cut", "drop"]
OnError = Literal["raise", "skip"]


class InstructionDataModule(ResumableDataModule):
    """Instructions, perhaps with an input, and the responses to learn.

    tokenizer: encodes the texts, or the name of one that does; its end-of-text id follows each
        response
    context_length: most tokens of a row
    seed: of the order of the entries, and of the split if `shuffle`
    prompt: the fields of `PromptFormat`
    batch_size: entries, or packed rows, per process and micro-batch
    path: see `read_entries`; without it, the file published at `urls` (mirrors) is downloaded as
        `file_name`, and checked with `sha256`
    val_path, test_path: files to validate and to test on, rather than a part of `path`
    instruction_field, input_field, output_field: what the parts of an entry are called in the files
    val_fraction, test_fraction: shares of `path`, see `split_entries`
    shuffle: split `path` in random order, rather than in that of the file
    too_long: "cut" or "drop", see `TokenizedEntries`
    on_error: "raise" or "skip" for broken entries
    mask_prompt: train on the responses only
    join_tokens: see `InstructionDataset`; dropout is then the same for all entries of a row on the
        beginning that they share
    pack: in training, put as many entries into a row as `context_length` has room for
    bucket: put entries of similar length into a batch; without effect on packed rows
    num_workers: processes that read batches ahead; reading is fast enough without
    cache_dir: for downloads, see `default_cache_dir`
    eval_batch_size: entries per batch in validation and test; None: batch_size
    on_change: see `ResumableDataModule`

    `prepare_data`, `setup` and what they call raise UserError for a file that cannot be read, and
    for splits that are empty. After `setup`, which the loaders call if need be, `splits` has the
    entries for "train", "validation" and "test", including those that turned out to be too long.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | str,
        context_length: int,
        seed: int,
        prompt: Mapping[str, Any],
        batch_size: int,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        instruction_field: str = "instruction",
        input_field: str = "input",
        output_field: str = "output",
        urls: Sequence[str] | None = None,
        file_name: str | None = None,
        sha256: str | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.1,
        shuffle: bool = False,
        too_long: TooLong = "cut",
        on_error: OnError = "raise",
        mask_prompt: bool = True,
        join_tokens: int = 512,
        pack: bool = False,
        bucket: bool = True,
        num_workers: int = 0,
        cache_dir: str | Path | None = None,
        eval_batch_size: int | None = None,
        on_change: OnChange = "refuse",
    ) -> None:
        super().__init__(on_change)
        self._require_sizes(context_length, seed, batch_size, eval_batch_size)
        require_choice("data.too_long", too_long, TooLong)
        require_choice("data.on_error", on_error, OnError)
        self.tokenizer = get_tokenizer(tokenizer)
        self.context_length = context_length
        self.seed = seed
        self.prompt = PromptFormat.from_dict(prompt)
        self.batch_size = batch_size
        self.path = path
        self.own_paths = {"validation": val_path, "test": test_path}
        self.fields = Fields(instruction_field, input_field, output_field)
        self.urls = urls
        self.file_name = file_name
        self.sha256 = sha256
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.shuffle = shuffle
        self.too_long = too_long
        self.on_error = on_error
        self.mask_prompt = mask_prompt
        self.join_tokens = join_tokens
        self.pack = pack
        self.bucket = bucket
        self.num_workers = num_workers
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self.eval_batch_size = eval_batch_size or batch_size
        self.splits: dict[str, list[Entry]] = {}
        self.broken: dict[str, list[Broken]] = {}
        """The entries that were skipped in the file of each split, "train" being `path`."""
        self._tokenized: dict[str, TokenizedEntries] = {}

    @property
    def source(self) -> str:
        """The name of the data in messages."""
        return str(self.path or self.file_name)

    def prepare_data(self) -> None:
        """Download the file, if it is a published one that is not there yet."""
        if self.path is None:
            self._downloaded()

    def _downloaded(self) -> Path:
        if not (self.urls and self.file_name):
            raise UserError("data.path is not set; set it to a file of instructions")
        from gptlit.download import download

        target = download_target(self.file_name, self.cache_dir)
        return download(
            self.urls, target, sha256=self.sha256, hint="or give one of yours with data.path=..."
        )

    def read_splits(self) -> dict[str, list[Entry]]:
        """The entries of each split; subclasses override this for other data."""
        path = str(self._downloaded()) if self.path is None else self.path
        files = {"train": path, **self.own_paths}
        require_different(files)
        given: dict[str, list[Entry]] = {}
        for split, file in files.items():
            if file is not None:
                given[split], self.broken[split] = read_entries(
                    file,
                    skip_broken=self.on_error == "skip",
                    fields=self.fields,
                    key=SPLIT_KEYS[split],
                )
        seed = self.seed if self.shuffle else None
        entries = given.pop("train")
        return split_entries(entries, self.val_fraction, self.test_fraction, seed, given)

    def setup(self, stage: str) -> None:
        """Read, split and tokenize, once for all stages."""
        if self._tokenized:
            return
        self.splits = self.read_splits()
        self._identify(entries=_content(self.splits))
        for name in SPLITS:
            self._tokenized[name] = TokenizedEntries(
                self.splits[name],
                self.tokenizer,
                self.prompt,
                self.context_length,
                cut=self.too_long == "cut",
            )
        for name in ("train", "validation"):
            there = self._tokenized[name]
            if not len(there):
                raise UserError(
                    f"{self.source}: none of the {len(self.splits[name])} entries for {name} fits "
                    f"in model.context_length={self.context_length}; the longest has "
                    f"{there.longest} tokens: raise it, or choose a shorter prompt_format=..."
                )

    def _train_loader(self, rank: int, world_size: int) -> BucketLoader:
        self.setup("fit")
        entries, reading = self._tokenized["train"], self._reading(rank, world_size)
        if self.pack:
            packed = PackedDataset(
                entries,
                self.tokenizer.eot_id,
                mask_prompt=self.mask_prompt,
                join_tokens=self.join_tokens,
                room=self.context_length,
            )
            what = f"packed rows of {self.context_length} tokens"
            return PackedLoader(packed, self.batch_size, self.seed, what=what, **reading)
        return BucketLoader(
            self._dataset("train"),
            self.batch_size,
            self.seed,
            entries.lengths,
            bucket=self.bucket,
            what="entries",
            **reading,
        )

    def val_dataloader(self) -> SortedLoader:
        """Every entry for validation once."""
        return self._eval_loader("validation")

    def test_dataloader(self) -> SortedLoader:
        """Every entry for the test once."""
        return self._eval_loader("test")

    def _eval_loader(self, split: str) -> SortedLoader:
        self.setup("fit")
        return SortedLoader(
            self._dataset(split),
            self.eval_batch_size,
            self._tokenized[split].lengths,
            what=f"{split} entries",
            **self._reading(*self._place()),
        )

    def _dataset(self, split: str) -> InstructionDataset:
        return InstructionDataset(
            self._tokenized[split],
            self.tokenizer.eot_id,
            mask_prompt=self.mask_prompt,
            join_tokens=self.join_tokens,
        )

    def for_task(self) -> dict[str, Any]:
        """What the task has to know, and keeps in its checkpoints."""
        return {"prompt": self.prompt.to_dict()}

    def final_loaders(self) -> dict[str, SortedLoader]:
        """The test split, to measure once training is over."""
        return {"test": self.test_dataloader()} if len(self._tokenized["test"]) else {}

    def describe(self) -> str:
        """The data in one line."""
        counts = [f"{len(self.splits[name]):,} {name}" for name in SPLITS]
        train = self._tokenized["train"]
        line = (
            f"{self.source}: {', '.join(counts)} entries, {int(train.lengths.sum()):,} training "
            f"tokens, {train.in_responses:,} of them in responses (prompt {self.prompt.name}, "
            f"{self.tokenizer.name})"
        )
        cut, dropped = (
            sum(getattr(there, what) for there in self._tokenized.values())
            for what in ("cut", "dropped")
        )
        if cut:
            line += f"; {cut:,} cut to {self.context_length} tokens"
        if dropped:
            line += f"; {dropped:,} left out, too long for {self.context_length} tokens"
        for split, broken in self.broken.items():
            if broken:
                where = f" in {self.own_paths[split]}" if split in self.own_paths else ""
                line += f"; {len(broken):,} broken skipped{where} ({tell_broken(broken)})"
        return line


def _content(splits: Mapping[str, Sequence[Entry]]) -> str:
    """Hex digest over all entries."""
    texts = {name: [_texts(entry) for entry in splits[name]] for name in SPLITS}
    return sha256(json.dumps(texts).encode()).hexdigest()


def _texts(entry: Entry) -> tuple[Any, ...]:
    *before, (instruction, output, given) = entry.turns
    # Existing checkpoints hold a digest of these three for entries of one turn.
    last = instruction, given, output
    history = [(asked, answer) for asked, answer, _ in before]
    if entry.unlearned:
        return (*last, history, sorted(entry.unlearned))
    return (*last, history) if history else last
