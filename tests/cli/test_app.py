"""From what is typed to what the commands see; and what is left behind when they refuse."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from commands import run as run_command
from commands import run_anew
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from yaml import YAMLError

import gptlit
from gptlit.cli import app, mistakes
from gptlit.cli.arguments import overrides_by_key, quote, quoted, read, unquoted
from gptlit.cli.entry import generate
from gptlit.errors import UserError
from gptlit.files import default_cache_dir
from gptlit.options import conf_dir
from gptlit.training.stopping import INTERRUPTED, stoppable

SPECIAL = r"""'"\${}[](),=:~+*?|/#%@!<>; """ + "\t\n\r\\\\"


def as_seen(arg: str, **options: Sequence[str]) -> object:
    """The value in the composed config, after Hydra's grammar and after interpolation."""
    override = OverridesParser.create().parse_override(
        quote(arg, options.get("free_text", ()), options.get("text_lists", ()))
    )
    cfg = OmegaConf.create({"prompt": None})
    OmegaConf.update(cfg, "prompt", override.value())
    return OmegaConf.to_container(cfg, resolve=True)["prompt"]  # type: ignore[index,call-overload]


texts = st.text(min_size=1) | st.text(st.sampled_from(SPECIAL + "ab1"), min_size=1)


@given(texts.filter(lambda text: text != "null"))
@example("a \\")
@example("\\\n")
@example("it's")
@example("'quoted'")
@example('"To be," he said, "or not."')
@example("[Act 1] Enter [a ghost]")
@example("${HOME} costs \\${5}")
@example("\\\\${x}\\")
@example("true")
@example("3.0")
def test_free_text_arrives_as_it_was_typed(text: str) -> None:
    assert as_seen(f"prompt={text}", free_text=["prompt"]) == text
    if not (text.startswith("[") and text.endswith("]")):
        assert as_seen(f"prompt={text}", text_lists=["prompt"]) == text


@given(texts)
@example("\\'${x}'")
def test_a_quoted_text_is_read_as_it_was(text: str) -> None:
    assert unquoted(quoted(text)) == text


def test_the_last_override_of_a_key_counts_whatever_its_sign() -> None:
    args = ["--multirun", "model=a", "+model='b'", "++x.y=1,2", "~data", r"path='it\'s'"]
    assert overrides_by_key(args) == {"model": "b", "x.y": "1,2", "data": "", "path": "it's"}


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("prompt=[a,b]", ["a", "b"]),
        ("prompt=['a, b',c]", ["a, b", "c"]),
        ("prompt=a,b", "a,b"),
        ("prompt=null", None),
        ("prompt=", ""),
    ],
)
def test_a_list_of_texts_is_a_list(typed: str, value: object) -> None:
    assert as_seen(typed, text_lists=["prompt"]) == value


def test_debug_of_a_command_without_options_for_it_is_true_or_false() -> None:
    assert read(["debug=True", "a=1"], short={}) == ["a=1"]
    with pytest.raises(UserError, match=r"^debug=yes: give debug=true or debug=false$"):
        read(["debug=yes"], short={})


def test_choice_sweeps_over_texts() -> None:
    several = "weights.path=choice(a,'b, c')"
    assert read(["-m", several], free_text=["weights.path"]) == [
        "--multirun",
        "weights.path=a,'b, c'",  # Hydra keeps the quotes of these
    ]
    [alone] = read([several], free_text=["weights.path"])
    assert alone == f"weights.path={quoted(several.partition('=')[2])}"


