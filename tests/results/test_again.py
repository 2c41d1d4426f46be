"""Results made again from their rows: the same network, or one trained again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import oodbench
from oodbench import Detector, Hardware, ResultStore, files, zoo
from oodbench.cli import SOME_FAILED
from oodbench.errors import OptionError
from oodbench.registry import BENCHMARKS, DETECTORS
from oodbench.results import leaderboard, networks, stored
from oodbench.results.again import Means
from oodbench.results.stored import StoredResult
from oodbench.results.verdict import TOLERANCES, Verdict
from oodbench.results.verify import of_results, record, rescore, verdicts
from tests.helpers.cli import CLI
from tests.helpers.few import few_digits

CPU = Hardware(accelerator="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Boards with two detectors on a network that was trained for them; its cache beside."""
    home = tmp_path_factory.mktemp("trained")
    patch = pytest.MonkeyPatch()
    patch.setitem(BENCHMARKS._objects, "digits", few_digits)
    patch.setenv("OODBENCH_CACHE", str(home / "cache"))
    oodbench.evaluate(
        id="digits",
        detectors=["msp", oodbench.create_detector("knn", k=3)],
        recipe_options={"epochs": 2},
        seed=3,
        fit_on=120,
        hardware=CPU,
        leaderboards=home / "boards",
    )
    yield home
    patch.undo()


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    copy = Path(shutil.copytree(trained, tmp_path / "home"))
    monkeypatch.setenv("OODBENCH_CACHE", str(copy / "cache"))
    return copy


def found(home: Path) -> list[StoredResult]:
    return ResultStore(home / "boards").results("digits")


def by_detector(home: Path, level: str, **means: object) -> dict[str, Verdict]:
    checked = of_results(found(home), level, Means(CPU, **means))  # type: ignore[arg-type]
    return {verdict.path.name.split("-")[0]: verdict for verdict in checked}


@pytest.mark.parametrize("level", ["outputs", "network"])
def test_what_was_made_here_is_identical(level: str, home: Path) -> None:
    runs = sorted((home / "cache" / "runs").iterdir())
    for name, verdict in by_detector(home, level).items():
        assert (verdict.word, verdict.reasons) == ("identical", []), name
        assert verdict.level == level
        assert verdict.checked >= 5 * len(found(home)[0].rows)
    assert sorted((home / "cache" / "runs").iterdir()) == runs, "training again replaced nothing"


def test_without_its_network_outputs_cannot_be_made(home: Path) -> None:
    shutil.rmtree(home / "cache")
    for verdict in by_detector(home, "outputs").values():
        assert verdict.word == "not checked"
        assert "neither in the zoo nor in the cache" in verdict.reasons[0]


def test_a_released_network_stands_in_for_the_cache(home: Path) -> None:
    rows = [row for result in found(home) for row in result.rows]
    (name,) = networks.release(home / "boards", rows, few_digits(), "CC0-1.0")
    assert name.startswith("digits/digits-cnn/ce")
    assert name.endswith("/seed3")
    assert networks.release(home / "boards", rows, few_digits(), "CC0-1.0") == []
    shutil.rmtree(home / "cache")
    checked = verdicts(home / "boards", "outputs", Means(CPU))
    words = {v.path.name: v.word for v in checked if v.path.suffix == ".json"}
    assert set(words.values()) == {"identical"}
    released = zoo.index(home / "boards")[name]
    assert (released.licence, released.seed, released.method) == ("CC0-1.0", 3, "ce")
    assert released.weights == rows[0]["weights"]


def test_other_weights_under_the_name_are_refused(home: Path) -> None:
    rows = [row for result in found(home) for row in result.rows]
    networks.release(home / "boards", rows, few_digits(), "CC0-1.0")
    (path,) = (home / "boards" / "networks").glob("*.safetensors")
    state = load_file(path)
    name = next(iter(state))
    save_file({**state, name: state[name] + 1}, path)
    shutil.rmtree(home / "cache")
    checked = list(verdicts(home / "boards", "outputs", Means(CPU)))
    told = [reason for verdict in checked for reason in verdict.reasons]
    assert sum("is not the file of the network" in reason for reason in told) == 2
    assert any(v.path == path and not v.holds for v in checked)


