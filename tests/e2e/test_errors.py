"""What users see when they mistype: one line, exit code 2, no traceback, nothing left behind."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from commands import TINY, run, write_corpus

TEXT = (*TINY, "data=text")

TRAIN = {
    "unknown model": (["model=gpt2-smal"], r"unknown model=gpt2-smal.*did you mean gpt2-small"),
    "unknown key": (["modle=gpt2-nano"], r"unknown key 'modle': did you mean 'model'"),
    "unknown nested key": (["optimizer.lrr=1"], r"did you mean 'optimizer.lr'"),
    "added unknown key": (["+optimizer.lrr=1"], r"did you mean 'optimizer.lr'"),
    "wrong type": (["optimizer.lr=fast"], r"optimizer.lr=fast: expected a number"),
    "wrong type, nested": (["trainer.max_steps=1.5"], r"max_steps=1.5: expected a whole number"),
    "group as value": (["trainer=3"], r"unknown trainer=3: allowed are"),
    "negative batch": (["data.batch_size=-1"], r"data.batch_size=-1: must be >= 1"),
    "heads do not divide": (["model.n_heads=3"], r"emb_dim \(32\) must be divisible by model.n_he"),
    "value to be given": (["data=text"], r"data.path must be given"),
    "no end": (["trainer.max_steps=-1"], r"no end: give trainer.max_steps"),
    "share of nothing": (
        ["trainer.limit_val_batches=1e-9"],
        r"limit_val_batches=1e-09 is less than one of the \d+ validation batches; give 0\.\d+ or",
    ),
    "cuda without cuda": (["device=cuda"], r"device=cuda is not available: this machine has .*cpu"),
    "fp16 on a cpu": (["precision=fp16"], r"precision=fp16 trains on CUDA only.*precision=bf16"),
    "missing file": (["data=text", "data.path=nowhere.txt"], r"nowhere.txt"),
    "empty file": (
        ["data=text", "data.path=empty.txt"],
        r"empty.txt holds no text; give a corpus",
    ),
    "binary file": (["data=text", "data.path=binary.txt"], r"binary.txt.*byte"),
    "short corpus": (["data=text", "data.path=short.txt"], r"model.context_length="),
    "unwritable output": (["output_root=locked"], r"cannot write to .*locked"),
    "resume from nothing": (["resume=nowhere"], r"resume=nowhere.*give a run folder"),
    "unknown interpolation": (["seed=${nothing}"], r"nothing"),
    "broken grammar": (["data.path=[a"], r"."),
}

GENERATE = {
    "no run yet": ([], r"no finished pretrain run in outputs/.*train.py task=pretrain"),
    "missing checkpoint": (["ckpt=nowhere.ckpt"], r"nowhere.ckpt does not exist"),
    "text as checkpoint": (["ckpt=short.txt"], r"short.txt is not a gptlit checkpoint"),
    "zip as checkpoint": (["ckpt=some.zip"], r"some.zip is not a gptlit checkpoint"),
    "other torch file": (["ckpt=other.pt"], r"other.pt is not a gptlit checkpoint"),
    "hostile pickle": (["ckpt=hostile.ckpt"], r"hostile.ckpt is refused.*nothing in it was exec"),
    "hostile bare pickle": (["ckpt=bare.ckpt"], r"bare.ckpt is not a gptlit checkpoint"),
    "hostile task name": (
        ["ckpt=name.ckpt"],
        r"name.ckpt does not fit.*: Missing key.*tok_emb",
    ),
    "folder without run": (["ckpt=."], r"without checkpoints/best.ckpt"),
    "unknown key": (["temprature=1"], r"did you mean 'temperature'"),
    "out of range": (["top_p=1.5"], r"top_p=1.5: must be > 0 and <= 1"),
    "two sources": (["prompt=a", "prompts=short.txt"], r"not both"),
    "missing prompts": (["prompts=nowhere.txt"], r"prompts=nowhere.txt: there is no such file"),
    "empty prompts": (["prompts=empty.txt"], r"has no prompt"),
}


class Hostile:
    """Unpickled by a careless loader, it would leave a file behind."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    write_corpus(folder / "corpus.txt")
    (folder / "short.txt").write_text("too short")
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (folder / "locked").write_text("a file where a folder should be")
    with zipfile.ZipFile(folder / "some.zip", "w") as archive:
        archive.writestr("readme", "hello")
    torch.save({"weights": torch.zeros(3)}, folder / "other.pt")
    torch.save({"state_dict": {}, "hyper_parameters": Hostile()}, folder / "hostile.ckpt")
    (folder / "bare.ckpt").write_bytes(pickle.dumps(Hostile()))
    hparams = {"task": "os.system", "model": {}, "tokenizer": "byte"}
    torch.save({"state_dict": {}, "hyper_parameters": hparams}, folder / "name.ckpt")
    return folder


def check(script: str, table: dict[str, tuple[list[str], str]], folder: Path, *base: str) -> None:
    before = {path.name for path in folder.iterdir()}
    results = [run(script, *base, *args, cwd=folder) for args, _ in table.values()]
    for (case, (_, pattern)), done in zip(table.items(), results, strict=True):
        report = f"{case}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 2, report
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, report
        assert re.search(pattern, done.stderr), report
        assert "Traceback" not in done.stdout, report
    after = {path.name for path in folder.iterdir()}
    assert after - before <= {"cache", "outputs"}
    assert not (folder / "executed").exists()


def test_train_answers_each_mistake_in_one_line(folder: Path) -> None:
    check("train", TRAIN, folder, *TINY, "trainer.max_steps=2")
    runs = list((folder / "outputs" / "pretrain").glob("*/checkpoints"))
    assert runs == []


def test_generate_answers_each_mistake_in_one_line(folder: Path) -> None:
    check("generate", GENERATE, folder)