@pytest.mark.parametrize(
    ("typed", "passed_on"),
    [
        ("debug=True", "debug='true'"),
        ("debug=false", "debug='false'"),
        ("model=gpt2-nano", "model='gpt2-nano'"),
        ("model=My-Size", "model='My-Size'"),
        ("model='gpt2-nano'", "model='gpt2-nano'"),
        ("model=gpt2-nano,gpt2-small", "model='gpt2-nano','gpt2-small'"),
        ("+model=3", "model='3'"),
        ("hydra/launcher=basic", "hydra/launcher='basic'"),
        ("data.path=Bücher", "data.path='Bücher'"),
        ("data.path=Bücher,b", "data.path='Bücher',b"),
        ("data.path=[a,b]", "data.path=[a,b]"),
        ("data.path=[Bücher,b]", "data.path=['Bücher',b]"),
        ("data.path=~/b", "data.path=/home/me/b"),
        ("data.path=~you/b", "data.path='~you/b'"),
        ("data.path=[a, ~/b]", "data.path=[a,/home/me/b]"),
        ("experiment=null", "~experiment"),
        ("optimizer.lr=1e-3", "optimizer.lr=1e-3"),
        ("data.path=null", "data.path=null"),
        ("trainer.devices=2", "trainer.devices=2"),
        ("--config-dir=model", "--config-dir=model"),
        ("~experiment", "~experiment"),
        ("-m", "-m"),
    ],
)
def test_names_of_options_are_no_booleans_and_no_numbers(
    monkeypatch: pytest.MonkeyPatch, typed: str, passed_on: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert quote(typed, ["prompt"]) == passed_on


REFUSED = [
    ("generate", "top_p=1.5", "empty"),
    ("generate", "top_p=1.5", "with config"),
    ("train", "trainer.max_steps=0", "with config"),
    ("train", "trainer.max_steps=0 hydra.run.dir=run", "empty"),
    ("train", "trainer.max_steps=0 hydra.run.dir=.", "with config"),
    ("train", "trainer.max_steps=0 hydra.run.dir=config", "with config"),
]


@pytest.mark.parametrize(("script", "args", "kind"), REFUSED)
def test_a_refused_command_deletes_nothing_of_the_users(
    tmp_path: Path, script: str, args: str, kind: str
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    if kind == "with config":
        (folder / "config").mkdir()
        (folder / "config" / "notes.txt").write_text("precious")
    done = run_command(script, *args.split(), cwd=folder)
    assert done.returncode == 2, done.stderr
    assert folder.is_dir()
    assert kind == "empty" or (folder / "config" / "notes.txt").read_text() == "precious"


def test_a_run_that_could_not_start_leaves_no_folder(tmp_path: Path) -> None:
    run_command("train", "trainer.max_steps=0", cwd=tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs"]


ANSWERS = {
    ("generate", "model=gpt2-small"): "unknown key 'model'",
    ("generate", "output=nowhere/x.jsonl prompts=p.txt"): "output=nowhere/x.jsonl: give a file in",
    ("classify", "input=nowhere.csv"): "input=nowhere.csv needs a file for the answers",
    ("classify", "input=nowhere.csv output=x.csv"): "input=nowhere.csv: there is no such file",
    ("train", "data=null"): "data is missing",
    ("train", "optimizer.lr=fast"): "optimizer.lr=fast: expected a number",
    ("train", "optimizer.lr=-1"): "optimizer.lr=-1: must be > 0",
    ("train", "optimiser.lr=1"): "unknown key 'optimiser.lr': did you mean 'optimizer.lr'?",
    ("train", "lr=1e-3"): "unknown key 'lr': did you mean 'optimizer.lr'?",
    ("train", "data=pydocs data.path=x"): "the chosen data has no key 'data.path': add data=text\n",
    ("train", "task.trainable=head"): "the chosen task has no key 'task.trainable': add task=class",
    ("train", "resume=yes"): "resume=yes: give resume=auto, which goes on with the newest",
    ("train", "data._target_=all"): "data._target_=all: there is no all module; give a class",
    ("train", "task.name=x +task._target_=o.B"): "task._target_=o.B: there is no o module; give",
    (
        "train",
        "callbacks.x=5",
    ): "callbacks.x is not in the config: to add it, type +callbacks.x=...",
    (
        "train",
        "callbacks={x:{_target_:lightning.pytorch.callbacks.Timer}}",
    ): "callbacks has no such key: to add it, type +callbacks.NAME=...",
    (
        "train",
        "+callbacks.x=5",
    ): "callbacks.x=5: give the class and its arguments, such as {_target_",
    (
        "train",
        "+callbacks.x._target_=o.B",
    ): "callbacks.x._target_=o.B: there is no o module; give a",
    (
        "train",
        "logger=wandb logger.wandb.projct=x",
    ): "logger.wandb.projct is not in the config: to add it, type +logger.wandb.projct=...; did you"
    " mean logger.wandb.project?",
    ("train", "task.name=all"): "task.name=all: there is no such task; choose one of task=pretrain",
    (
        "train",
        "task=instruction data.path=nowhere.json prompt_format.template=x",
    ): "prompt_format.template='x': it needs a place for the instruction",
    ("train", "data._target_=.a"): "data._target_=.a: there is no such module; give a class",
    ("train", "weights=huggingface model=gpt2-nano"): "weights=huggingface has gpt2-small, ",
    ("train", "weights.path=nowhere"): "weights.path=nowhere: there is no such file",
    ("train", "data.path=nowhere.txt"): "data.path=nowhere.txt: there is no such file",
    ("train", "weights.path=nowhere task=spam"): "unknown task=spam: allowed are",
    ("train", "data.path="): "data.path is empty: give a value",
    ("train", "output_root="): "output_root is empty: give a value",
    ("generate", "prompts="): "prompts is empty: give a value",
    ("scripts/export", "out="): "out is empty: give a value",
    ("train", "resume=nowhere"): "resume=nowhere: there is no nowhere/checkpoints/last.ckpt",
    ("train", "-m seed=1,2 resume=some/run"): "resume=some/run is one run: in a sweep give",
    ("generate", "data.path=x"): "unknown key 'data.path'",
    ("generate", "prompts=nowhere.txt"): "prompts=nowhere.txt: there is no such file",
    ("generate", "max_new_tokens=0"): "max_new_tokens=0: must be >= 1",
    ("generate", "temperature=hot"): "temperature=hot: expected a number",
    ("generate", "top_k"): "'top_k' has no '=': did you mean top_k=...?",
    ("generate", "--temperature=1"): "unknown flag --temperature=1: keys are set without dashes",
    (
        "train",
        "--learning_rate=1",
    ): "unknown flag --learning_rate=1: keys are set without dashes, o",
    ("classify", "batch_size=many"): "batch_size=many: expected a whole number",
    ("classify", "batchsize=2"): "unknown key 'batchsize': did you mean 'batch_size'?",
    ("evaluate", "stride=0"): "stride=0: must be >= 1",
    ("evaluate", "sride=1"): "unknown key 'sride': did you mean 'stride'?",
    ("evaluate", "judge=olama"): "unknown judge=olama: allowed are none, ollama, openai; did you",
    ("evaluate", "batch_size=1,2"): "batch_size=1,2 is more than one value: to run all of them",
    ("evaluate", "seed=[1"): "cannot read seed=[1: close quotes and brackets",
    ("scripts/export", "out=x format=onnx"): "format=onnx: allowed are huggingface, safetensors",
}


@pytest.mark.parametrize(("command", "expected"), ANSWERS.items(), ids=map(" ".join, ANSWERS))
def test_a_mistake_is_answered_before_torch_is_imported(
    tmp_path: Path, command: tuple[str, str], expected: str
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    script, args = command
    first = os.pathsep.join([str(tmp_path), str(conf_dir().parent)])
    env = {"PYTHONPATH": first, "GPTLIT_ALLOCATOR": "system"}
    done = run_anew(script, *args.split(), cwd=tmp_path, **env)
    line = done.stderr
    assert line.startswith(f"error: {expected}") and line.count("\n") == 1
    assert "did you mean 'model'" not in line


def test_options_of_ones_own_are_allowed_and_named(tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    option = (conf_dir() / "model" / "gpt2-nano.yaml").read_text()
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text(option)
    done = run_command("train", "--config-dir", "mine", "model=tinny", cwd=tmp_path)
    assert done.stderr.startswith("error: unknown model=tinny: allowed are gpt2-large")
    assert done.stderr.endswith("gpt2-xl, tiny; did you mean tiny?\n")
    args = ("--config-dir=mine", "model=tiny", "trainer.max_steps=0")
    done = run_command("train", *args, cwd=tmp_path)
    assert done.stderr.startswith("error: trainer.max_steps=0 trains nothing")
    done = run_command("train", "--config-dir=nowhere", "model=tiny", cwd=tmp_path)
    assert done.stderr.endswith(": there is no such folder; give the one with your options\n")


@pytest.mark.parametrize(
    ("typed", "options"), [([], "data=text"), (["task=classification"], "data=csv")], ids=str
)
def test_of_options_with_a_key_those_for_the_typed_task_are_named(
    monkeypatch: pytest.MonkeyPatch, typed: list[str], options: str
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", *typed])
    assert mistakes._options_with("data.path") == options


LOST = {
    "experiment": "the chosen experiment sets experiment.trainer: for it to set keys of other",
    "debug": "the chosen debug sets debug.trainer: for it to set keys of other groups, begin its",
    "task": "the chosen task does not set task.name: begin its file with the line '# @package _glo",
}


@pytest.mark.parametrize("group", LOST)
def test_an_option_whose_keys_hydra_puts_below_its_group_is_told_the_missing_line(
    tmp_path: Path, group: str
) -> None:
    (tmp_path / "mine" / group).mkdir(parents=True)
    (tmp_path / "mine" / group / "long.yaml").write_text("trainer:\n  max_steps: 0\n")
    done = run_command("train", "--config-dir=mine", f"{group}=long", cwd=tmp_path)
    assert done.stderr.startswith(f"error: {LOST[group]}")


@pytest.mark.parametrize("defaults", ["[true]", "[{override /debug: true}]", "long"])
def test_a_list_of_defaults_that_hydra_cannot_read_is_answered(
    tmp_path: Path, defaults: str
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "long.yaml").write_text(f"defaults: {defaults}\n")
    done = run_command("train", "--config-dir=mine", "experiment=long", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stderr.endswith('true and false are in quotes: - "true"\n')


def test_an_option_given_as_a_file_is_told_its_folder(tmp_path: Path) -> None:
    for name in ("mine/experiment/long.yaml", "short.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for typed, cure in (
        ("mine/experiment/long.yaml", "give --config-dir=mine experiment=long"),
        ("mine/experiment/long", "give --config-dir=mine experiment=long"),
        ("short.yaml", "put this file into FOLDER/experiment/ and give --config-dir=FOLDER exper"),
    ):
        done = run_command("train", f"experiment={typed}", cwd=tmp_path)
        assert done.stderr.startswith(f"error: unknown experiment={typed}: allowed are shakes")
        assert f"the-verdict; {cure}" in done.stderr


def test_conf_is_found_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (conf_dir() / "train.yaml").is_file()
    assert conf_dir().is_absolute()


def ending(
    monkeypatch: pytest.MonkeyPatch, error: Exception, *args: str, of: str = "generate"
) -> object:
    """The exit code of a command in this process that an error ends."""

    def failing(_: list[str]) -> list[str]:
        raise error

    monkeypatch.setattr("sys.argv", ["generate.py", *args])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as caught:
        app.run(of, lambda _: None, lambda *_: None, short={}, rewrite=failing)
    return caught.value.code


def test_in_debug_a_mistake_is_told_in_one_line_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(monkeypatch, UserError("no such file"), "debug=true") == 2
    assert capsys.readouterr().err == "error: no such file\n"


@pytest.mark.parametrize("debug", [True, False])
def test_debug_adds_the_traceback_of_what_pytorch_could_not_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    error = UserError("out of memory")
    error.__cause__ = RuntimeError("allocate")
    assert ending(monkeypatch, error, f"debug={str(debug).upper()}") == 2
    said = capsys.readouterr().err
    assert said.endswith("error: out of memory\n")
    assert ("RuntimeError: allocate" in said) == debug == (said.count("\n") > 1)


def test_a_job_that_finds_no_memory_is_told_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["classify.py", "batch_size=8"])
    with pytest.raises(SystemExit) as caught:
        app.run("classify", lambda _: None, job, short={})
    assert caught.value.code == 2
    assert "; try batch_size=4 or device=cpu or a smaller model\n" in capsys.readouterr().err


def test_a_file_of_options_that_is_no_yaml_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text("model:\n  emb_dim: [1\n  x: {\n")
    with pytest.raises(YAMLError) as caught:
        OmegaConf.load(file)
    assert ending(monkeypatch, caught.value) == 2
    assert capsys.readouterr().err.startswith("error: mine.yaml, line 3 is no YAML: expected ")


def test_a_class_that_cannot_be_imported_is_named_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "gptlit.data.nothing.Data"})
    assert ending(monkeypatch, caught.value) == 2
    said = "error: gptlit.data.nothing.Data cannot be imported: No module named 'gptlit.data.nothi"
    assert capsys.readouterr().err.startswith(said)


def test_another_file_is_the_cure_where_nothing_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(monkeypatch, PermissionError(13, "Permission denied", "/locked/x")) == 2
    said = capsys.readouterr().err
    assert said == "error: cannot use /locked/x: Permission denied; choose another file\n"


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("secret.pt", "cannot use secret.pt: Permission denied; choose another file"),
        ("nowhere/x", "cannot write to nowhere/x: Permission denied; choose output_root=FOLDER"),
        (None, "cannot write to None: Permission denied; choose output_root=FOLDER"),
    ],
)
def test_in_training_another_folder_is_the_cure_for_what_is_written_alone(
    place: str | None,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.pt").touch()
    # Whoever runs the tests may be one who can read all files.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).is_file() and mode == os.F_OK)
    assert ending(monkeypatch, PermissionError(13, "Permission denied", place), of="train") == 2
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize("command", ["train", "generate"])
def test_a_name_that_is_too_long_is_told_in_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        Path("x" * 256).stat()
    assert ending(monkeypatch, caught.value, of=command) == 2
    said = capsys.readouterr().err
    assert said == f"error: cannot use {'x' * 256}: File name too long; choose another file\n"


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["generate.py", "--version"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    app.run("generate", lambda _: None, lambda *_: None, short={})
    assert capsys.readouterr().out == f"gptlit {gptlit.__version__}\n"


@pytest.mark.parametrize(
    "made", ["", "\n  except KeyboardInterrupt as e: raise ImportError from e"]
)
def test_ctrl_c_while_a_command_is_imported_is_quiet(made: str) -> None:
    raised = f"{'try: ' if made else ''}signal.raise_signal(signal.SIGINT){made}"
    importing = f"def importing(_):\n  {raised}\nentry.import_module = importing\n"
    code = f"import signal\nfrom gptlit.cli import entry\n{importing}entry.train()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_ctrl_c_while_python_ends_is_quiet_after_a_training_too() -> None:
    """Which puts the handlers back that it found."""
    code = "import atexit, signal\nfrom types import SimpleNamespace\n"
    code += "from gptlit.cli import entry\nfrom gptlit.training.stopping import stoppable\n"
    code += "def main():\n  with stoppable(): pass\n  atexit.register(signal.raise_signal, 2)\n"
    code += "entry.import_module = lambda _: SimpleNamespace(main=main)\nentry.train()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (INTERRUPTED, "")


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "é · ? █"), ("latin-1", "é · ? ?"), ("ascii", "? ? ? ?")]
)
def test_signs_that_the_encoding_lacks_end_no_command(encoding: str, shown: str) -> None:
    module = "SimpleNamespace(main=lambda: print('é · \\ud800 █'))"
    code = "from types import SimpleNamespace\nfrom gptlit.cli import entry\n"
    code += f"entry.import_module = lambda _: {module}\nentry.train()"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment
    )
    assert done.stdout.decode(encoding) == f"{shown}\n"


