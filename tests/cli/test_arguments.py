"""Flags wherever they are typed, and what is told of arguments that cannot be read."""

import pytest

from gptlit.cli.arguments import printable, read
from gptlit.errors import UserError


@pytest.mark.parametrize(
    ("typed", "for_hydra"),
    [
        ("seed=1 -m", "--multirun seed=1"),
        ("-m seed=1,2 -m", "--multirun seed=1,2"),
        ("seed=1 --cfg job", "--cfg=job seed=1"),
        ("-c=hydra --resolve", "--cfg=hydra --resolve"),
        ("--help --resolve", "--help --resolve"),
        ("--info seed=1", "--info=all seed=1"),
        ("--info=defaults", "--info=defaults"),
        ("-cd mine seed=1", "--config-dir=mine seed=1"),
        ("-h -h", "--help"),
        ("hydra.mode=MULTIRUN seed=1,2", "hydra.mode=MULTIRUN seed=1,2"),
        ("launcher=local seed=1,2", "launcher='local' seed=1,2"),
        ("hparams_search=optuna seed=1,2", "hparams_search='optuna' seed=1,2"),
        ("seed=[1,2] ~data +x=1 ++x=1", "seed=[1,2] ~data +x=1 ++x=1"),
    ],
)
def test_flags_go_first_by_their_long_names(typed: str, for_hydra: str) -> None:
    assert " ".join(read(typed.split())) == for_hydra


MANY = ": to run all of them give -m too"
REFUSED = {
    "--cfg": "--cfg: give job, hydra, all after --cfg",
    "--cfg jobs": "--cfg jobs: give job, hydra, all after --cfg",
    "-cd": "--config-dir: give a value after --config-dir",
    "--info=x": "--info x: give all, config, defaults, defaults-tree, plugins, searchpath after"
    " --info",
    "--help --version": "--help --version: only one of these can be given",
    "-m --cfg job": "--multirun --cfg=job: only one of these can be given",
    "--resolve": "--resolve goes with --cfg job",
    "--resolve --info": "--resolve goes with --cfg job",
    "--hepl": "unknown flag --hepl: did you mean --help?",
    "--help=x": "unknown flag --help=x: did you mean --help?",
    "-z": "unknown flag -z: known are --help, --multirun (-m) and --cfg job",
    "--seed=1": "unknown flag --seed=1: keys are set without dashes, seed=...",
    "--seed": "unknown flag --seed: known are --help, --multirun (-m) and --cfg job",
    "sead": "'sead' has no '=': did you mean seed=...?",
    "x": "'x' has no '=': settings are key=value, and a value with spaces is put in quotes",
    "sead!=1": "unknown key 'sead!': did you mean 'seed'?",
    "!=1": "unknown key '!'; it stands in '!=1'",
    "+++seed=1": "unknown key '+seed': did you mean 'seed'?",
    "seed=1,2": f"seed=1,2 is more than one value{MANY}; a list is seed=[1,2], a text"
    " 'seed=\"...\"'",
    "seed=range(1,3)": f"seed=range(1,3) is more than one value{MANY}",
    "model=a,b": f"model=a,b is more than one value{MANY}",
    "model={a:1}": "model={a:1}: give the name of an option",
    "+model=[a": "cannot read +model=[a: close quotes and brackets, and quote a value with special"
    " characters: '+model=\"...\"'",
    "output_root=''": "output_root is empty: give a value (a folder)",
    "seed=\udce9": "seed=\udce9 is not valid UTF-8 text",
    f"{'x' * 80}": f"'{'x' * 80}' has no '=': settings are key=value, and",
    f"{'x' * 81}": f"'{'x' * 80}...' has no '=': settings are key=value, and",
}


@pytest.mark.parametrize(("typed", "line"), REFUSED.items(), ids=map(ascii, REFUSED))
def test_what_cannot_be_read_is_told_with_its_cure(typed: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        read(typed.split(), known=lambda: ["seed", "model"])
    told = str(refused.value)
    assert told.startswith(line) if line.endswith("and") else told == line


def test_a_line_is_one_line_whatever_the_user_typed() -> None:
    assert printable("a\nb\x1b é") == r"a\nb\x1b é"
    assert printable(f"a {'b' * 999} c") == f"a {'b' * 999} c"
    assert printable(f"a {'b' * 1000} c") == f"a {'b' * 80}... c"
