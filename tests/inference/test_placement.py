"""Where a model computes, and in which format, follows from what the machine has."""

import pytest
import torch

from gptlit.errors import UserError
from gptlit.inference import placement
from gptlit.model import GPTConfig, GPTModel

NARROW, WIDE = 128, 768


def pretend(monkeypatch: pytest.MonkeyPatch, *, bf16: bool, packs: set[str]) -> None:
    """A CPU with or without instructions for bf16, and the formats that can be packed on it."""
    monkeypatch.setattr(placement, "cpu_has_bf16", lambda: bf16)
    monkeypatch.setattr(placement, "can_pack", lambda precision: precision in packs)


@pytest.mark.parametrize(
    ("bf16", "packs", "width", "expected"),
    [
        (True, {"bf16", "fp16"}, WIDE, "bf16"),
        (True, {"bf16", "fp16"}, NARROW, "fp32"),
        (False, {"bf16", "fp16"}, WIDE, "fp16"),  # AVX-512 that has to convert bf16
        (False, {"fp16"}, WIDE, "fp16"),  # AVX2
        (False, {"fp16"}, NARROW, "fp32"),
        (False, set(), WIDE, "fp32"),  # Apple's, or none of them
    ],
)
def test_auto_is_the_fastest_format_of_the_weights(
    bf16: bool, packs: set[str], width: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, bf16=bf16, packs=packs)
    assert placement.decoding_precision("auto", "cpu", width) == expected
    for name in ("fp32", "bf16", "fp16"):
        assert placement.decoding_precision(name, "cpu", width) == name


@pytest.mark.parametrize(
    ("device", "fast", "expected"),
    [
        ("cuda", True, "bf16"),
        ("cuda", False, "fp16"),
        ("mps", True, "bf16"),
        ("mps", False, "fp32"),
    ],
)
def test_auto_on_a_gpu_does_not_depend_on_the_width(
    device: str, fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "fast_bf16", lambda name: fast and name == device)
    for width in (NARROW, WIDE):
        assert placement.decoding_precision("auto", device, width) == expected


@pytest.mark.parametrize(
    ("precision", "packs", "line"),
    [
        ("bf16", {"fp16"}, r"precision=bf16 needs AVX-512 or newer.*use precision=fp32 or fp16$"),
        ("fp16", {"bf16"}, r"precision=fp16 needs AVX2 or newer.*use precision=fp32 or bf16$"),
        ("bf16", set(), r"precision=bf16 needs AVX-512 or newer.*use precision=fp32$"),
    ],
)
def test_a_format_that_the_cpu_lacks_is_refused_with_what_it_has(
    precision: str, packs: set[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, bf16=False, packs=packs)
    model = GPTModel(GPTConfig(vocab_size=7, context_length=8, emb_dim=16, n_heads=2, n_layers=1))
    with pytest.raises(UserError, match=line):
        placement.place(model, "cpu", precision)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_leave_logits_far_from_zero_their_differences(
    dtype: torch.dtype, tied: bool
) -> None:
    torch.manual_seed(0)
    model = GPTModel(
        GPTConfig(
            vocab_size=257, context_length=8, emb_dim=64, n_heads=2, n_layers=1, tied_head=tied
        )
    ).eval()
    head = model.tok_emb if tied else model.out_head
    assert head is not None
    with torch.inference_mode():
        model.final_norm.bias.fill_(4.0)
        head.get_parameter("weight").add_(-0.4)
        ids = torch.arange(8)[None]
        expected = model(ids)
        assert -110 < expected.mean() < -90 and expected.std(dim=-1).max() < 1
        placement.convert(model, "cpu", dtype)
        got = model(ids)
    assert {p.dtype for p in model.trf_blocks.parameters()} == {dtype}
    assert (got - expected).abs().max() < 0.1
