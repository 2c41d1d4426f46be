"""Training with outliers: which come with an image, what is refused, keys, rows and marks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import oodbench
from oodbench import Benchmark, metrics
from oodbench.checks.unseen import refuse_seen
from oodbench.contenders import Networks
from oodbench.data.samples import ImageArrays
from oodbench.errors import DataError, OptionError
from oodbench.extract import extract
from oodbench.needed import needed
from oodbench.training.epochs import Views
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.cli import CLI
from tests.helpers.training import CPU, PREPROCESS, assert_same_weights, short, tiny


def arrays(name: str, n: int, seed: int) -> ImageArrays:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 8, 8)).astype(np.uint8)
    return ImageArrays(name, pixels, np.zeros(n), ["all"])


def written(samples: ImageArrays, folder: Path, picked: list[int]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for i in picked:
        samples[i].save(folder / f"{samples.name.replace('/', '-')}-{i}.png")
    return f"folder:{folder}"


# What comes with an image


def test_outliers_come_as_further_views() -> None:
    own, outliers = arrays("own", 5, 0), arrays("others", 40, 1)
    views = Views(own, lambda image, _: PREPROCESS(image), 1, 0, outliers, 3)
    made, label = views[7]
    assert made.shape == (4, 1, 8, 8)
    assert label == 0
    assert made[0].equal(PREPROCESS(own[2]))  # position 7 is image 2 in epoch 1
    others = [PREPROCESS(image) for image in (outliers[i] for i in range(40))]
    assert all(any(view.equal(other) for other in others) for view in made[1:])
    assert views[7][0].equal(made)  # by position, whoever asks
    assert not views[2][0][1:].equal(made[1:])  # drawn anew in each epoch


# What is refused


def test_images_that_are_tested_on_are_refused() -> None:
    tested, outliers = arrays("shown/test", 9, 0), arrays("mine", 12, 1)
    refuse_seen(outliers, [tested], "outliers")
    outliers.images[3], outliers.images[5] = tested.images[2], tested.images[8]
    with pytest.raises(DataError, match=r"of the 12 images of mine.*2 in shown/test"):
        refuse_seen(outliers, [arrays("other", 4, 7), tested], "outliers")


@pytest.mark.parametrize(("ood", "split"), [(0, "test"), (1, "test"), (None, "test")])
def test_a_set_with_test_images_is_refused_before_training(
    tmp_path: Path, ood: int | None, split: str
) -> None:
    """Of the ID test set and of each OOD set, in whatever file they are."""
    benchmark = oodbench.get_benchmark("digits")
    spec = benchmark.id if ood is None else benchmark.ood[ood].spec
    tested = spec.load(split)
    name = written(arrays("mine", 6, 3), tmp_path / "mine", [0, 1, 2])
    written(tested, tmp_path / "mine", [0, 4])
    with pytest.raises(DataError, match=rf"2 in {tested.name}"):
        plan(benchmark, "oe", overrides={"outliers": name})


def test_sets_of_the_user_are_refused_too(tmp_path: Path) -> None:
    own = arrays("mine", 30, 3)
    name = written(own, tmp_path / "mine", list(range(20)))
    written(own, tmp_path / "tested", [19, 20, 21])
    with pytest.raises(DataError, match="1 in folder"):
        oodbench.evaluate(
            id="digits",
            method="oe",
            recipe_options={"outliers": name, "epochs": 1},
            ood=f"folder:{tmp_path / 'tested'}",
        )


def test_without_a_set_one_is_asked_for() -> None:
    with pytest.raises(OptionError, match="outliers=folder:PATH"):
        plan(oodbench.get_benchmark("digits"), "oe")
    with pytest.raises(OptionError, match="no option 'outliers'"):
        plan(oodbench.get_benchmark("digits"), "ce", overrides={"outliers": "synthetic:digits"})


# What a run is


def test_the_key_is_of_the_content(tmp_path: Path) -> None:
    own = arrays("mine", 8, 3)
    one, same = (written(own, tmp_path / name, [0, 1, 2]) for name in "ab")
    other = written(own, tmp_path / "c", [0, 1, 3])
    benchmark = oodbench.get_benchmark("digits")
    keys = [plan(benchmark, "oe", overrides={"outliers": n}).key for n in (one, same, other)]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_a_folder_with_splits_gives_its_training_images(tmp_path: Path) -> None:
    name = written(arrays("mine", 4, 3), tmp_path / "x" / "train" / "all", [0, 1])
    written(arrays("mine", 4, 3), tmp_path / "x" / "test" / "all", [2])
    root = name.removesuffix("/train/all")
    run = plan(oodbench.get_benchmark("digits"), "oe", overrides={"outliers": root})
    assert run.auxiliary is not None
    assert len(run.auxiliary) == 2


def test_the_set_is_among_the_data_that_is_needed() -> None:
    networks = Networks(method="oe", recipe_options={"outliers": "cifar100"})
    wanted = needed(oodbench.get_benchmark("digits"), networks=networks, test=False)
    assert ("cifar100", ("train",)) in [(one.name, one.splits) for one in wanted]


FIELDS = {"oe": "outliers", "oe-energy": "outliers", "mixoe": "outliers", "pixmix": "mixing_set"}


def accuracy(benchmark: Benchmark, method: str, others: str, **options: int) -> float:
    """Of a network that the quick recipe trains with other images beside those of the ID set."""
    overrides = {FIELDS[method]: others, **options}
    network = train(plan(benchmark, method, recipe="quick", overrides=overrides), CPU)
    outputs = extract(network, benchmark.id.load("test"), benchmark.preprocess, hardware=CPU)
    return metrics.accuracy(outputs.logits, outputs.labels)


@pytest.mark.parametrize("method", FIELDS)
def test_quick_training_learns(method: str, tmp_path: Path) -> None:
    others = written(arrays("mine", 30, 3), tmp_path, list(range(30)))
    benchmark, _ = tiny(48)  # three classes
    assert accuracy(benchmark, method, others, epochs=6, batch_size=4) > 0.75


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "epochs"), [("oe", 5), ("oe-energy", 3), ("mixoe", 5), ("pixmix", 6)]
)
def test_quick_training_learns_digits(method: str, epochs: int) -> None:
    benchmark = oodbench.get_benchmark("digits")
    assert accuracy(benchmark, method, "synthetic:digits", epochs=epochs) > 0.75


@pytest.mark.parametrize("method", ["oe", "mixoe"])
def test_interrupted_training_gives_the_same_bits(
    method: str, new_cache: Callable[[], None], tmp_path: Path
) -> None:
    benchmark, images = tiny()
    options = {"lr": 0.02, "outliers": written(arrays("mine", 9, 3), tmp_path, list(range(9)))}
    whole = train(short(benchmark, method, **options), CPU)
    new_cache()
    images.reads, images.breaks_after = 0, 70
    with pytest.raises(DataError, match="pulled out"):
        train(short(benchmark, method, **options), CPU)
    assert_same_weights(train(short(benchmark, method, **options), CPU), whole)


# Rows


def test_rows_and_pages_are_marked(run: CLI, tmp_path: Path) -> None:
    for options in (["--method", "oe", "--outliers", "synthetic:digits"], ["--method", "ce"]):
        done = run(
            *("eval", "--id", "digits", "--detector", "msp", "--epochs", "1", "--json"),
            *("--leaderboards", str(tmp_path)),
            *options,
        )
        rows = json.loads(done.out)["rows"]
        seen = {json.dumps(row["auxiliary"], sort_keys=True) for row in rows}
        assert len(seen) == 1
        if "oe" in options:
            beside = rows[0]["auxiliary"]
            assert (beside["as"], beside["name"]) == ("outliers", "synthetic:digits/train")
            assert beside["count"] == 649
            assert rows[0]["recipe_options"]["outliers"] == "synthetic:digits"
        else:
            assert seen == {"null"}
    page = (tmp_path / "digits.md").read_text(encoding="utf-8")
    assert "msp" in page
    assert "trained with outliers: 649 images of synthetic:digits/train" in page
    assert page.count("msp ⚑") >= 1
