"""The shape of a GPT-2, and the arithmetic that follows from it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GPTConfig:
    """Everything that fixes the shape of a `GPTModel`.

    Raises:
        ValueError: a size is no whole number from 1 on, `emb_init_std` is not positive, `drop_rate`
            is outside [0, 1), or `emb_dim` cannot be divided among the heads.
    """

    vocab_size: int = 50257
    """Number of token ids that the tokenizer can produce."""
    context_length: int = 1024
    """Longest sequence in tokens: the length of the position table."""
    emb_dim: int = 768
    """Width of the residual stream."""
    n_heads: int = 12
    """Attention heads in each block."""
    n_layers: int = 12
    """Transformer blocks."""
    drop_rate: float = 0.0
    """Dropout probability on embeddings, attention weights and residual branches."""
    qkv_bias: bool = True
    """Whether the query, key and value projection has a bias, as the published GPT-2 does."""
    tied_head: bool = True
    """Whether the output head is the token embedding, as in the published GPT-2."""
    emb_init_std: float = 0.02
    """Standard deviation of the embeddings' initial values; large ones need `tied_head` off."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of storing its activations."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"):
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise ValueError(f"model.{name} must be a whole number from 1 on, got {size!r}")
        if not (isinstance(self.drop_rate, int | float) and 0 <= self.drop_rate < 1):
            raise ValueError(f"model.drop_rate must be in [0, 1), got {self.drop_rate!r}")
        if not (isinstance(self.emb_init_std, int | float) and self.emb_init_std > 0):
            raise ValueError(f"model.emb_init_std must be above 0, got {self.emb_init_std!r}")
        if self.emb_dim % self.n_heads:
            raise ValueError(
                f"model.emb_dim ({self.emb_dim}) must be divisible by model.n_heads"
                f" ({self.n_heads}); try model.emb_dim={self.n_heads * 64}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.emb_dim // self.n_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: the vocabulary rounded up to a multiple of 64."""
        return -(-self.vocab_size // 64) * 64

    def flops_per_token(self, training: bool = True) -> float:
        """Floating-point operations per token at full context; a multiply-add counts as two.

        6 N + 12 L T d for a training step (forward and backward), a third of that for a forward
        pass (Chowdhery et al. 2022, PaLM, appendix B). N counts what tokens are multiplied with:
        the matrices of the blocks and of the head, tied or not; neither the position table nor
        biases and norms.
        """
        d, n_layers = self.emb_dim, self.n_layers
        block = 12 * d * d
        forward = 2 * (n_layers * block + self.vocab_size * d)
        attention = 4 * n_layers * self.context_length * d
        return float((forward + attention) * (3 if training else 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, as a checkpoint stores them; `GPTConfig(**d)` is the way back."""
        return asdict(self)
