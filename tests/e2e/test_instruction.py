"""Instruction tuning by the commands that users type."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import run, starter
from forked import Forked

import gptlit
from gptlit import LanguageModel
from gptlit.journal import progress_path
from gptlit.tasks.instruction import InstructionTask
from tests.evaluation.judge_server import Reply, serving
from tests.inference.classifiers import save

torch.set_num_threads(1)

WORDS = "lamp table river stone cloud apple chair house"
ENTRIES = [
    {"instruction": f"{how} number {i}:", "input": word if i % 2 else "", "output": word * 2}
    for i, (how, word) in enumerate(
        (how, word) for how in ("Say", "Write", "Give", "Tell me") for word in WORDS.split() * 2
    )
]
MODEL = (
    "task=instruction",
    "model=gpt2-nano",
    "weights=none",
    "device=cpu",
    "precision=fp32",
    "model.emb_dim=32",
    "model.n_heads=2",
    "model.n_layers=2",
    "model.context_length=64",
    "prompt_format=plain",
    "logger=csv",
)
HELLO = {"role": "assistant", "content": "Hello"}
ANSWERS = "instruction-data-with-response.json"


def chats(entries: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The same as messages, those with an input as a second turn."""
    return [
        {
            "messages": [
                *([{"role": "user", "content": "Hi"}, HELLO] if entry["input"] else []),
                {"role": "user", "content": f"{entry['instruction']} {entry['input']}"},
                {"role": "assistant", "content": entry["output"]},
            ]
        }
        for entry in entries
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data in several forms, and a short run on one with faults in it."""
    folder = tmp_path_factory.mktemp("instruction")
    faulty = [*ENTRIES[:3], {"instruction": "a", "output": ""}, *ENTRIES[3:], {"output": "b"}]
    faulty[9] = {**faulty[9], "output": "much too long " * 9}
    (folder / "faulty.json").write_text(json.dumps(faulty))
    (folder / "good.json").write_text(json.dumps(ENTRIES))
    (folder / "few.json").write_text(json.dumps(ENTRIES[:12]))
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, ENTRIES)))
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats(ENTRIES))))
    pd.DataFrame(ENTRIES).to_parquet(folder / "rows.parquet")
    done = run(
        "train",
        *MODEL,
        "data.path=faulty.json",
        "data.on_error=skip",
        "data.test_fraction=0.2",
        "trainer.max_epochs=3",
        "optimizer.lr=3e-3",
        "task.sample.prompt=it's {so}, [or] not",
        "task.sample.max_new_tokens=5",
        "task.answers.max_new_tokens=20",
        cwd=folder,
        DRAW="1",
    )
    assert done.returncode == 0, done.stderr
    (folder / "console.txt").write_text(done.stdout)
    save(endless_task(), folder / "endless.ckpt")
    return folder


def endless_task() -> InstructionTask:
    """Its answers do not end by themselves."""
    torch.manual_seed(0)
    shape = {"vocab_size": 257, "context_length": 48, "emb_dim": 32, "n_heads": 2, "n_layers": 2}
    prompt = {"name": "x", "template": "{instruction}>"}
    settings = {"prompt": prompt, "trainable": "all"}
    return InstructionTask(model=shape, tokenizer="byte", settings=settings).eval()


def latest(folder: Path) -> Path:
    return (folder / "outputs" / "instruction" / "latest").resolve()


def test_a_run_leaves_answers_metrics_plots_and_samples(folder: Path) -> None:
    found, console = latest(folder), (folder / "console.txt").read_text()
    assert "48 train, 4 validation, 12 test entries" in console
    assert "1 cut to 64 tokens" in console
    told = "2 broken skipped (entry 4: output is empty; entry 66: no field 'instruction'"
    assert told in console
    assert console.count("sample: it's {so}, [or] not\n") == 3
    assert f"details:    {found.relative_to(folder.resolve()) / ANSWERS}\n" in console
    answered = json.loads((found / ANSWERS).read_text())
    assert all(isinstance(entry.pop("model_response"), str) for entry in answered)
    assert answered == ENTRIES[48:60]
    metrics = json.loads((found / "summary.json").read_text())["metrics"]
    scores = {"exact_match", "rouge_l", "answer_words_mean", "reference_words_median"}
    assert {f"test/{name}" for name in ("loss", "accuracy", *scores)} <= metrics.keys()
    for name in ("loss", "accuracy"):
        assert f"val/{name}" in metrics
        for suffix in ("png", "pdf"):
            assert (found / "plots" / f"{name}.{suffix}").stat().st_size > 1000


def test_the_model_answers_instructions_with_inputs(folder: Path) -> None:
    model = gptlit.load(latest(folder), device="cpu", precision="fp32")
    assert isinstance(model, LanguageModel)
    where = ("task=instruction", "device=cpu", "precision=fp32", "max_new_tokens=9")
    done = run("generate", *where, "prompt=Say it, {now}:", "input=lamp", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == model.generate("Say it, {now}:", 9, input="lamp") + "\n"
    typed = ["Say number 1:", "", "Write: lamp"]
    talk = run("generate", *where, cwd=folder, stdin="\n".join([*typed, "quit", "no"]))
    assert (talk.returncode, talk.stderr) == (0, "")
    first, _, second = (model.generate(text, 9) for text in typed)
    assert talk.stdout == f"> {first}\n> > {second}\n> "


def test_evaluate_takes_up_what_training_has_answered(folder: Path) -> None:
    found = latest(folder)
    before = (found / ANSWERS).read_bytes()
    marked = json.loads((progress_path(found / ANSWERS)).read_text().splitlines()[1])
    done = run("evaluate", "task=instruction", "max_new_tokens=20", "device=cpu", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (found / ANSWERS).read_bytes() == before
    kept = progress_path(found / ANSWERS).read_text().splitlines()
    answers = [line for line in kept if "answer" in line]
    assert len(answers) == 12 and json.loads(answers[0]) == marked
    scores = json.loads((found / f"{Path(ANSWERS).stem}-scores.json").read_text())
    assert f"rouge_l:                {scores['rouge_l']:.4g}\n" in done.stdout
    metrics = json.loads((found / "summary.json").read_text())["metrics"]
    assert {f"test/{name}": pytest.approx(value) for name, value in scores.items()}.items() <= (
        metrics.items()
    )


def kill_when(process: Forked, ready: Callable[[], bool], limit_s: float = 120) -> None:
    """SIGKILL once something is so; it must come to that before the process ends by itself."""
    until = time.monotonic() + limit_s
    while not ready():
        assert process.poll() is None and time.monotonic() < until, "it was not in time"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(limit_s)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_killed_answers_go_on_where_they_stopped(folder: Path, tmp_path: Path) -> None:
    # Beyond the context each token takes a pass over all of it: slow enough to be interrupted.
    args = ("ckpt=endless.ckpt", "data=few.json", "max_new_tokens=120", "batch_size=1")
    args += ("device=cpu", f"output={tmp_path / 'answers.json'}")
    path = progress_path(tmp_path / "answers.json")
    process = starter().start("evaluate", *args, cwd=folder, err=tmp_path / "console.txt")
    kill_when(process, lambda: _lines(path) > 3)
    before = path.read_bytes()
    assert 3 < before.count(b"\n") < 13 and not (tmp_path / "answers.json").exists()
    done = run("evaluate", *args, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    model = LanguageModel(endless_task(), "cpu")
    answered = json.loads((tmp_path / "answers.json").read_text())
    for entry, given in zip(answered, ENTRIES[:12], strict=True):
        expected = model.generate(given["instruction"], 120, input=given["input"]).strip()
        assert entry == {**given, "model_response": expected}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ollama", "openai"])
def test_a_judge_scores_the_answers_and_goes_on_after_a_kill(
    folder: Path, tmp_path: Path, name: str
) -> None:
    key = {"JUDGE_KEY": "sk-secret"} if name == "openai" else {}
    with serving() as server:
        url = server.root + ("/v1" if name == "openai" else "")
        args = ["ckpt=endless.ckpt", "data=few.json", "max_new_tokens=3", "device=cpu"]
        args += [f"judge={name}", "judge.model=llama3", f"judge.base_url={url}"]
        args += ["judge.prompt=[{instruction}], {response} answer-{output}."]
        args += ["judge.api_key_env=JUDGE_KEY"] if key else []
        words = list(dict.fromkeys(entry["output"] for entry in ENTRIES[:12]))
        for i, word in enumerate(words):
            server.scripts[word] = [Reply(f"Score: {10 * i}")]
        server.scripts[words[3]] = [Reply("I think ninety")]
        server.scripts[words[5]] = [Reply(silent=True)]
        whole, killed = (tmp_path / f"{n}.json" for n in ("whole", "killed"))
        slowly = (*args, "judge.concurrency=1", f"output={killed}")
        env = {**key, "NO_PROXY": "*", "DRAW": "1"}
        err = tmp_path / "console.txt"
        process = starter().start("evaluate", *slowly, cwd=folder, err=err, **env)
        scores = progress_path(killed.with_name("killed-judged.json"))
        # While the sixth is asked about, the fifth score may still be on its way to the file.
        kill_when(process, lambda: server.asked[words[5]] > 0 and _lines(scores) == 2 * 5)
        server.release.set()
        server.scripts[words[5]] = [Reply("85/100")]
        server.asked.clear()
        done = [run("evaluate", *args, f"output={killed}", cwd=folder, **env)]
        assert server.asked == {words[i % 8]: 1 + (i % 8 == 3) for i in range(5, 12)}
        done += [run("evaluate", *args, f"output={whole}", cwd=folder, **env)]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    judged = [path.with_name(f"{path.stem}-judged.json") for path in (killed, whole)]
    assert judged[0].read_bytes() == judged[1].read_bytes()
    result = json.loads(judged[0].read_text())
    by_word = [10 * i for i in range(8)]
    by_word[5] = 85
    expected = [None if i % 8 == 3 else by_word[i % 8] for i in range(12)]
    assert [row["score"] for row in result["scores"]] == expected
    assert (result["scored"], result["unscored"]) == (10, 2)
    assert result["histogram"]["80-89"] == expected.count(85)
    worst = sorted(score for score in expected if score is not None)[:5]
    assert [row["score"] for row in result["worst"]] == worst
    shown = done[0].stdout
    for text in ("Scores by llama3", "mean", "80-89", "█", "Lowest scores", "Unscored"):
        assert text in shown
    assert "no score in the reply: I think ninety" in shown
    assert judged[0].with_suffix(".png").stat().st_size > 1000
    assert "sk-secret" not in shown + done[0].stderr + judged[0].read_text()


FORMS: dict[str, list[str]] = {
    "lines": ["data.path=lines.jsonl", "prompt_format=alpaca", "model.context_length=256"],
    "rows": ["data.path=rows.parquet", "prompt_format=phi3", "data.shuffle=true"],
    "chats": ["data.path=chats.jsonl", "prompt_format=input-first", "data.pack=true"],
    "whole prompts": ["data.path=good.json", "task.mask_prompt=false"],
    "own form": [
        "data.path=good.json",
        "prompt_format=custom",
        "prompt_format.template=Question: {instruction}\nAnswer: {response}<end>",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_data_and_prompt_trains(folder: Path, form: str) -> None:
    args = (*MODEL, *FORMS[form], "trainer.max_steps=6", "trainer.max_epochs=null", "seed=1")
    args += ("task.answers.max_new_tokens=4", "data.test_fraction=0.05", f"hydra.run.dir={form}")
    done = run("train", *args, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "57 train, 4 validation, 3 test entries" in done.stdout
    answered = json.loads((folder / form / ANSWERS).read_text())
    first = chats(ENTRIES[57:])[0] if form == "chats" else ENTRIES[57]
    if form != "rows":  # those are shuffled
        assert answered[0].items() >= first.items()
    assert (folder / form / "plots" / "loss.png").is_file()
    content = torch.load(folder / form / "checkpoints" / "best.ckpt", weights_only=True)
    settings = content["hyper_parameters"]["settings"]
    assert settings["mask_prompt"] == (form != "whole prompts")
    told = json.loads((folder / form / "summary.json").read_text())["metrics"]
    assert {"val/loss", "val/accuracy", "test/loss", "test/rouge_l"} <= told.keys()


def adapter_args(folder: Path, steps: int) -> tuple[str, ...]:
    return (
        *(arg for arg in MODEL if not arg.startswith("weights")),
        "data.path=good.json",
        "weights=checkpoint",
        f"weights.path={folder / 'base'}",
        "task.trainable=lora",
        "task.adapter_only=true",
        "task.lora.dropout=0.1",
        "optimizer.lr=1e-2",
        f"trainer.max_steps={steps}",
        "trainer.max_epochs=null",
        "task.answers.max_new_tokens=4",
    )


@pytest.mark.slow
def test_an_adapter_without_its_weights_is_used_by_every_command(folder: Path) -> None:
    shape = [arg for arg in MODEL if arg.startswith(("model", "device", "precision", "logger"))]
    base = run("train", *shape, "trainer.max_steps=2", "hydra.run.dir=base", cwd=folder)
    assert base.returncode == 0, base.stderr
    for where, steps in (("whole", 8), ("halves", 4)):
        done = run("train", *adapter_args(folder, steps), f"hydra.run.dir={where}", cwd=folder)
        assert done.returncode == 0, done.stderr
    done = run("train", "resume=halves", "trainer.max_steps=8", cwd=folder)
    assert done.returncode == 0 and "resumed at step 4" in done.stdout, done.stderr
    one, two = (
        torch.load(folder / where / "checkpoints" / "last.ckpt", weights_only=True)
        for where in ("whole", "halves")
    )
    assert one["global_step"] == two["global_step"] == 8
    assert all(name.endswith(("lora_A", "lora_B")) for name in one["state_dict"])
    for name, tensor in one["state_dict"].items():
        assert torch.equal(two["state_dict"][name], tensor), name
    other = ("resume=halves", "trainer.max_steps=9", "task.adapter_only=false")
    mixed = run("train", *other, cwd=folder)
    assert mixed.returncode == 2
    assert "the run has task.adapter_only=true, not false; leave it so" in mixed.stderr

    said = "prompt=Say number 1:", "max_new_tokens=9", "precision=fp32", "device=cpu"
    text = run("generate", "ckpt=whole", *said, cwd=folder)
    assert text.returncode == 0, text.stderr
    judged = run("evaluate", "ckpt=whole", "max_new_tokens=4", "device=cpu", cwd=folder)
    assert judged.returncode == 0 and "rouge_l" in judged.stdout, judged.stderr
    out = run("scripts/export", "ckpt=whole", "out=theirs", cwd=folder)
    assert out.returncode == 0, out.stderr
    (folder / "base").rename(folder / "moved")
    lost = run("generate", "ckpt=whole", *said, cwd=folder)
    assert lost.returncode == 2 and lost.stderr.count("\n") == 1
    assert "holds a LoRA adapter alone" in lost.stderr and "give weights.path=PATH" in lost.stderr
    for args in (("ckpt=whole", "weights.path=moved"), ("ckpt=theirs",)):
        again = run("generate", *args, *said, cwd=folder)
        assert (again.returncode, again.stdout) == (0, text.stdout), again.stderr
