"""Which file a user means, and what comes out of it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from gptlit.data.batch import TextBatch
from gptlit.errors import UserError
from gptlit.inference.checkpoint import load_trained
from gptlit.inference.lookup import find_checkpoint
from gptlit.model import GPTConfig, GPTModel
from gptlit.tasks.pretrain import PretrainTask
from gptlit.training.checkpoints import AtomicCheckpointIO
from gptlit.weights.export import export_safetensors

torch.set_num_threads(1)

SHAPE = {"vocab_size": 257, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainTask, Path]:
    """A task after two steps, and its checkpoint."""
    torch.manual_seed(0)
    task = PretrainTask(model=SHAPE, tokenizer="byte", seed=3, token_bytes=torch.ones(257))
    task.optimizer_factory = lambda task: torch.optim.AdamW(task.parameters(), lr=0.01)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
    )
    ids = torch.arange(34).view(2, 17)
    batches: Any = [TextBatch(ids[:, :-1], ids[:, 1:])] * 2
    trainer.fit(task, DataLoader(batches, batch_size=None))
    path = tmp_path_factory.mktemp("trained") / "some.ckpt"
    trainer.save_checkpoint(path)
    return task, path


def test_a_checkpoint_alone_gives_the_model_back(trained: tuple[PretrainTask, Path]) -> None:
    task, path = trained
    loaded = load_trained(path)
    assert loaded.name == "pretrain" and not loaded.training
    assert loaded.model.cfg == task.model.cfg
    assert loaded.hparams == {key: task.hparams[key] for key in loaded.hparams}
    assert (loaded.hparams["tokenizer"], loaded.hparams["seed"]) == ("byte", 3)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids), task.eval().model(ids))


def test_using_a_model_imports_neither_lightning_nor_the_compiler(
    trained: tuple[PretrainTask, Path],
) -> None:
    code = f"""if True:
        import gptlit, sys
        gptlit.load({str(trained[1])!r}, device="cpu").generate("a", 3)
        print(*({{"lightning", "torch._dynamo", "pandas", "torchmetrics"}} & set(sys.modules)))
        import gptlit.evaluation.classification  # what evaluate.py measures a classifier with
        print(*({{"lightning"}} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("files", "ckpt", "found"),
    [
        (["run/checkpoints/best.ckpt", "run/checkpoints/last.ckpt"], "run", "best.ckpt"),
        (["run/checkpoints/last.ckpt"], "run", "last.ckpt"),
        (["run/checkpoints/last.ckpt", "run/checkpoints/best.ckpt"], "run/checkpoints", "best"),
        (["run/checkpoints/best.ckpt", "x.ckpt"], "x.ckpt", "x.ckpt"),
        (["run/checkpoints/last.ckpt"], "run/checkpoints/last.ckpt", "last.ckpt"),
        (["run/best.ckpt"], "run", "run/best.ckpt"),
    ],
)
def test_a_path_means_the_best_there_is(
    tmp_path: Path, files: list[str], ckpt: str, found: str
) -> None:
    write(tmp_path, *files)
    assert found in str(find_checkpoint(str(tmp_path / ckpt), "pretrain"))


def test_without_a_path_it_is_the_newest_finished_run_of_the_task(tmp_path: Path) -> None:
    for run in ("pretrain/a", "pretrain/b", "other/c"):
        write(tmp_path, f"{run}/checkpoints/best.ckpt")
    (tmp_path / "pretrain" / "latest").symlink_to("a")
    path = find_checkpoint(None, "pretrain", tmp_path)
    assert path.resolve() == tmp_path / "pretrain" / "a" / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match=r"no finished other run.*train.py task=other"):
        find_checkpoint(None, "other", tmp_path)
    with pytest.raises(UserError, match="there is no finished classification run in"):
        find_checkpoint(None, "classification", tmp_path)
    with pytest.raises(
        UserError, match=r"^unknown task=spam: .*/ has no such runs; known are clas"
    ):
        find_checkpoint(None, "spam", tmp_path)


def test_a_link_to_a_run_that_was_deleted_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "latest").symlink_to("gone")
    with pytest.raises(UserError, match="newest pretrain run, gone, was moved or deleted: give"):
        find_checkpoint(None, "pretrain", tmp_path)


