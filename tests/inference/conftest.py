"""What tests of trained models share."""

import pytest

from gptlit.inference.packed import PACKED, can_pack


@pytest.fixture(params=PACKED)
def packed_precision(request: pytest.FixtureRequest) -> str:
    """Each format that weights can be packed in here; there is none on Apple's processors."""
    name = str(request.param)
    if not can_pack(name):
        pytest.skip(f"neither this CPU nor this PyTorch packs weights in {name}")
    return name
