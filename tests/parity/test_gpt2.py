"""The network against transformers' GPT2LMHeadModel, on the same random weights."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gptlit.inference.generation import Sampling, stream_ids
from gptlit.model import GPTConfig, GPTModel

TINY = GPTConfig(vocab_size=101, context_length=96, emb_dim=32, n_heads=4, n_layers=3)
SMALL = GPTConfig()


def pair(cfg: GPTConfig) -> tuple[GPTModel, GPT2LMHeadModel]:
    """Both models with the same random weights, none of them at its initial zero or one."""
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cfg.vocab_size,
            n_positions=cfg.context_length,
            n_embd=cfg.emb_dim,
            n_head=cfg.n_heads,
            n_layer=cfg.n_layers,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    ours = GPTModel(cfg)
    t = theirs.transformer
    with torch.no_grad():
        ours.tok_emb.weight[: cfg.vocab_size] = t.wte.weight
        ours.pos_emb.weight.copy_(t.wpe.weight)
        ours.final_norm.load_state_dict(t.ln_f.state_dict())
        for block, h in zip(ours.trf_blocks, t.h, strict=True):
            block.norm1.load_state_dict(h.ln_1.state_dict())
            block.norm2.load_state_dict(h.ln_2.state_dict())
            for linear, conv in (
                (block.att.qkv, h.attn.c_attn),
                (block.att.out_proj, h.attn.c_proj),
                (block.ff.fc, h.mlp.c_fc),
                (block.ff.proj, h.mlp.c_proj),
            ):
                linear.weight.copy_(conv.weight.T)
                linear.bias.copy_(conv.bias)
    return ours, theirs


@pytest.mark.parametrize(("cfg", "tolerance"), [(TINY, 1e-5), (SMALL, 1e-4)], ids=["tiny", "small"])
def test_logits(cfg: GPTConfig, tolerance: float) -> None:
    ours, theirs = pair(cfg)
    ids = torch.randint(cfg.vocab_size, (2, 48))
    with torch.no_grad():
        difference = (ours.eval()(ids) - theirs.eval()(ids).logits).abs().max()
    assert difference <= tolerance


def test_loss_and_gradients() -> None:
    ours, theirs = pair(TINY)
    ids = torch.randint(TINY.vocab_size, (3, 40))
    targets = ids[:, 1:].clone()
    targets[1, :7] = -100
    labels = torch.cat([ids[:, :1], targets], dim=1)
    expected = theirs(ids, labels=labels).loss
    expected.backward()
    loss = ours.loss_sum(ids[:, :-1], targets) / (targets != -100).sum()
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    t = theirs.transformer
    pairs = [
        (ours.tok_emb.weight.grad[: TINY.vocab_size], t.wte.weight.grad),
        (ours.pos_emb.weight.grad, t.wpe.weight.grad),
        (ours.final_norm.bias.grad, t.ln_f.bias.grad),
    ]
    for block, h in zip(ours.trf_blocks, t.h, strict=True):
        pairs += [
            (block.att.qkv.weight.grad, h.attn.c_attn.weight.grad.T),
            (block.att.qkv.bias.grad, h.attn.c_attn.bias.grad),
            (block.att.out_proj.weight.grad, h.attn.c_proj.weight.grad.T),
            (block.ff.fc.weight.grad, h.mlp.c_fc.weight.grad.T),
            (block.ff.proj.weight.grad, h.mlp.c_proj.weight.grad.T),
            (block.norm1.weight.grad, h.ln_1.weight.grad),
        ]
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("cfg", [TINY, SMALL], ids=["tiny", "small"])
def test_fifty_greedy_tokens_with_and_without_the_cache(cfg: GPTConfig) -> None:
    ours, theirs = pair(cfg)
    ids = torch.randint(cfg.vocab_size, (1, 16))
    generated = theirs.eval().generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=50,
        min_new_tokens=50,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    expected = generated[0, 16:].tolist()
    for use_cache in (True, False):
        steps = stream_ids(ours, [ids[0].tolist()], 50, Sampling(), use_cache=use_cache)
        assert [token for [token] in steps] == expected
