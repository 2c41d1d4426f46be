"""Bad input: a message of one or two lines that names the culprit, and nothing changed on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import oodbench
from oodbench import files
from oodbench.errors import CheckpointError, DataError, OODBenchError, StorageError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.results.store import ResultStore
from tests.conftest import write_images
from tests.helpers.cli import CLI, listing
from tests.helpers.insects import Words, replaced


def test_the_good_input_is_good(run: CLI, words: Words) -> None:
    ran = run("eval", "--detector", "msp", *words)
    assert ran.status == 0, ran.both
    assert "warning" not in ran.out
    assert len(ResultStore("leaderboards").rows(words[1])) == 2  # type: ignore[arg-type]


# Names


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--detector", "enregy"], ["'enregy'", "'energy'", "oodbench list detectors"]),
        (["--detector", "msp,zzzz"], ["'zzzz'", "oodbench list detectors"]),
        (["--id", "digist"], ["'digist'", "'digits'", "oodbench list benchmarks"]),
        (["--benchmark", "cifar100/plam"], ["'cifar100/plam'", "'cifar100/palm'"]),
        (["--benchmark", "cifar100"], ["'cifar100'", "'digits'"]),
        (["--ood", "digits-6-8"], ["'digits-6-8'", "'digits-6-9'", "folder:PATH"]),
        (["--ood", "mnits"], ["'mnits'", "'mnist'"]),
        (["--ood", "photo-patches,photo-patches"], ["photo-patches", "twice"]),
        (["--ood", "middle=photo-patches"], ["near", "far", "'middle'"]),
        (["--ood", ","], ["--ood"]),
        (["--backbone", "resnet2"], ["'resnet2'", "'resnet20'"]),
        (["--checkpoint", "nowhere.safetensors"], ["nowhere.safetensors"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_unknown_names(run: CLI, digits: Words, change: list[str], told: list[str]) -> None:
    message = run.refuses("eval", "--detector", "msp", *digits, *change)
    for part in told:
        assert part in message


def test_no_detector_at_all(run: CLI, digits: Words) -> None:
    assert "detector" in run.refuses("eval", "--detector", ",", *digits)


@pytest.mark.parametrize("command", ["eval --detector msp", "train --method ce"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--method", "plam"], ["'plam'", "'palm'", "oodbench list methods"]),
        (["--recipe", "quik"], ["'quik'", "quick", "ce"]),
        (["--backbone", "digit-cnn"], ["'digit-cnn'", "'digits-cnn'"]),
        (["--id", "digist"], ["'digist'", "'digits'"]),
        (["--recipe-set", "weight_deca=1"], ["'weight_deca'", "'weight_decay'"]),
        (["--recipe-set", "weight_decay"], ["NAME=VALUE"]),
        (["--recipe-set", "weight_decay=big"], ["weight_decay", "'big'", "float"]),
        (["--recipe-set", "schedule=linear"], ["schedule", "'linear'", "'cosine'"]),
        (["--recipe-set", "epochs=0"], ["epochs", "0"]),
        (["--recipe-set", "momentum=-3"], ["momentum", "-3"]),
        (["--recipe-set", "weight_decay=nan"], ["weight_decay", "nan"]),
        (["--lr=-1"], ["lr", "-1"]),
        (["--lr", "nan"], ["lr", "nan"]),
        (["--seed", "one"], ["--seed", "one"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--seed", "1,1"], ["--seed", "1,1"]),
        (["--accelerator", "abacus"], ["--accelerator", "abacus"]),
        (["--devices", "some"], ["--devices", "some"]),
        (["--devices", "0"], ["--devices", "0"]),
        (["--strategy", "luck"], ["--strategy", "luck"]),
        (["--precision", "7-bit"], ["--precision", "7-bit"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_wrong_training_options(run: CLI, command: str, change: list[str], told: list[str]) -> None:
    message = run.refuses(*command.split(), "--id", "digits", "--accelerator", "cpu", *change)
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--set", "kk=3"], ["knn", "'kk'", "'k'"]),
        (["--set", "k=many"], ["knn", "'k'", "'many'", "int"]),
        (["--set", "k=0"], ["knn", "0"]),
        (["--set", "k=2.5"], ["'k'", "'2.5'", "int"]),
        (["--set", "knn.normalize=perhaps"], ["'normalize'", "'perhaps'", "bool"]),
        (["--set", "vim.k=3"], ["'vim'", "knn"]),
        (["--set", "k"], ["NAME=VALUE"]),
        (["--set", "=3"], ["NAME=VALUE"]),
        (["--mean", "grey"], ["--mean", "grey"]),
        (["--mean", "125"], ["--mean", "125", "[0, 1]"]),
        (["--mean", "0.5,0.5,0.5"], ["mean", "3", "1"]),
        (["--std", "0"], ["std", "positive"]),
        (["--std", "nan"], ["--std", "nan"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_wrong_scoring_options(run: CLI, digits: Words, change: list[str], told: list[str]) -> None:
    message = run.refuses("eval", "--detector", "knn", *digits, *change)
    for part in told:
        assert part in message


def test_a_recipe_that_only_one_of_the_methods_has(run: CLI) -> None:
    """Refused before the first network is trained, not after it."""
    message = run.refuses(
        "eval", "--detector", "palm,msp", "--id", "digits", "--recipe", "published",
        "--epochs", "1", "--backbone", "digits-cnn",
    )  # fmt: skip
    assert "'published'" in message
    assert "ce" in message
    assert not list(files.cache_dir().glob("runs/*"))


def test_a_checkpoint_without_its_network(run: CLI, digits_checkpoint: Path) -> None:
    message = run.refuses("eval", "--detector", "msp", "--id", "digits", "--checkpoint",
                          digits_checkpoint)  # fmt: skip
    assert "--backbone" in message


# Data


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("command", ["eval --detector msp", "train --method ce"])
def test_a_data_root_without_the_set(run: CLI, name: str, command: str) -> None:
    files.data_dir().mkdir(parents=True)
    message = run.refuses(*command.split(), "--id", name)
    assert f"`oodbench data prepare {name}" in message
    assert "--download" in message
    assert "OODBENCH_DATA" in message
    message = run.refuses(*command.split(), "--id", name, "--no-download")
    assert str(files.data_dir()) in message
    assert f"{name}/t" in message, "the folder that was looked for"
    assert f"torchvision.datasets.{name.upper()}" in message, "how to get it"
    assert "OODBENCH_DATA" in message


def test_all_ood_sets_missing(run: CLI, digits: Words) -> None:
    message = run.refuses("eval", "--detector", "msp", *digits, "--ood", "mnist,svhn")
    for part in (str(files.data_dir()), "Get them: `oodbench data prepare mnist svhn`"):
        assert part in message
    message = run.refuses(
        "eval", "--detector", "msp", *digits, "--ood", "mnist,svhn", "--no-download"
    )
    for part in ("mnist", "svhn", str(files.data_dir()), "Get it"):
        assert part in message


def test_one_ood_set_missing_is_told_and_left_out(run: CLI, digits: Words, words: Words) -> None:
    scenes = str(words[words.index("--ood") + 1])
    for chosen, mean in (
        ([*digits, "--ood", "mnist,far=digits-6-9"], "far(digits-6-9)"),
        # nor is a group whole because the benchmark defines none
        (replaced(words, "--ood", f"mnist,{scenes}"), f"far({scenes})"),
    ):
        ran = run("eval", "--detector", "msp", *chosen, "--no-download")
        assert ran.status == 0, ran.both
        assert "missing: mnist" in ran.out
        assert str(files.data_dir()) in ran.out
        assert mean in ran.out


def test_folder_without_ood_sets(run: CLI, words: Words) -> None:
    at = words.index("--ood")
    message = run.refuses("eval", "--detector", "msp", *words[:at], *words[at + 2 :])
    assert "--ood" in message


@pytest.mark.parametrize("option", ["--id", "--ood"])
def test_a_folder_that_is_not_there(run: CLI, words: Words, option: str) -> None:
    message = run.refuses("eval", "--detector", "msp", *replaced(words, option, "folder:./none"))
    assert str(Path("none").absolute()) in message


@pytest.mark.parametrize("part", ["insects/train", "insects/test", "scenes"])
def test_an_empty_class_folder(run: CLI, words: Words, insects: Path, part: str) -> None:
    (insects.parent / part / "empty").mkdir()
    # kNN looks at the training images too
    message = run.refuses("eval", "--detector", "knn", "--set", "k=1", *words)
    assert str(insects.parent / part / "empty") in message
    assert "no images" in message


@pytest.mark.parametrize("part", ["insects/train/ant", "insects/test/ant", "scenes"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_image(run: CLI, words: Words, insects: Path, part: str, damage: str) -> None:
    path = insects.parent / part / "1.png"
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[:500], "text": b"<html>404</html>", "empty": b""}[damage]
    )
    message = run.refuses("eval", "--detector", "knn", "--set", "k=1", *words)
    assert str(path) in message
    assert "damaged" in message
    path.write_bytes(content)
    assert run("eval", "--detector", "knn", "--set", "k=1", *words).status == 0


def test_a_damaged_image_in_training(run: CLI, insects: Path) -> None:
    path = insects / "train" / "bee" / "2.png"
    content = path.read_bytes()
    path.write_bytes(content[:500])
    learn = ["train", "--method", "ce", "--id", f"folder:{insects}", "--recipe", "quick",
             "--epochs", "1", "--backbone", "resnet20", "--accelerator", "cpu"]  # fmt: skip
    message = run.refuses(*learn)
    assert str(path) in message
    path.write_bytes(content)
    assert run(*learn).status == 0


@pytest.mark.parametrize("command", ["eval --detector msp", "train --method ce"])
def test_one_class_id(run: CLI, tmp_path: Path, command: str) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "one" / split, {"only": 3})
    write_images(tmp_path / "scenes", {".": 2})
    more = ["--ood", f"folder:{tmp_path}/scenes"] if command.startswith("eval") else []
    message = run.refuses(*command.split(), "--id", f"folder:{tmp_path}/one", *more)
    assert "one class" in message
    assert "only" in message
    assert "two" in message


def test_other_classes_in_training_than_in_testing(run: CLI, words: Words, insects: Path) -> None:
    (insects / "test" / "bee").rename(insects / "test" / "wasp")
    message = run.refuses("eval", "--detector", "knn", "--set", "k=1", *words)
    assert "different classes" in message
    assert "bee" in message
    assert "wasp" in message


def test_other_classes_are_found_out_before_training(run: CLI, insects: Path) -> None:
    """A detector that learns nothing itself is scored on a network that did."""
    (insects / "test" / "bee").rename(insects / "test" / "wasp")
    message = run.refuses(
        "eval", "--detector", "msp", "--id", f"folder:{insects}", "--ood",
        f"folder:{insects.parent}/scenes", "--recipe", "quick", "--epochs", "1",
    )  # fmt: skip
    assert "different classes" in message


def test_an_id_folder_without_a_test_split(run: CLI, words: Words, insects: Path) -> None:
    (insects / "test").rename(insects / "val")
    message = run.refuses("eval", "--detector", "msp", *words)
    assert str(insects / "test") in message


# An OOD set with the ID test images in it: possible, told, and done


def test_ood_with_id_test_files_warns(run: CLI, words: Words, insects: Path) -> None:
    scenes = insects.parent / "scenes"
    for i in range(2):
        (scenes / f"copy{i}.png").write_bytes((insects / "test/ant" / f"{i}.png").read_bytes())
    ran = run("eval", "--detector", "msp", *words)
    assert ran.status == 0, ran.both
    (warning,) = [line for line in ran.out.splitlines() if line.startswith("warning")]
    assert "2 of the 6 images" in warning
    assert str(scenes) in warning
    told = json.loads(run("eval", "--json", "--detector", "msp", *words).out)
    assert len(told["warnings"]) == 1
    assert "2 of the 6" in told["warnings"][0]
    assert told["rows"], "the run succeeds"
    model = HeadedBackbone(create_backbone("resnet20"), 2)
    results = oodbench.evaluate(
        model,
        id=f"folder:{insects}",
        ood=[f"folder:{scenes}", f"near=folder:{insects}/test"],
        preprocess="benchmark",
    )
    assert len(results.warnings) == 2
    assert any("6 of the 6" in text for text in results.warnings)


def test_ood_of_its_own_benchmark_warns(run: CLI, digits: Words) -> None:
    told = json.loads(run("eval", "--json", "--detector", "msp", *digits, "--ood", "digits").out)
    (overlap,) = [text for text in told["warnings"] if "near chance" not in text]  # untrained
    assert "100 of the 271" in overlap


# Folders that cannot be written to


@pytest.fixture(params=["below a file", "a file", "below /proc"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that nobody can write to, an administrator included."""
    (tmp_path / "file").write_text("x")
    return {
        "below a file": tmp_path / "file" / "folder",
        "a file": tmp_path / "file",
        "below /proc": Path("/proc/oodbench/folder"),
    }[request.param]


