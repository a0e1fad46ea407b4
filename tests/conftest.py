"""For all tests."""

import signal

import pytest
from hypothesis import settings

# A shell starts background jobs with Ctrl-C ignored, and so would be all commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: of two processes, the one that is left with the last of them
    would work alone for minutes."""
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
