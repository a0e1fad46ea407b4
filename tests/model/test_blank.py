"""Models without numbers: the same parts, no memory, and no trace once they are made."""

import torch

from gptlit.model import GPTConfig, GPTModel, blank_parameters

CONFIG = GPTConfig(vocab_size=257, context_length=16, emb_dim=16, n_heads=2, n_layers=2)


def test_a_blank_model_has_the_shapes_of_a_real_one() -> None:
    with blank_parameters():
        blank = GPTModel(CONFIG)
    assert all(p.is_meta for p in blank.parameters())
    shapes = {name: p.shape for name, p in GPTModel(CONFIG).named_parameters()}
    assert {name: p.shape for name, p in blank.named_parameters()} == shapes


def test_afterwards_models_are_drawn_as_before() -> None:
    torch.manual_seed(0)
    expected = GPTModel(CONFIG).state_dict()
    torch.manual_seed(0)
    with blank_parameters():
        GPTModel(CONFIG)
    for name, tensor in GPTModel(CONFIG).state_dict().items():
        assert torch.equal(tensor, expected[name]), name
