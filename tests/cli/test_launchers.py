"""What makes a sweep of a command."""

from gptlit.cli.launchers import apply


def test_in_a_sweep_too_the_value_that_is_given_last_wins() -> None:
    args = ["--multirun", "seed=1,2", "model.n_layers=2", "+a=1", "seed=3", "model.n_layers=2,4"]
    assert apply(args) == ["--multirun", "+a=1", "seed=3", "model.n_layers=2,4"]
    assert apply(args[1:]) == args[1:]
