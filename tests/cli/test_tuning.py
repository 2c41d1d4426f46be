"""The command tune: the table it prints, the command to go on with, and its errors."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

import oodbench
from oodbench import Outputs, cli
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results.store import ResultStore
from tests.conftest import SHARED, write_images
from tests.helpers.cli import CLI
from tests.helpers.tuning import TOY, Brightness


def test_the_command_prints_a_table_and_the_command_to_go_on_with(run: CLI, digits: list) -> None:
    ran = run("tune", "--detector", "knn,msp", *digits)
    assert ran.status == 0, ran.both
    assert ran.err == ""
    for k in (1, 5, 10, 20, 50, 100, 200, 500):
        assert f"k={k} " in ran.out
    refused = [line for line in ran.out.splitlines() if "refused" in line]
    assert any("k=1000" in line for line in refused)
    (chosen,) = [line for line in ran.out.splitlines() if " * " in line]
    assert "not tuned: msp" in ran.out
    assert not Path("leaderboards").exists(), "nothing was tested"
    (command,) = [line for line in ran.out.splitlines() if line.startswith("evaluate: ")]
    program, *arguments = shlex.split(command.removeprefix("evaluate: "))
    assert program == "oodbench"
    assert arguments[:3] == ["eval", "--detector", "knn,msp"]
    assert arguments[-1].removeprefix("knn.") in chosen
    after = run(*arguments, "--json", "--ood", "photo-patches")
    assert after.status == 0, after.both
    options = {r["detector"]: r["detector_options"] for r in json.loads(after.out)["rows"]}
    assert f"k={options['knn']['k']}" == arguments[-1].removeprefix("knn.")
    assert f"{' '.join(map(str, ['eval', '--detector', 'knn,msp', *digits]))} --tune" in ran.out


def test_the_commands_json_is_json_alone(run: CLI, digits: list) -> None:
    ran = run("tune", "--detector", "knn", "--json", *digits)
    assert ran.status == 0, ran.both
    assert ran.err == ""
    told = json.loads(ran.out)
    assert told["benchmark"] == "digits"
    assert told["validation"]["id"] == "digits/val"
    assert told["validation"]["ood"] == {"digits-synthetic": 163}
    (choice,) = told["choices"]
    (best,) = [trial for trial in choice["trials"] if trial["chosen"]]
    assert best["auroc"] == max(t["auroc"] for t in choice["trials"] if t["auroc"] is not None)
    assert told["command"].endswith(f"--set knn.k={best['values']['k']}")
    assert "--json" not in told["command"]


def test_eval_tune_is_tune_and_eval(run: CLI, digits: list) -> None:
    chosen = json.loads(run("tune", "--detector", "knn", "--json", *digits).out)["choices"][0]
    ran = run("eval", "--tune", "--detector", "knn,msp", "--json", *digits)
    assert ran.status == 0, ran.both
    rows = {row["detector"]: row for row in json.loads(ran.out)["rows"]}
    assert rows["knn"]["detector_options"] == chosen["detector_options"]
    assert rows["knn"]["tuned"]["auroc"] == chosen["auroc"]
    assert rows["knn"]["tuned"]["ood"] == ["digits-synthetic"]
    assert rows["msp"]["tuned"] is None
    assert "--tune" in rows["knn"]["command"]
    page = Path("leaderboards/digits.md").read_text(encoding="utf-8")
    assert "| knn † ‡ |" in page  # ‡: the network is untrained, which rows and page say
    assert "| msp ‡ |" in page
    stored = ResultStore("leaderboards").rows("digits")
    assert len(stored) == 8
    # the same again adds nothing
    assert run("eval", "--tune", "--detector", "knn,msp", *digits).status == 0
    assert ResultStore("leaderboards").rows("digits") == stored
    assert Path("leaderboards/digits.md").read_text(encoding="utf-8") == page


def test_what_set_says_is_not_searched(run: CLI, digits: list) -> None:
    """Even where it says what is the default anyway."""
    for words_ in (["--set", "knn.k=50"], ["--set", "k=50"]):
        ran = run("eval", "--tune", "--detector", "knn", "--json", *words_, *digits)
        assert ran.status == 0, ran.both
        for row in json.loads(ran.out)["rows"]:
            assert row["detector_options"]["k"] == 50
            assert row["tuned"] is None


def test_a_trained_network_end_to_end(run: CLI) -> None:
    quick = ["--id", "digits", "--recipe", "quick", "--epochs", "2"]
    ran = run("tune", "--detector", "knn", *quick)
    assert ran.status == 0, ran.both
    assert ran.err == ""
    assert "training: ce, recipe quick" in ran.out
    again = run("eval", "--tune", "--detector", "knn", *quick)
    assert again.status == 0, again.both
    assert "trained already" in again.out
    assert "training: " not in again.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tune"], "--detector"),
        (["tune", "--detector", "knn"], "--id"),
        (["tune", "--detector", "no-such", "--id", "digits"], "no-such"),
        (["tune", "--detector", "knn", "--set", "kk=3", "--id", "digits"], "kk"),
        (["tune", "--detector", "knn", "--id", "cifar10"], "Get it:"),
        (["tune", "--detector", "knn", "--id", "digits", "--checkpoint", "x.pt"], "--backbone"),
        (["tune", "--detector", "knn", "--id", "digits", "--ood", "mnist"], "--ood"),
        (["tune", "--detector", "knn", "--id", "digits", "--epochs", "0"], "--epochs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_errors(run: CLI, words: list[str], told: str) -> None:
    assert told in run.refuses(*words)


def test_nothing_to_tune_is_an_error(run: CLI, digits: list) -> None:
    assert "msp (it has no grid)" in run.refuses("tune", "--detector", "msp", *digits)
    message = run.refuses("tune", "--detector", "knn", "--set", "k=5", *digits)
    assert "knn (all of its grid is set)" in message


def test_a_folder_without_val_is_an_error(run: CLI, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "birds" / split, {"jay": 9, "owl": 9})
    bird = ["--id", f"folder:{tmp_path}/birds", "--detector", "knn", "--recipe", "quick"]
    for command in (["tune"], ["eval", "--tune", "--ood", f"folder:{tmp_path}/birds/train/owl"]):
        message = run.refuses(*command, *bird)
        assert str(tmp_path / "birds" / "val") in message
        assert "Make it" in message


def test_a_benchmark_of_ones_own_without_validation_data(run: CLI) -> None:
    oodbench.register_benchmark("toy-bare")(dataclasses.replace(TOY, validation=()))
    try:
        message = run.refuses("tune", "--detector", "knn", "--benchmark", "toy-bare")
        assert "validation=" in message
    finally:
        BENCHMARKS.unregister("toy-bare")


def test_a_failing_detector_is_named_and_the_others_are_tuned(run: CLI, digits: list) -> None:
    @dataclass
    class Broken(Brightness):
        def score(self, outputs: Outputs) -> Tensor:
            raise ZeroDivisionError("broken")

    oodbench.register_detector("broken")(Broken)
    try:
        ran = run("tune", "--detector", "broken,knn", *digits)
        assert ran.status == cli.SOME_FAILED
        assert "failed: broken: ZeroDivisionError" in ran.err
        assert "tuned: knn" in ran.out
    finally:
        DETECTORS.unregister("broken")


def test_the_published_network_on_real_images(
    run: CLI, shared_data: Path, real_outputs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = SHARED / "models" / "cifar10_resnet20.safetensors"
    monkeypatch.setenv("OODBENCH_DATA", str(shared_data))
    network = ["--backbone", "resnet20", "--checkpoint", checkpoint]
    network += ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    ran = run("tune", "--detector", "knn", "--id", "cifar10", "--json", *network)
    assert ran.status == 0, ran.both
    told = json.loads(ran.out)
    assert told["validation"]["n_id"] == 500
    assert told["validation"]["ood"] == {"cifar10-synthetic": 500}
    by_k = {t["values"]["k"]: t["auroc"] for t in told["choices"][0]["trials"]}
    assert by_k[10] == pytest.approx(0.9027, abs=0.003)
    assert by_k[1000] < 0.5, "more neighbours than a class has images"
    assert told["choices"][0]["detector_options"]["k"] in (5, 10, 20)