@pytest.mark.parametrize(
    "command",
    ["eval --detector msp", "eval --detector msp --epochs 1", "train --method ce --epochs 1"],
)
def test_a_cache_that_cannot_be_written_to(
    run: CLI,
    words: Words,
    insects: Path,
    unwritable: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(unwritable))
    if "--epochs" in command:
        at = words.index("--backbone") if command.startswith("eval") else words.index("--ood")
        words = words[:at]
    message = run.refuses(*command.split(), *words)
    assert str(unwritable) in message
    assert "OODBENCH_CACHE" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="an administrator may write anywhere")
def test_a_read_only_cache(run: CLI, words: Words) -> None:
    files.cache_dir().mkdir(parents=True)
    files.cache_dir().chmod(0o555)
    assert "OODBENCH_CACHE" in run.refuses("eval", "--detector", "msp", *words)


def test_commands_that_write_nothing_need_no_cache(
    run: CLI, unwritable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(unwritable))
    for command in ("list detectors", "info knn", "data status", "leaderboard --id digits"):
        ran = run(*command.split())
        assert ran.status == 0, ran.both


def test_a_leaderboard_that_cannot_be_written_to(run: CLI, words: Words, unwritable: Path) -> None:
    message = run.refuses("eval", "--detector", "msp", *words, "--leaderboards", unwritable)
    assert str(unwritable) in message
    assert "--leaderboards" in message
    assert not list((files.cache_dir() / "outputs").glob("*")), "told before the work, not after"
    message = run.refuses("leaderboard", "--id", "digits", "--leaderboards", unwritable)
    assert str(unwritable) in message