def changed(home: Path, name: str, change: dict[str, object]) -> None:
    """A result whose rows say something else, with all digests made anew."""
    from oodbench.results.rows import row_id

    (path,) = (home / "boards" / "results" / "digits").glob(f"{name}-*.json")
    result = stored.read(path)
    rows = [{**row, **change} for row in result.rows]
    rows = [{**row, "row_id": row_id(row)} for row in rows]  # type: ignore[typeddict-item]
    path.unlink()
    path.with_suffix(".scores.safetensors").unlink()
    path = path.with_name(f"{stored.name_of(rows)}.json")  # type: ignore[arg-type]
    path.write_text(stored.encode(rows))  # type: ignore[arg-type]


def test_an_option_that_did_not_make_the_figures(home: Path) -> None:
    changed(home, "knn", {"detector_options": {**_options(home), "k": 40}})
    verdict = by_detector(home, "outputs")["knn"]
    assert verdict.word == "different"
    assert verdict.differences
    assert by_detector(home, "outputs")["msp"].word == "identical"


def test_a_row_from_before_an_option_was_there(home: Path) -> None:
    """The option's default is what made it: `core`'s `aligned` came after its first rows."""
    options = {name: value for name, value in _options(home).items() if name != "normalize"}
    changed(home, "knn", {"detector_options": options, "detector_code": "0" * 64})
    assert by_detector(home, "outputs")["knn"].word == "identical"
    (result,) = [one for one in found(home) if one.rows[0]["detector"] == "knn"]
    ((_, new),) = rescore([result], Means(CPU))
    assert isinstance(new, Path), new
    assert _options(home) == {**options, "normalize": True}


