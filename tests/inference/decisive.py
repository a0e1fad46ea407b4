"""Random weights whose greedy choices are no coin tosses."""

import torch

from gptlit.model import GPTConfig, GPTModel


def decisive_model(cfg: GPTConfig) -> GPTModel:
    """A model whose logits are far from uniform; the same for the same shape."""
    torch.manual_seed(0)
    model = GPTModel(cfg)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model
