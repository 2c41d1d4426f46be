"""The commands of docs/using-a-detector.md do what the text around them says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from tests.conftest import REPOSITORY, write_images
from tests.helpers.attempts import Server
from tests.helpers.cli import CLI

PAGE = (REPOSITORY / "docs" / "using-a-detector.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)


def test_from_a_folder_of_images_to_a_flagged_one(run: CLI, server: Server) -> None:
    pytest.importorskip("onnxruntime")
    for split, seed in (("train", 1), ("test", 2)):
        write_images(Path("photos") / split, {"a": 24, "b": 24, "c": 24}, seed=seed)
    write_images(Path("others"), {"noise": 20}, seed=7)
    torch.manual_seed(0)
    network = HeadedBackbone(create_backbone("resnet20"), 3)
    about = {"mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25"}
    save_file(network.state_dict(), "network.safetensors", metadata=about)
    for kind, text in BLOCKS:
        if kind == "python":
            script = Path("script.py")
            script.write_text(text)
            assert "of the others are flagged" in server.prints(script)
            continue
        for line in text.strip().splitlines():
            ran = run(*shlex.split(line)[1:])
            assert ran.status == 0, f"{line}: {ran.both}"
    assert len(BLOCKS) == 6
    assert len(pd.read_csv("rows.csv")) == 20
    for made in ("scores.png", "monitor.state", "fitted.onnx", "fitted/detector.json"):
        assert Path(made).stat().st_size > 0