def _options(home: Path) -> dict[str, object]:
    (result,) = [one for one in found(home) if one.rows[0]["detector"] == "knn"]
    return result.rows[0]["detector_options"]


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="kernels without AVX are what this processor has",
)
def test_scores_of_another_kind_of_processor_are_within_tolerance(tmp_path: Path) -> None:
    """Kernels without AVX stand in for the other processor, which also trains the network."""

    def run(*words: str, **environment: str) -> str:
        where = {"OODBENCH_CACHE": str(tmp_path / "cache"), **environment}
        command = [sys.executable, "-m", "oodbench.cli", *words, "--accelerator", "cpu"]
        ran = subprocess.run(
            command, env={**os.environ, **where}, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    boards = str(tmp_path / "boards")
    old = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    made = ["eval", "--detector", "msp,energy", "--id", "digits", "--leaderboards", boards]
    run(*made, **old)
    shutil.rmtree(tmp_path / "cache" / "outputs")  # the network stays; images are seen anew
    told = run("verify", f"{boards}/results/digits", "--level", "outputs", "--json")
    checked = {one["path"]: one for one in json.loads(told) if one["level"] == "outputs"}
    assert len(checked) == 2, told
    assert {one["outcome"] for one in checked.values()} <= {"identical", "within tolerance"}, told
    remarks = [text for one in checked.values() for text in one["remarks"]]
    assert any("scores differ by at most" in text for text in remarks), "it is another processor"


def test_another_seed_is_another_network(home: Path) -> None:
    changed(home, "msp", {"seed": 4})
    verdict = by_detector(home, "network")["msp"]
    assert not verdict.holds or verdict.word == "within tolerance"
    assert verdict.word != "identical"


def test_other_images_are_not_compared(home: Path) -> None:
    changed(home, "knn", {"id_train_fingerprint": "0" * 64})
    verdict = by_detector(home, "outputs")["knn"]
    assert verdict.word == "not checked"
    assert "images here are not those of its rows (id_train_fingerprint)" in verdict.reasons[0]


def test_the_words_of_a_row_are_no_code(home: Path) -> None:
    """A network that a stranger's row names by a module is never imported."""
    code = {"network": "antigravity:fly"}
    changed(home, "msp", {"method": "external", "recipe": None, "arguments": code})
    for level in ("outputs", "network"):
        verdict = by_detector(home, level)["msp"]
        assert verdict.word == "not checked"


def test_a_check_is_recorded_and_shown(home: Path) -> None:
    results = found(home)
    for verdict in of_results(results, "network", Means(CPU)):
        record(next(r for r in results if r.path == verdict.path), verdict)
    for result in found(home):
        (check,) = result.checks
        assert (check.level, check.outcome) == ("network", "identical")
    page = leaderboard.page(few_digits(), home / "boards")
    assert page.count("retrained (0.1.0, ") == 2


def test_rescoring_takes_the_place_of_an_older_version(home: Path) -> None:
    changed(home, "knn", {"detector_code": "0" * 64})
    page = leaderboard.page(few_digits(), home / "boards")
    assert "knn ⧖" in page
    assert "msp ⧖" not in page
    older = [one for one in found(home) if one.rows[0]["detector"] == "knn"]
    ((old, new),) = rescore(older, Means(CPU))
    assert isinstance(new, Path), new
    (result,) = [one for one in found(home) if one.rows[0]["detector"] == "knn"]
    assert result.path == new
    assert result.rows[0]["detector_code"] != "0" * 64
    assert result.scores is not None
    assert result.rows[0]["weights"] == old.rows[0]["weights"]
    assert "⧖" not in leaderboard.page(few_digits(), home / "boards")


def test_rescoring_leaves_what_it_cannot_make(home: Path) -> None:
    changed(home, "knn", {"detector_code": "0" * 64})
    shutil.rmtree(home / "cache")
    (result,) = [one for one in found(home) if one.rows[0]["detector"] == "knn"]
    before = result.path.read_bytes()
    ((_, why),) = rescore([result], Means(CPU))
    assert "neither in the zoo nor in the cache" in str(why)
    assert result.path.read_bytes() == before


def test_the_command_records_what_it_found(home: Path, run: CLI) -> None:
    boards = home / "boards"
    leaderboard.write(few_digits(), boards)
    changed(home, "knn", {"detector_options": {**_options(home), "k": 40}})
    told = run("verify", boards / "results", "--level", "outputs", "--record")
    assert told.status == SOME_FAILED
    assert "different" in told.out
    assert "other figures" in told.out, "five are told, of the others how many"
    assert "figures compared: 1 different, 2 identical" in told.out.splitlines()[-1]
    checks = {one.rows[0]["detector"]: one.checks for one in found(home)}
    assert checks["knn"] == (), "what does not hold is no check passed"
    (check,) = checks["msp"]
    assert (check.level, check.outcome) == ("outputs", "identical")
    page = (boards / "digits.md").read_text()
    assert page.count("outputs checked (0.1.0, ") == 1, "the page is written anew"
    assert page == leaderboard.page(few_digits(), boards)


def test_the_command_makes_older_results_again(home: Path, run: CLI) -> None:
    boards = home / "boards"
    changed(home, "knn", {"detector_code": "0" * 64})
    leaderboard.write(few_digits(), boards)
    assert "knn ⧖" in (boards / "digits.md").read_text()
    told = run("verify", boards, "--rescore", "--quiet")
    assert told.status == 0, told.both
    assert told.out.splitlines()[-1] == "1 results of older detectors, 1 made again"
    assert "is now knn-" in told.out
    assert "⧖" not in (boards / "digits.md").read_text()
    assert run("verify", boards, "--quiet").status == 0

    changed(home, "knn", {"detector_code": "0" * 64})
    shutil.rmtree(home / "cache")
    (boards / "results" / "digits" / "msp-0000.json").write_text("{")
    told = run("verify", boards / "results" / "digits", "--rescore")
    assert told.status == 2, "no page is made of what cannot be read"
    assert "stays as it is: its network is neither in the zoo nor in the cache" in told.out
    assert "msp-0000.json: " in told.out, "what cannot be read is named"
    assert "1 results of older detectors, 0 made again" in told.out


def test_what_could_not_be_checked_fails_if_it_is_asked_for(home: Path, run: CLI) -> None:
    shutil.rmtree(home / "cache")
    words = ["verify", home / "boards" / "results", "--level", "outputs", "--quiet"]
    assert run(*words).status == 0
    assert run(*words, "--strict").status == SOME_FAILED
    assert "--level is one of scores, outputs, network, not 'all'" in run.refuses(
        "verify", "--level", "all"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"benchmark": "nobodys"}, "the benchmark 'nobodys' is not known here"),
        ({"benchmark_version": 7}, "it is of version 7 of the benchmark, this is version 1"),
        ({"detector_options": {"colour": 1}}, "colour"),
        ({"arguments": {}}, "does not tell on how much of the training set it was fitted"),
        ({"arguments": {"fit_on": 120, "ood": "absent-set"}}, "absent-set"),
        (
            {"arguments": {"fit_on": 120, "checkpoint": {"file": "a.pt", "sha256": "1" * 64}}},
            "its network started from a.pt (sha256 111111111111…): give that file",
        ),
        ({"method": "external", "preprocess": None}, "in a way that no row can tell"),
        ({"method": "external"}, "give the file of its weights with `--checkpoint`"),
    ],
)
def test_why_a_result_cannot_be_made_again(home: Path, change: dict[str, object], why: str) -> None:
    changed(home, "knn", change)
    (result,) = [one for one in found_in_all(home) if one.rows[0]["detector"] == "knn"]
    (verdict,) = of_results([result], "outputs", Means(CPU))
    assert verdict.word == "not checked"
    assert why in verdict.reasons[0]


