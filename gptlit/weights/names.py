"""One table: what each tensor of `GPTModel` is called in files of other programs, and how it is
stored there. Both reading and writing follow it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

QKV = ("query", "key", "value")


@dataclass(frozen=True)
class Row:
    """One of our tensors, by its name in each layout; `{i}` is the number of the block."""

    ours: str
    openai: str
    huggingface: str
    book: str
    """`{qkv}` stands for three tensors, which are the thirds of the rows of ours."""
    linear: bool = False
    """The weight of a linear layer, (out, in) here; some layouts store (in, out)."""


# fmt: off
_B = "trf_blocks.{i}"
TABLE = (
    Row("tok_emb.weight", "wte", "wte.weight", "tok_emb.weight"),
    Row("pos_emb.weight", "wpe", "wpe.weight", "pos_emb.weight"),
    Row(f"{_B}.norm1.weight", "h{i}/ln_1/g", "h.{i}.ln_1.weight", f"{_B}.norm1.scale"),
    Row(f"{_B}.norm1.bias", "h{i}/ln_1/b", "h.{i}.ln_1.bias", f"{_B}.norm1.shift"),
    Row(f"{_B}.att.qkv.weight", "h{i}/attn/c_attn/w", "h.{i}.attn.c_attn.weight",
        f"{_B}.att.W_{{qkv}}.weight", linear=True),
    Row(f"{_B}.att.qkv.bias", "h{i}/attn/c_attn/b", "h.{i}.attn.c_attn.bias",
        f"{_B}.att.W_{{qkv}}.bias"),
    Row(f"{_B}.att.out_proj.weight", "h{i}/attn/c_proj/w", "h.{i}.attn.c_proj.weight",
        f"{_B}.att.out_proj.weight", linear=True),
    Row(f"{_B}.att.out_proj.bias", "h{i}/attn/c_proj/b", "h.{i}.attn.c_proj.bias",
        f"{_B}.att.out_proj.bias"),
    Row(f"{_B}.norm2.weight", "h{i}/ln_2/g", "h.{i}.ln_2.weight", f"{_B}.norm2.scale"),
    Row(f"{_B}.norm2.bias", "h{i}/ln_2/b", "h.{i}.ln_2.bias", f"{_B}.norm2.shift"),
    Row(f"{_B}.ff.fc.weight", "h{i}/mlp/c_fc/w", "h.{i}.mlp.c_fc.weight",
        f"{_B}.ff.layers.0.weight", linear=True),
    Row(f"{_B}.ff.fc.bias", "h{i}/mlp/c_fc/b", "h.{i}.mlp.c_fc.bias",
        f"{_B}.ff.layers.0.bias"),
    Row(f"{_B}.ff.proj.weight", "h{i}/mlp/c_proj/w", "h.{i}.mlp.c_proj.weight",
        f"{_B}.ff.layers.2.weight", linear=True),
    Row(f"{_B}.ff.proj.bias", "h{i}/mlp/c_proj/b", "h.{i}.mlp.c_proj.bias",
        f"{_B}.ff.layers.2.bias"),
    Row("final_norm.weight", "ln_f/g", "ln_f.weight", "final_norm.scale"),
    Row("final_norm.bias", "ln_f/b", "ln_f.bias", "final_norm.shift"),
)
# fmt: on


@dataclass(frozen=True)
class Layout:
    """A way to name and to store the tensors of a GPT-2."""

    column: str
    """The field of `Row` with its names."""
    title: str
    """Its name in messages."""
    in_out: bool = False
    """Linear weights are stored (in, out)."""
    head: str | None = None
    """Name of the output head, if files may have one beside the token embedding."""
    may_lack_bias: bool = False
    """Layers and norms may be stored without biases, which are zero then."""
    others: str = r"(?!)"
    """Pattern of names that are stored but are no weights: causal masks, Adam's moments."""

    def names(self, row: Row, block: int = 0) -> list[str]:
        """What a row is called here: one name, or one each for query, key and value."""
        name = getattr(row, self.column).replace("{i}", str(block))
        return [name.replace("{qkv}", part) for part in QKV] if "{qkv}" in name else [name]


LAYOUTS = (
    Layout("ours", "gptlit", head="out_head.weight"),
    Layout("openai", "OpenAI", in_out=True, others=r".*/Adam(_1)?"),
    Layout(
        "huggingface",
        "Hugging Face",
        in_out=True,
        head="lm_head.weight",
        others=r"h\.\d+\.attn\.(masked_)?bias",
    ),
    Layout(
        "huggingface",
        "nanoGPT",
        head="lm_head.weight",
        may_lack_bias=True,
        others=r"h\.\d+\.attn\.bias",
    ),
    Layout("book", "book", head="out_head.weight", others=r"trf_blocks\.\d+\.att\.mask"),
)
_MARK = next(row for row in TABLE if row.ours.endswith("qkv.weight"))


def layout(column: str) -> Layout:
    """The layout of a column of the table."""
    return next(found for found in LAYOUTS if found.column == column)


def rows(n_layers: int) -> Iterator[tuple[Row, int]]:
    """Every row of the table with every block that it applies to."""
    for row in TABLE:
        for block in range(n_layers if "{i}" in row.ours else 1):
            yield row, block


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Layout, str] | None:
    """The layout that a file's tensors follow, and the prefix of their names ("transformer.",
    "model/"); None if they follow none, or two. It is recognised by the first block's attention;
    two layouts with the same names, by how they store linear weights."""
    found = [
        (candidate, name.removesuffix(mark))
        for candidate in LAYOUTS
        for mark in candidate.names(_MARK)[:1]
        for name in shapes
        if name == mark or name.endswith(("." + mark, "/" + mark))
        if candidate.column != "huggingface"
        or candidate.in_out != _stored_out_in(shapes, name.removesuffix(mark))
    ]
    return found[0] if len(found) == 1 else None


def _stored_out_in(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> bool:
    """Whether the first block's wide layers have more rows than columns: nanoGPT's do,
    transformers' do not."""
    wide = (shapes.get(f"{prefix}h.0.{name}.weight", ()) for name in ("attn.c_attn", "mlp.c_fc"))
    return all(len(shape) == 2 and shape[0] > shape[1] for shape in wide)


def count_blocks(names: Collection[str], found: Layout, prefix: str) -> int:
    """How many blocks a file has."""
    count = 0
    while prefix + found.names(_MARK, count)[0] in names:
        count += 1
    return count
