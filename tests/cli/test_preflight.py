"""What is found missing before anything heavy is imported."""

from typing import Any

import pytest

from gptlit.cli.preflight import check_start
from gptlit.errors import UserError


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_told_first_of_all(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlit.cli.preflight.find_spec", lambda _: None)
    logger: dict[str, Any] = {"wandb": None, "mlflow": None, name: {}}
    with pytest.raises(UserError, match=rf"^logger={name} is not installed: pip install 'gptlit\["):
        check_start({"logger": logger})
