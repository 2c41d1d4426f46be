"""The commands of docs/using-a-detector.md do what the text around them says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision

from tests.conftest import REPOSITORY, write_images
from tests.helpers.attempts import Server
from tests.helpers.cli import CLI

onnx = pytest.importorskip("onnx")

PAGE = (REPOSITORY / "docs" / "using-a-detector.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)


def test_from_a_folder_of_images_to_a_flagged_one(run: CLI, server: Server) -> None:
    pytest.importorskip("onnxruntime")
    for split, seed in (("train", 1), ("test", 2)):
        write_images(Path("photos") / split, {"a": 24, "b": 24, "c": 24}, seed=seed)
    write_images(Path("others"), {".": 20}, seed=7)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), "network.pt")
    texts = []
    for kind, text in BLOCKS:
        if "def make" in text:
            Path("my_network.py").write_text(text, encoding="utf-8")
        elif kind == "python":
            script = Path("script.py")
            script.write_text(text, encoding="utf-8")
            texts.append(server.prints(script))
        else:
            for line in text.strip().splitlines():
                ran = run(*shlex.split(line)[1:])
                assert ran.status == 0, f"{line}: {ran.both}"
    assert len(BLOCKS) == 9
    rows = pd.read_csv("rows.csv")
    assert len(rows) == 20
    looked, exported = texts
    assert "of the others are flagged" in looked
    first = rows.sort_values("path").iloc[0]
    score, flagged = exported.strip().removeprefix("score ").split(", flagged: ")
    assert float(score) == pytest.approx(first["score"], abs=1e-4)
    assert flagged == str(bool(first["flagged"]))
    for made in ("scores.png", "monitor.state", "fitted.onnx", "fitted/detector.json"):
        assert Path(made).stat().st_size > 0
    properties = onnx.load("fitted.onnx").metadata_props
    about = {one.key: json.loads(one.value) for one in properties}
    assert about["oodbench_preprocess"]["pre_size"] == 72
    assert about["oodbench_classes"] == ["a", "b", "c"]


def test_its_pictures_are_there() -> None:
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", PAGE):
        assert (REPOSITORY / "docs" / picture).read_bytes().startswith(b"\x89PNG")
    assert "(docs/using-a-detector.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