def test_a_store_with_a_damaged_result(run: CLI, digits: Words) -> None:
    assert run("eval", "--detector", "msp", *digits, "--ood", "photo-patches").status == 0
    path = Path("leaderboards/results/digits/msp-0123456789abcdef.json")
    path.write_text("no result\n")
    for command in (["leaderboard", "--id", "digits"], ["eval", "--detector", "energy", *digits]):
        message = run.refuses(*command)
        assert str(path) in message
        assert "is no result" in message


# The same from Python: an error that can be caught, by one base class


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: oodbench.create_detector("nope"), LookupError),
        (lambda: oodbench.create_detector("knn", kk=1), TypeError),
        (lambda: oodbench.create_detector("knn", k="x"), ValueError),
        (lambda: oodbench.get_benchmark("cifar10").id.load("test"), FileNotFoundError),
        (lambda: oodbench.evaluate(id="digits", detectors=[]), ValueError),
        (lambda: oodbench.evaluate(id="digits", checkpoint="x.pt", backbone="digits-cnn"),
         CheckpointError),
        (lambda: oodbench.evaluate(id="folder:/nowhere"), DataError),
        (lambda: ResultStore("/proc/x").append([{"benchmark": "b", "row_id": "1"}]), StorageError),
    ],
)  # fmt: skip
def test_errors_in_python(call: Callable[[], object], kind: type[Exception]) -> None:
    before = listing()
    with pytest.raises(kind) as error:
        call()
    assert isinstance(error.value, OODBenchError)
    assert listing() == before


def test_an_image_of_nothing(tmp_path: Path, run: CLI, words: Words, insects: Path) -> None:
    """One pixel wide, or of another mode: odd, but images all the same."""
    for mode in ("L", "P", "RGBA", "1", "I;16"):
        Image.new(mode, (1, 7)).save(insects.parent / "scenes" / f"{mode.replace(';', '')}.png")
    ran = run("eval", "--detector", "msp", *words)
    assert ran.status == 0, ran.both
    assert "9" in ran.out