@pytest.mark.parametrize("ckpt", ["x" * 256, "é" * 200, "~nobody-of-this-name/x"])
def test_a_name_that_no_file_can_have_is_told_in_one_line(ckpt: str) -> None:
    with pytest.raises(UserError, match=rf"^ckpt={ckpt} cannot be read: .*; give a checkpoint, or"):
        find_checkpoint(ckpt, "pretrain")


def cut(content: dict[str, Any], path: Path) -> None:
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_weight(content: dict[str, Any], path: Path) -> None:
    state = dict(content["state_dict"])
    state.popitem()
    torch.save({**content, "state_dict": state}, path)


def with_hparams(**changes: Any) -> Callable[[dict[str, Any], Path], None]:
    def save(content: dict[str, Any], path: Path) -> None:
        torch.save(
            {**content, "hyper_parameters": {**content["hyper_parameters"], **changes}}, path
        )

    return save


def with_weight(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any], Path], None]:
    def save(content: dict[str, Any], path: Path) -> None:
        state = dict(content["state_dict"])
        state["model.tok_emb.weight"] = change(state["model.tok_emb.weight"])
        torch.save({**content, "state_dict": state}, path)

    return save


def endless() -> list[Any]:
    """A list of two lists of two lists and so on: small in a file, but not when it is printed."""
    node: list[Any] = []
    for _ in range(60):
        node = [node, node]
    return node


DAMAGE: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "cut": cut,
    "a weight is missing": without_weight,
    "other width": with_hparams(model={**SHAPE, "emb_dim": 32}),
    "unknown shape": with_hparams(model={**SHAPE, "wings": 2}),
    "no shape": with_hparams(model=5),
    "unknown tokenizer": with_hparams(tokenizer="runes"),
    "unknown argument": with_hparams(mood="good"),
    "a billion blocks": with_hparams(model={**SHAPE, "n_layers": 10**9}),
    "an endless list": with_hparams(model={**SHAPE, "vocab_size": endless()}),
    "a tensor for a number": with_hparams(model={**SHAPE, "n_heads": torch.ones(2)}),
    "labels that are no text": with_hparams(
        settings={"pool": "last", "causal": True, "labels": [1, 2]}
    ),
    "a weight without numbers": with_weight(lambda weight: weight.to("meta")),
    "a sparse weight": with_weight(lambda weight: weight.to_sparse()),
    "a weight of integers": with_weight(lambda weight: weight.long()),
    "empty": lambda content, path: path.write_bytes(b""),
    "text": lambda content, path: path.write_text("hello"),
    "no dict": lambda content, path: torch.save([1, 2], path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named_in_one_line(
    trained: tuple[PretrainTask, Path],
    tmp_path: Path,
    damage: Callable[[dict[str, Any], Path], object],
) -> None:
    path = tmp_path / "damaged.ckpt"
    damage(torch.load(trained[1], weights_only=True), path)
    with pytest.raises(UserError, match=r"damaged\.ckpt") as caught:
        load_trained(path)
    assert "\n" not in str(caught.value)


def test_weights_that_another_program_has_halved_are_read(
    trained: tuple[PretrainTask, Path], tmp_path: Path
) -> None:
    with_weight(torch.Tensor.half)(
        torch.load(trained[1], weights_only=True), tmp_path / "half.ckpt"
    )
    assert {p.dtype for p in load_trained(tmp_path / "half.ckpt").parameters()} == {torch.float32}


def test_a_bare_state_dict_of_ours_is_told_how_to_be_saved(tmp_path: Path) -> None:
    model = GPTModel(GPTConfig(**SHAPE))
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(UserError, match=r"export_safetensors\(model, 'byte', 'FILE"):
        load_trained(tmp_path / "bare.pth")
    export_safetensors(model, "byte", str(tmp_path / "whole.safetensors"))
    assert load_trained(tmp_path / "whole.safetensors").model.cfg == model.cfg


def test_weights_for_another_tokenizer_are_refused(tmp_path: Path) -> None:
    model = GPTModel(GPTConfig(**{**SHAPE, "vocab_size": 700}))
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(UserError, match=r"bare\.pth are for 704 token ids, which no tokenizer of"):
        load_trained(tmp_path / "bare.pth")
    export_safetensors(model, "runes", str(tmp_path / "whole.safetensors"))
    with pytest.raises(UserError, match=r"whole\.safetensors: .*runes"):
        load_trained(tmp_path / "whole.safetensors")
