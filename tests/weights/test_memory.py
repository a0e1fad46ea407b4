"""Loading holds one model, not two."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gptlit.model import GPTConfig, GPTModel
from gptlit.weights.names import LAYOUTS, rows
from tests.weights.published import write_sparse_safetensors

MEASURE = """
import sys
from pathlib import Path
import torch
from gptlit.inference.api import LanguageModel
from gptlit.inference.checkpoint import load_trained
from gptlit.model import GPTConfig, GPTModel
from gptlit.weights.load import load_weights

def status(name):
    [line] = [line for line in open("/proc/self/status") if line.startswith(name + ":")]
    return int(line.split()[1]) * 1024

how, path = sys.argv[1], Path(sys.argv[2])
import safetensors.torch
torch.ones(2, 2) @ torch.ones(2, 2)
Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
before = status("VmRSS")
if how == "train":
    model = GPTModel(GPTConfig())
    load_weights(model, path)
else:
    model = load_trained(path).model
own = sum(p.nbytes for p in model.parameters())
print((status("VmHWM") - before) / own)
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of GPT-2 small's shape, by Hugging Face's names."""
    cfg = GPTConfig()
    layout = next(layout for layout in LAYOUTS if layout.column == "huggingface")
    with torch.device("meta"):
        ours = GPTModel(cfg).state_dict()
    shapes = {}
    for row, block in rows(cfg.n_layers):
        shape = tuple(ours[row.ours.replace("{i}", str(block))].shape)
        [name] = layout.names(row, block)
        shapes[name] = shape[::-1] if row.linear else shape
    shapes["wte.weight"] = (cfg.vocab_size, cfg.emb_dim)
    path = tmp_path_factory.mktemp("memory") / "small.safetensors"
    return write_sparse_safetensors(path, shapes)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["generate", "train"])
def test_the_peak_is_below_one_and_a_third_models(small: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, how, str(small)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 0.99 < float(done.stdout) <= 1.3
