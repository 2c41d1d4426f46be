"""The matrix file: its cells, their keys, and what it cannot say."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench import Hardware
from oodbench.errors import OptionError, UnknownNameError
from oodbench.scale.matrix import HARDWARE, Cell, read_matrix
from oodbench.settings import HardwareSettings

TEXT = """
[matrix]
benchmarks = ["digits"]
detectors = ["msp", "knn"]
methods = ["ce", "palm"]
backbones = ["digits-cnn"]
seeds = [0, 1]

[options]
recipe = "quick"
recipe_options = { epochs = 1 }

[hardware]
accelerator = "cpu"

[[exclude]]
method = "palm"
seed = 1
"""


def written(tmp_path: Path, text: str = TEXT) -> Path:
    path = tmp_path / "matrix.toml"
    path.write_text(text)
    return path


def test_cells_are_the_product_without_what_is_excluded(tmp_path: Path) -> None:
    cells = read_matrix(written(tmp_path)).cells
    assert [(cell.method, cell.seed) for cell in cells] == [("ce", 0), ("ce", 1), ("palm", 0)]
    assert {cell.detectors for cell in cells} == {("msp", "knn")}
    assert cells[0].arguments() == {
        "benchmark": "digits",
        "detectors": ["msp", "knn"],
        "method": "ce",
        "backbone": "digits-cnn",
        "checkpoint": None,
        "seed": 0,
        "recipe": "quick",
        "recipe_options": {"epochs": 1},
    }
    assert cells[1].command() == (
        "oodbench eval --detector msp,knn --benchmark digits --method ce --backbone digits-cnn "
        "--seed 1 --recipe quick --recipe-set epochs=1 --accelerator cpu"
    )


def test_hardware_is_passed_through(tmp_path: Path) -> None:
    own = 'devices = "2"\nnodes = 3\nstrategy = "ddp"\nscoring_device = "cpu"'
    text = TEXT.replace('accelerator = "cpu"', f'accelerator = "cpu"\n{own}')
    cell = read_matrix(written(tmp_path, text)).cells[0]
    hardware = Hardware(**cell.hardware)
    assert (hardware.devices, hardware.nodes, hardware.strategy) == ("2", 3, "ddp")
    assert "--devices 2 --nodes 3 --strategy ddp --scoring-device cpu" in cell.command()
    assert set(HARDWARE) == {*vars(HardwareSettings()), "batch_size"}


def test_a_key_is_of_what_is_asked_and_not_of_where_it_runs(tmp_path: Path) -> None:
    cells = read_matrix(written(tmp_path)).cells
    assert len({cell.key for cell in cells}) == 3
    assert all(Cell.from_json(cell.to_json()) == cell for cell in cells)
    elsewhere = read_matrix(written(tmp_path, TEXT.replace('"cpu"', '"gpu"'))).cells
    assert [cell.key for cell in elsewhere] == [cell.key for cell in cells]
    for change in (
        ('"quick"', '"published"'),
        ('"knn"', '"vim"'),
        ('"cpu"', '"cpu"\nprecision = "64"'),
    ):
        others = read_matrix(written(tmp_path, TEXT.replace(*change))).cells
        assert not {cell.key for cell in others} & {cell.key for cell in cells}, change


def test_a_checkpoint_is_named_with_its_network(tmp_path: Path) -> None:
    text = TEXT.replace('"digits-cnn"', '"digits-cnn@w.safetensors"')
    asked = read_matrix(written(tmp_path, text)).cells[0].arguments()
    assert (asked["backbone"], asked["checkpoint"]) == ("digits-cnn", "w.safetensors")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[matrix]", "[matrx]", r"no entry 'matrx'\. Did you mean 'matrix'"),
        ("detectors", "detector", r"\[matrix\] has no entry 'detector'\. Did you mean"),
        ("recipe =", "recip =", r"\[options\] has no entry 'recip'\. Did you mean 'recipe'"),
        ("accelerator", "accelerators", r"\[hardware\] has no entry"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "different whole numbers"),
        ("seeds = [0, 1]", "seeds = [-1]", "different whole numbers"),
        ('["msp", "knn"]', "[]", "needs detectors"),
        ('["msp", "knn"]', '["msp", "msp"]', "each once"),
        ("seed = 1", "sed = 1", "no entry 'sed'"),
        ("[options]", "[options", "no TOML"),
        ('method = "palm"\nseed = 1', 'backbone = "digits-cnn"', "nothing to run"),
    ],
)
def test_what_it_cannot_say(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_matrix(written(tmp_path, TEXT.replace(old, new, 1)))


def test_names_that_are_not_installed(tmp_path: Path) -> None:
    for old, new in (("knn", "knnn"), ('"digits"', '"digts"'), ("palm", "plam")):
        with pytest.raises(UnknownNameError, match="Did you mean"):
            read_matrix(written(tmp_path, TEXT.replace(old, new)))
    with pytest.raises(OptionError, match="cannot read"):
        read_matrix(tmp_path / "absent.toml")
