"""Instruction tuning: only responses count, and packing changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from gptlit.data.instructions import InstructionDataModule
from gptlit.model import IGNORE_INDEX, SegmentMask, segment_mask
from gptlit.tasks.instruction import InstructionTask
from gptlit.tokenizer import get_tokenizer
from gptlit.training.run import told_size

SHAPE = {
    "vocab_size": 257,
    "context_length": 96,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.0,
}
PROMPT = {"name": "short", "template": "Q: {instruction}\nA: {response}"}
ENTRIES = [
    {"instruction": "Say " + word, "input": "", "output": word * (1 + i % 3)}
    for i, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight") * 5)
]


def make_task(**given: Any) -> InstructionTask:
    torch.manual_seed(0)
    settings = {"prompt": PROMPT, "trainable": "all", "lora": {"rank": 2}} | given
    task = InstructionTask(model=SHAPE, tokenizer="byte", settings=settings)
    with torch.no_grad():  # far from the initial values, where every mistake shows
        for p in task.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return task


def make_data(folder: Path, **given: Any) -> InstructionDataModule:
    path = folder / "entries.json"
    path.write_text(json.dumps(ENTRIES))
    data = InstructionDataModule(
        tokenizer=get_tokenizer("byte"),
        context_length=96,
        seed=0,
        prompt=PROMPT,
        path=str(path),
        **{"batch_size": 4, "join_tokens": 0, **given},
    )
    data.prepare_data()
    data.setup("fit")
    return data


def sums(task: InstructionTask, data: InstructionDataModule) -> tuple[float, int]:
    """Loss and targets over the training split."""
    with torch.no_grad():
        parts = [task.loss_sum(batch) for batch in data.train_dataloader()]
    return float(sum(loss for loss, _ in parts)), int(sum(count for _, count in parts))


def test_prompts_carry_no_loss_and_responses_do(tmp_path: Path) -> None:
    task, tokenizer = make_task(), get_tokenizer("byte")
    for batch in make_data(tmp_path).train_dataloader():
        before = task.loss_sum(batch)[0]
        for row, targets in enumerate(batch.targets):
            wanted = [t for t in targets.tolist() if t != IGNORE_INDEX]
            assert wanted[-1] == tokenizer.eot_id  # once, as the last target
            text = tokenizer.decode(wanted[:-1])
            assert text in {e["output"] for e in ENTRIES}
            first = int((targets != IGNORE_INDEX).nonzero()[0])
            prompt = tokenizer.decode(batch.input_ids[row, : first + 1].tolist())
            assert prompt.startswith("Q: Say ") and prompt.endswith("\nA: ")
        # The gradient with respect to logits at positions without a target is zero: they never
        # enter the loss, so changing what follows in the prompt's own targets changes nothing.
        kept = batch.targets != IGNORE_INDEX
        h = task.model.hidden(batch.input_ids).detach().requires_grad_(True)
        logits = task.model.logits(h)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
        )
        torch.testing.assert_close(loss, before, rtol=1e-4, atol=1e-4)
        [grad] = torch.autograd.grad(loss, h)
        assert not grad[~kept].any() and bool((grad[kept].abs().sum(-1) > 0).all())


def test_validation_in_16_bits_tells_logits_far_from_zero_apart(tmp_path: Path) -> None:
    task, found = make_task(), []
    batch = next(iter(make_data(tmp_path).train_dataloader()))
    with torch.no_grad():
        task.model.final_norm.bias.add_(4.0)
        task.model.tok_emb.weight.sub_(0.8)
        assert task.model(batch.input_ids).mean() < -90
        for enabled in (False, True):
            task.on_validation_epoch_start()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                task.validation_step(batch, 0)
            found.append(task._sums_measured)
    (loss, hits, n), (rounded_loss, rounded_hits, _) = (sums.tolist() for sums in found)
    assert abs(rounded_loss - loss) < 0.02 * n
    assert rounded_hits == hits


@pytest.mark.parametrize("join_tokens", [0, 512])
def test_validation_is_the_mean_over_the_targets_of_all_batches(
    join_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlit.tasks.instruction.LOGIT_ROWS", 5)
    task, data = make_task(), make_data(tmp_path, join_tokens=join_tokens, val_fraction=0.4)
    logits, targets = [], []
    with torch.no_grad():  # it is right wherever a response ends
        task.model.final_norm.bias.add_(9 * task.model.head_weight()[get_tokenizer("byte").eot_id])
        for batch in data.val_dataloader():
            assert (batch.positions is not None) == bool(join_tokens)
            mask = segment_mask(batch.segments)
            h = task.model.hidden(batch.input_ids, positions=batch.positions, mask=mask)
            keep = batch.targets != IGNORE_INDEX
            logits.append(task.model.logits(h)[keep])
            targets.append(batch.targets[keep])
    predicted, wanted = torch.cat(logits), torch.cat(targets)
    expected = {
        "loss": float(torch.nn.functional.cross_entropy(predicted, wanted)),
        "accuracy": float((predicted.argmax(-1) == wanted).float().mean()),
    }
    assert 0 < expected["accuracy"] < 1
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    for split, measure in (("val", trainer.validate), ("test", trainer.test)):
        [found] = measure(task, data.val_dataloader(), verbose=False)
        wanted_of_split = {f"{split}/{name}": value for name, value in expected.items()}
        assert {name: found[name] for name in wanted_of_split} == pytest.approx(wanted_of_split)
    assert task.final_metrics == pytest.approx(wanted_of_split)


def test_without_the_mask_prompts_count_too(tmp_path: Path) -> None:
    task = make_task()
    masked = sums(task, make_data(tmp_path))
    whole = sums(task, make_data(tmp_path, mask_prompt=False))
    assert whole[1] > masked[1] and whole[0] > masked[0]


@pytest.mark.parametrize(
    "given",
    [
        {"pack": True},
        {"bucket": False},
        {"batch_size": 1},
        {"pack": True, "batch_size": 1},
        {"join_tokens": 512},
        {"join_tokens": 30},
        {"join_tokens": 512, "batch_size": 40},
        {"join_tokens": 512, "pack": True},
    ],
)
def test_how_entries_are_batched_does_not_change_the_loss(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    task = make_task()
    loss, targets = sums(task, make_data(tmp_path))
    other, same_targets = sums(task, make_data(tmp_path, **given))
    assert same_targets == targets
    assert other == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("given", [{"join_tokens": 512}, {"join_tokens": 512, "pack": True}])
def test_joined_entries_give_the_gradients_of_those_apart(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    task = make_task().double()
    gradients = []
    for settings in ({}, given):
        task.zero_grad()
        for batch in make_data(tmp_path, batch_size=40, **settings).train_dataloader():
            assert isinstance(segment_mask(batch.segments), SegmentMask) == bool(settings)
            task.loss_sum(batch)[0].backward()
        gradients.append({name: p.grad.clone() for name, p in task.named_parameters()})
    apart, joined = gradients
    assert all(gradient.abs().sum() > 0 for gradient in apart.values())
    torch.testing.assert_close(joined, apart, rtol=1e-5, atol=1e-6)


def test_packed_entries_do_not_see_each_other(tmp_path: Path) -> None:
    task = make_task().eval()
    checked = 0
    for batch in make_data(tmp_path, pack=True).train_dataloader():
        with torch.no_grad():
            packed = task.model.hidden(
                batch.input_ids, positions=batch.positions, mask=segment_mask(batch.segments)
            )
            for row, segments in enumerate(batch.segments):
                for number in range(1, int(segments.max()) + 1):
                    here = segments == number
                    alone = task.model.hidden(batch.input_ids[row, here][None])[0]
                    torch.testing.assert_close(packed[row, here], alone, atol=1e-5, rtol=1e-5)
                    checked += number > 1
    assert checked > 5


def test_only_what_lora_added_trains() -> None:
    task = make_task(trainable="lora", lora={"rank": 2, "alpha": 4.0, "targets": ["q", "v"]})
    names = [name for name, p in task.named_parameters() if p.requires_grad]
    assert names and all(".lora_" in name for name in names)
    trained = sum(task.get_parameter(name).numel() for name in names)
    total = f"{task.model.num_parameters():,} parameters"
    assert told_size(task) == f"{total} ({trained:,} train)"
    assert told_size(make_task()) == total


def test_prompts_are_wrapped_as_in_training() -> None:
    task = make_task()
    assert task.wrap_prompt("Say one") == "Q: Say one\nA: "
    assert task.wrap_prompt("Add:", "1 2") == "Q: Add:\n1 2\nA: "
    assert task.stop == []
    other = make_task(prompt={"name": "x", "template": "{instruction}>{response}<end>"})
    assert other.stop == ["<end>"]


def test_settings_that_cannot_be_are_told_with_those_that_can() -> None:
    with pytest.raises(ValueError, match=r"task.trainable=head: allowed are all, lora"):
        make_task(trainable="head")
    with pytest.raises(ValueError, match=r"InstructionTask lacks the settings prompt, lora:"):
        InstructionTask(model=SHAPE, tokenizer="byte", settings={"trainable": "lora"})
