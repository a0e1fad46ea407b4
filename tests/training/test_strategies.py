"""What a process says that has lost another one."""

import pytest
from torch.distributed import DistError

from gptlit.errors import UserError
from gptlit.training.strategies import others_may_end

GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    " [127.0.0.1]:6056. This may indicate a remote rank crashed\nException raised from: ..."
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(GLOO), "(Connection closed by peer [127.0.0.1]:6056)"),
        (DistError("The client socket has timed out. More\nlines"), "(The client socket has timed"),
    ],
)
def test_the_loss_of_another_process_is_one_line(error: Exception, reason: str) -> None:
    with pytest.raises(UserError) as raised, others_may_end():
        raise error
    line = str(raised.value)
    assert line.startswith("another process of this run has ended") and reason in line
    assert "resume=auto" in line and "\n" not in line and "/pytorch" not in line


def test_a_fault_of_its_own_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^my own fault$"), others_may_end():
        raise RuntimeError("my own fault")