MAIN = "def main():\n  assert sys.stdin.read() == ''\n  print('a')\n"
MAIN += "  print('b', file=sys.stderr)\n  fds.append(os.open(os.devnull, os.O_RDONLY))\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_without_standard_streams_writes_into_no_other_file(closed: str) -> None:
    code = f"import os, sys\nfrom types import SimpleNamespace\nfds = []\n{MAIN}"
    code += "from gptlit.cli import entry\n"
    code += "entry.import_module = lambda _: SimpleNamespace(main=main)\n"
    code += "entry.train()\nos._exit(0 if fds[0] > 2 else 1)"
    command = f'"$0" -c "$1" < /dev/null > /dev/null {closed}'
    subprocess.run(["sh", "-c", command, sys.executable, code], check=True)


def test_a_user_without_a_home_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rewrite(_: list[str]) -> list[str]:
        return [str(default_cache_dir())]

    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # it is not in /etc/passwd
    monkeypatch.delenv("GPTLIT_CACHE", raising=False)
    monkeypatch.setattr("sys.argv", ["generate.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit):
        app.run("generate", lambda _: None, lambda *_: None, rewrite=rewrite)
    assert capsys.readouterr().err == (
        "error: this user has no home folder: set the variable HOME to a folder\n"
    )


def test_a_working_folder_that_was_deleted_is_told(tmp_path: Path) -> None:
    code = "from gptlit.cli import entry; entry.train()"
    command = 'mkdir gone; cd gone; rmdir ../gone; exec "$0" -c "$1"'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    line = "error: the working folder was deleted: go to another one\n"
    assert (done.returncode, done.stderr.splitlines(True)[-1]) == (2, line)


def test_a_stop_that_hydra_made_an_error_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def composing() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except SystemExit as error:
            raise ConfigCompositionException from error

    monkeypatch.setattr("hydra.main", lambda **_: lambda _: composing)
    with pytest.raises(SystemExit) as caught, stoppable():
        app._run_hydra("train", lambda _: None, lambda *_: None, False)
    assert caught.value.code == INTERRUPTED


@pytest.mark.parametrize("key", [True, False])
def test_ctrl_c_that_a_library_made_an_error_is_ctrl_c(
    key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As compiled modules do that are being imported."""

    def importing(_: list[str]) -> list[str]:
        raise ImportError("initialization failed") from (KeyboardInterrupt() if key else KeyError())

    monkeypatch.setattr("sys.argv", ["generate.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit if key else ImportError) as caught:
        app.run("generate", lambda _: None, lambda *_: None, rewrite=importing)
    assert not key or caught.value.code == INTERRUPTED


@pytest.mark.parametrize("buffering", [-1, 1])
def test_output_that_nobody_reads_any_more_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, buffering: int
) -> None:
    main = SimpleNamespace(main=lambda: print("a line\n" * 9))
    monkeypatch.setattr("gptlit.cli.entry.import_module", lambda _: main)
    monkeypatch.setattr("gptlit.cli.entry.quiet_ctrl_c", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering) as out:
        monkeypatch.setattr("sys.stdout", out)
        with pytest.raises(SystemExit) as it:
            generate()
        assert it.value.code == 1
        monkeypatch.undo()


def test_other_broken_pipes_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    main = SimpleNamespace(main=Mock(side_effect=BrokenPipeError("of a worker")))
    monkeypatch.setattr("gptlit.cli.entry.import_module", lambda _: main)
    monkeypatch.setattr("gptlit.cli.entry.quiet_ctrl_c", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        generate()
