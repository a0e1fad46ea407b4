"""`resume=...` becomes the command line of the run that goes on."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from gptlit.cli.resume import apply
from gptlit.cli.train import rewrite
from gptlit.errors import UserError


def make_run(folder: Path, overrides: list[str], *, finished: bool = False) -> Path:
    """What a run leaves that has saved a checkpoint."""
    for name in ("checkpoints", "config"):
        (folder / name).mkdir(parents=True)
    for name in ("last", "best"):
        (folder / "checkpoints" / f"{name}.ckpt").touch()
    OmegaConf.save(OmegaConf.create(overrides), folder / "config" / "overrides.yaml")
    if finished:
        (folder / "summary.json").touch()
    return folder


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs; the newest that is unfinished had other overrides than the one before it."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs" / "pretrain"
    make_run(root / "1", ["seed=1", "model='gpt2-nano'"])
    make_run(root / "2", ["seed=1", "model='gpt2-nano'"])
    make_run(root / "3", ["seed=2"])
    make_run(root / "4", ["seed=2"], finished=True)
    (root / "latest").symlink_to("4")
    return root


def plain(args: list[str]) -> list[str]:
    """As Hydra reads them: without quotes, paths as they are below the working folder."""
    values = []
    for arg in args:
        if arg.startswith("-"):
            values.append(arg)
            continue
        parsed = OverridesParser.create().parse_override(arg)
        value = getattr(parsed.value(), "text", parsed.value())
        values.append(f"{parsed.key_or_group}={str(value).removeprefix(f'{Path.cwd()}/')}")
    return values


def going_on(folder: str, checkpoint: str = "last") -> list[str]:
    return [f"hydra.run.dir={folder}", f"resume={folder}/checkpoints/{checkpoint}.ckpt"]


RUN = "outputs/pretrain"
TABLE = {
    "nothing to do": (["seed=1", "-m"], ["seed=1", "-m"]),
    "null": (["resume=null"], ["resume=null"]),
    "folder": ([f"resume={RUN}/3"], ["seed=2", *going_on(f"{RUN}/3")]),
    "with a plus": ([f"+resume={RUN}/3"], ["seed=2", *going_on(f"{RUN}/3")]),
    "quoted folder": ([f"resume='{RUN}/3'"], ["seed=2", *going_on(f"{RUN}/3")]),
    "checkpoint": ([f"resume={RUN}/3/checkpoints/last.ckpt"], ["seed=2", *going_on(f"{RUN}/3")]),
    "best": (
        [f"resume={RUN}/3/checkpoints/best.ckpt"],
        ["seed=2", *going_on(f"{RUN}/3", "best")],
    ),
    "given now wins": (
        [f"resume={RUN}/1", "seed=9", "trainer.max_steps=7"],
        ["model=gpt2-nano", "seed=9", "trainer.max_steps=7", *going_on(f"{RUN}/1")],
    ),
    "link": ([f"resume={RUN}/latest"], ["seed=2", *going_on(f"{RUN}/4")]),
    "last one given": ([f"resume={RUN}/1", f"resume={RUN}/3"], ["seed=2", *going_on(f"{RUN}/3")]),
    "auto, newest of its kind": (
        ["resume=auto", "model='gpt2-nano'", "seed=1"],
        ["model=gpt2-nano", "seed=1", *going_on(f"{RUN}/2")],
    ),
    "auto, unfinished": (["resume=auto", "seed=2"], ["seed=2", *going_on(f"{RUN}/3")]),
    "auto, with changed data": (
        ["resume=auto", "seed=2", "data.on_change=retokenize"],
        ["seed=2", "data.on_change=retokenize", *going_on(f"{RUN}/3")],
    ),
    "auto, none such": (["resume=auto", "seed=3"], ["seed=3", "resume=auto"]),
    "auto, flags and hydra's keys": (
        ["--config-dir=x", "resume=auto", "seed=2", "hydra.verbose=true"],
        ["--config-dir=x", "seed=2", "hydra.verbose=True", *going_on(f"{RUN}/3")],
    ),
    "auto, folder given": (
        ["resume=auto", "seed=5", f"hydra.run.dir={RUN}/1"],
        ["seed=5", *going_on(f"{RUN}/1")],
    ),
    "auto, new folder given": (
        ["resume=auto", "seed=5", "hydra.run.dir=new"],
        ["seed=5", "hydra.run.dir=new", "resume=auto"],
    ),
    "auto, with keys that change nothing": (
        ["resume=auto", "seed=2", "skip_if_trained=true", "logger='csv'", "+logger.csv=false"],
        ["seed=2", "skip_if_trained=true", "logger=csv", "logger.csv=False", *going_on(f"{RUN}/3")],
    ),
    "auto, keys that begin so": (
        ["resume=auto", "seed=2", "loggers=csv"],
        ["seed=2", "loggers=csv", "resume=auto"],
    ),
    "auto, two steps of it": (
        ["resume=auto", "seed=2", "debug='true'"],
        ["seed=2", "debug='true'", "resume=auto"],
    ),
    "auto, other root": (
        ["resume=auto", "seed=2", "output_root=elsewhere"],
        ["seed=2", "output_root=elsewhere", "resume=auto"],
    ),
}


@pytest.mark.parametrize(("given", "expected"), TABLE.values(), ids=TABLE)
def test_the_command_line_is_rewritten(given: list[str], expected: list[str]) -> None:
    assert plain(apply(given)) == plain(expected)


@pytest.mark.parametrize("wanted", ["auto", f"{RUN}/3", f"{RUN}/3/checkpoints/last.ckpt"])
def test_the_last_checkpoint_may_be_gone_if_there_is_one_before_it(wanted: str) -> None:
    checkpoints = Path(RUN, "3", "checkpoints")
    (checkpoints / "last.ckpt").rename(checkpoints / "previous.ckpt")
    assert plain(apply([f"resume={wanted}", "seed=2"])) == plain(["seed=2", *going_on(f"{RUN}/3")])


def test_a_run_that_goes_on_finds_the_options_that_were_its_own() -> None:
    sources = [("main", "/conf"), ("command-line", "/my conf"), ("schema", "")]
    found = {"config_sources": [{"provider": name, "path": path} for name, path in sources]}
    stored = OmegaConf.create({"hydra": {"runtime": found}})
    OmegaConf.save(stored, Path(RUN, "3", "config", "hydra.yaml"))
    flags = [arg for arg in apply([f"resume={RUN}/3"]) if arg.startswith("-")]
    assert flags == ["--config-dir=/my conf"]
    other = ["--config-dir=other", f"resume={RUN}/3"]
    assert [arg for arg in apply(other) if arg.startswith("-")] == ["--config-dir=other"]


def test_a_run_that_goes_on_was_with_a_logger_of_its_own() -> None:
    make_run(Path(RUN, "5"), ["seed=5", "logger='csv'", "logger.tensorboard=true", "debug='false'"])
    given = ["resume=auto", "debug='false'", "seed=5"]
    assert plain(apply(given)) == plain(["debug='false'", "seed=5", *going_on(f"{RUN}/5")])


@pytest.mark.parametrize("key", ["resume", "+resume"])
@pytest.mark.parametrize("task", ["instruction", "classification"])
def test_a_run_that_goes_on_with_another_file_stays_what_it_is(task: str, key: str) -> None:
    run = make_run(Path(RUN, "5"), [f"task={task}", "data.path=old.json"])
    given = [f"{key}={run}", "data.path=new.json"]
    expected = [f"task={task}", "data.path=new.json", *going_on(f"{RUN}/5")]
    assert plain(rewrite(given)) == plain(expected)


def test_a_run_that_goes_on_keeps_its_data_and_its_model() -> None:
    make_run(Path(RUN, "5"), ["data='shakespeare'"])
    make_run(Path(RUN, "6"), ["data='spam-sample'", "model=gpt2-small"])
    assert "data=text" not in rewrite([f"resume={RUN}/5", "data.path=new.txt"])
    assert "model=gpt2-nano" not in rewrite([f"resume={RUN}/6", "data='spam-sample'"])
    for nothing in ("resume=", "resume=null", "resume=auto"):
        assert "data=text" in rewrite([nothing, "data.path=new.txt"])


def test_a_run_in_the_home_folder_may_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert plain(apply([f"resume=~/{RUN}/3"])) == plain(["seed=2", *going_on(f"{RUN}/3")])


@pytest.mark.parametrize("folder", ["nowhere", "nowhere/checkpoints/last.ckpt", ".", "loose.ckpt"])
def test_what_is_no_run_is_refused(folder: str) -> None:
    Path("loose.ckpt").touch()
    with pytest.raises(UserError, match=rf"resume={folder}: .*give a run folder"):
        apply([f"resume={folder}"])


def test_what_a_run_lacks_is_named() -> None:
    Path("loose.ckpt").touch()
    with pytest.raises(UserError, match=r"the file is in no run folder's checkpoints"):
        apply(["resume=loose.ckpt"])
    Path(RUN, "3", "config", "overrides.yaml").unlink()  # else it would go on as another run
    with pytest.raises(UserError, match=r"3/config/overrides\.yaml is missing"):
        apply([f"resume={RUN}/3"])


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "it's ${here}, [1]", ["seed=2"])
    _, run_dir, resume = apply([f"resume={folder}"])
    for arg, value in ((run_dir, folder), (resume, folder / "checkpoints" / "last.ckpt")):
        parsed = OverridesParser.create().parse_override(arg).value()
        assert OmegaConf.create({"x": getattr(parsed, "text", parsed)}).x == str(value)
    for quoted in ([resume], ["seed=2", run_dir, "resume=auto"]):
        assert apply(quoted) == ["seed=2", run_dir, resume]


def test_a_resumed_run_can_be_resumed_again() -> None:
    once = apply([f"resume={RUN}/3"])
    stored = [arg for arg in once if not arg.startswith("hydra.")]
    OmegaConf.save(OmegaConf.create(stored), f"{RUN}/3/config/overrides.yaml")
    assert apply([f"resume={RUN}/3"]) == once
    assert apply(["resume=auto", "seed=2"])[0] == "seed=2"
    assert plain(apply(["resume=auto", "seed=2"])) == plain(once)
