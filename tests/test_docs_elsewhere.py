"""docs/elsewhere.md names keys that exist, and its files work as they stand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from commands import ROOT, environment, run

from gptlit.cli.mistakes import config_keys
from gptlit.tokenizer import get_tokenizer

PAGE = (ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:python|yaml) (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_keys_in_the_right_columns_exist() -> None:
    here = [line.split("|")[2] for line in PAGE.splitlines() if line.startswith("| ")]
    code = " ".join(text for cell in here for text in re.findall(r"`([^`]+)`", cell))
    dotted = set(re.findall(r"(?<![+\w./])[a-z_]+(?:\.[a-z_]+)+(?![\w./(])", code))
    files = {key for key in dotted if re.search(r"\.(py|csv|json|yaml|txt|ckpt)$", key)}
    ours = {key for key in dotted - files if not key.startswith("hydra.")}
    assert len(ours) > 30
    assert ours <= set(config_keys("train"))


def test_the_experiment_is_one(tmp_path: Path) -> None:
    file = tmp_path / "my_conf" / "experiment" / "long.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(FILES["my_conf/experiment/long.yaml"])
    done = run("train", "--config-dir=my_conf", "experiment=long", "--cfg=job", cwd=tmp_path)
    assert "max_steps: 2000" in done.stdout and "tensorboard: false" in done.stdout
    assert "emb_dim: 768" in done.stdout and "experiment:" not in done.stdout


def test_documents_come_back_from_ids(tmp_path: Path) -> None:
    tokenizer = get_tokenizer("gpt2")
    documents = ["Two\nlines.", "Grüße", "no end"]
    ids = [i for text in documents for i in [*tokenizer.encode(text), tokenizer.eot_id]][:-1]
    for split in ("train", "val"):
        np.array(ids, np.uint16).tofile(tmp_path / f"{split}.bin")
    (tmp_path / "from_bin.py").write_text(FILES["from_bin.py"])
    args = [sys.executable, "from_bin.py"]
    subprocess.run(args, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), check=True)
    lines = (tmp_path / "val.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == documents