def found_in_all(home: Path) -> list[StoredResult]:
    return [stored.read(path) for path in sorted((home / "boards" / "results").rglob("*.json"))]


def test_somebodys_network_by_the_file_of_its_weights(home: Path, tmp_path: Path) -> None:
    """A result on a network of elsewhere is made again with the file that it was made on."""
    rows = [row for one in found(home) for row in one.rows]
    (name,) = networks.release(home / "boards", rows, few_digits(), "CC0-1.0")
    network = zoo.index(home / "boards")[name].load()
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    torch.save({k: v * 2 for k, v in network.state_dict().items()}, tmp_path / "other.pt")
    shutil.rmtree(home / "boards" / "networks")
    changed(home, "msp", {"method": "external", "recipe": None, "recipe_options": {}})
    assert by_detector(home, "outputs")["msp"].word == "not checked"
    given = by_detector(home, "outputs", checkpoint=tmp_path / "theirs.pt")["msp"]
    assert (given.word, given.reasons) == ("identical", [])
    other = by_detector(home, "outputs", checkpoint=tmp_path / "other.pt")["msp"]
    assert "the weights in other.pt are not those of its network" in other.reasons[0]


def test_two_networks_of_one_name_are_not_released(home: Path) -> None:
    rows = [row for one in found(home) for row in one.rows]
    networks.release(home / "boards", rows, few_digits(), "CC0-1.0")
    index = home / "boards" / "networks" / zoo.INDEX
    index.write_text(index.read_text().replace(rows[0]["weights"], "0" * 64))
    with pytest.raises(OptionError, match=r"has a network .* with other weights"):
        networks.release(home / "boards", rows, few_digits(), "CC0-1.0")


def test_a_changed_detector_is_seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another implementation under the same name: the page says so, and outputs tell it."""

    class Other(DETECTORS.get("knn")):  # type: ignore[misc]
        def score(self, outputs: oodbench.Outputs) -> object:
            return -super().score(outputs)

    assert issubclass(Other, Detector)
    monkeypatch.setitem(DETECTORS._objects, "knn", Other)
    verdict = by_detector(home, "scores")["knn"]
    assert "another version of the detector 'knn'" in verdict.remarks[0]
    assert "knn ⧖" in leaderboard.page(few_digits(), home / "boards")
    assert by_detector(home, "outputs")["knn"].word == "different"


def test_rows_tell_what_was_asked_for(home: Path) -> None:
    row = found(home)[0].rows[0]
    assert row["arguments"] == {"fit_on": 120}
    json.dumps(row["arguments"])


def test_tolerances_grow_with_the_level() -> None:
    scores, outputs, network = (TOLERANCES[level] for level in ("scores", "outputs", "network"))
    assert scores.share < outputs.share < network.share
    row = {"n_id": 1000, "n_ood": 100}
    assert outputs.of("fpr95_id", row) == outputs.at_threshold + outputs.steps / 100  # type: ignore[arg-type]
    assert outputs.of("auroc", row) == outputs.share  # type: ignore[arg-type]


def test_a_scratch_cache_is_left_again(tmp_path: Path) -> None:
    before = files.cache_dir()
    with files.cache_in(tmp_path):
        assert files.cache_dir() == tmp_path
    assert files.cache_dir() == before
