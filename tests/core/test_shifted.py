"""Shifted sets: the ID classes under other conditions, told from ID but not ranked as OOD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import oodbench
from oodbench import Hardware
from oodbench.benchmark import Benchmark, Protocol, get_benchmark
from oodbench.data.samples import ImageArrays
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, MissingDataError, OptionError
from oodbench.metrics import auroc
from oodbench.results.compare import table
from oodbench.results.leaderboard import render
from oodbench.results.store import ResultStore
from oodbench.results.verify import verify

CPU = Hardware(accelerator="cpu", devices="1", workers=0)
DIGITS = get_benchmark("digits")


def darker(share: float) -> DatasetSpec:
    """The test digits, each pixel at that share of its value, and a third of them only."""

    def load(split: str) -> ImageArrays:
        test = DIGITS.id.load("test")
        images = np.stack([np.asarray(test[i]) for i in range(0, len(test), 3)])
        dimmed = (images * share).astype(np.uint8)
        return ImageArrays(f"dark-{share}/{split}", dimmed, test.labels[::3], test.classes)

    return DatasetSpec(f"dark-{share}", load)


def shifted(*sets: DatasetSpec) -> Benchmark:
    return replace(DIGITS, name="digits-shifted", far=(), shifted=sets)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6)).eval()


def predictions(spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    samples = spec.load("test")
    pixels = np.stack([np.asarray(samples[i]) for i in range(len(samples))]) / 255
    images = torch.tensor((pixels - 0.304) / 0.377, dtype=torch.float32)[:, None]
    with torch.no_grad():
        return network()(images).softmax(dim=1).numpy(), samples.labels


def test_rows_tell_auroc_and_accuracy_of_each_set_and_of_their_mean() -> None:
    benchmark = shifted(darker(0.5), darker(0.25))
    results = oodbench.evaluate(
        network(),
        benchmark=benchmark,
        detectors=["msp", "energy"],
        hardware=CPU,
        preprocess="benchmark",
    )
    rows = {(row["detector"], row["ood"]): row for row in results}
    right = []
    on_id, _ = predictions(DIGITS.id)
    for spec in benchmark.shifted:
        p, labels = predictions(spec)
        right.append(float((p.argmax(axis=1) == labels).mean()))
        row = rows["msp", spec.name]
        assert row["group"] == "shifted"
        assert row["shifted_accuracy"] == pytest.approx(right[-1], abs=1e-9)
        expected = auroc(-on_id.max(axis=1), -p.max(axis=1))
        assert row["auroc"] == pytest.approx(expected, abs=1e-6)
        assert rows["energy", spec.name]["shifted_accuracy"] == row["shifted_accuracy"]
    mean = rows["msp", "shifted"]
    assert mean["is_mean"]
    assert mean["shifted_accuracy"] == pytest.approx(sum(right) / 2)
    others = [row for row in results if row["group"] != "shifted"]
    assert others
    assert all(row["shifted_accuracy"] is None for row in others)


def test_pages_and_tables_show_them_and_rank_by_ood(tmp_path: object) -> None:
    benchmark = shifted(darker(0.5))
    detectors = ["msp", "energy", "maxlogit"]
    results = oodbench.evaluate(
        network(),
        benchmark=benchmark,
        detectors=detectors,
        hardware=CPU,
        leaderboards=str(tmp_path),
        preprocess="benchmark",
    )
    stored = ResultStore(str(tmp_path)).rows(benchmark.name)
    assert [row["shifted_accuracy"] for row in stored] == [r["shifted_accuracy"] for r in results]
    page = render(benchmark, stored)
    assert "## near, shifted" in page
    assert "nothing is ranked by them" in page
    assert "| ID accuracy | shifted accuracy | Seeds |" in page
    near = {r["detector"]: r["auroc"] for r in results if r["ood"] == "near"}
    ranked = sorted(detectors, key=lambda name: -near[name])
    first = page.index("| # | Rank | Detector |")
    lines = page[first:].splitlines()[2:5]
    assert [line.split("|")[3].strip().split()[0] for line in lines] == ranked
    header, cells = table(results, benchmark)
    assert "shifted accuracy" in header
    assert len({len(header), *map(len, cells)}) == 1


def test_a_benchmark_without_them_has_no_such_words() -> None:
    results = oodbench.evaluate(
        network(), benchmark=DIGITS, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    assert "hifted" not in render(DIGITS, list(results))


def test_a_set_of_other_classes_is_no_shifted_one() -> None:
    with pytest.raises(DataError, match="have different classes"):
        oodbench.evaluate(
            network(),
            benchmark=DIGITS,
            ood=["shifted=digits-6-9"],
            detectors="msp",
            hardware=CPU,
            preprocess="benchmark",
        )


def test_pixels_and_boxes_have_none() -> None:
    for name in ("scenes/segmentation", "scenes/detection"):
        scenes = get_benchmark(name)
        with pytest.raises(OptionError, match="where whole samples are classified"):
            oodbench.evaluate(
                network(),
                benchmark=scenes,
                ood=[f"shifted={scenes.near[0].name}"],
                detectors="msp",
                hardware=CPU,
                preprocess="benchmark",
            )


def test_nothing_is_ranked_by_them() -> None:
    with pytest.raises(OptionError, match="not ranked by them"):
        replace(shifted(darker(0.5)), protocol=Protocol(rank_group="shifted"))


# Full spectrum: they count as ID


def spectrum(*sets: DatasetSpec, **changes: object) -> Benchmark:
    protocol = replace(DIGITS.protocol, full_spectrum=True)
    return replace(shifted(*sets), name="digits-spectrum", protocol=protocol, **changes)


def scores_of(spec: DatasetSpec) -> np.ndarray:
    return -predictions(spec)[0].max(axis=1).astype(np.float64)


def by_hand(known: np.ndarray, ood: np.ndarray) -> dict[str, float]:
    """AUROC by all pairs; FPR@95 by thresholds that are looked for, one score after the other."""
    pairs = (ood[:, None] > known[None]).mean() + 0.5 * (ood[:, None] == known[None]).mean()
    kept = next(t for t in np.sort(known) if (known <= t).mean() >= 0.95)
    caught = next(t for t in -np.sort(-ood) if (ood >= t).mean() >= 0.95)
    return {
        "auroc": pairs,
        "fpr95_id": (ood <= kept).mean(),
        "fpr95_ood": (known >= caught).mean(),
    }


def test_full_spectrum_compares_ood_with_the_test_set_and_all_shifted_sets() -> None:
    benchmark = spectrum(darker(0.5), darker(0.25))
    results = oodbench.evaluate(
        network(), benchmark=benchmark, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    rows = {row["ood"]: row for row in results}
    test = scores_of(DIGITS.id)
    dark = [scores_of(spec) for spec in benchmark.shifted]
    known = np.concatenate([test, *dark])
    near = benchmark.near[0]
    expected = by_hand(known, scores_of(near))
    assert {name: rows[near.name][name] for name in expected} == pytest.approx(expected, abs=2e-4)
    plain = by_hand(test, scores_of(near))
    assert abs(plain["auroc"] - expected["auroc"]) > 0.01, "else the two would be mistaken"
    assert rows[near.name]["n_id"] == rows["near"]["n_id"] == len(known)
    assert rows["near"]["auroc"] == rows[near.name]["auroc"]
    low, high = rows["near"]["auroc_low"], rows["near"]["auroc_high"]
    assert low < rows["near"]["auroc"] < high
    for spec, scores in zip(benchmark.shifted, dark, strict=True):
        row = rows[spec.name]
        assert row["n_id"] == len(test), "a shifted set is compared with the test set alone"
        assert row["auroc"] == pytest.approx(auroc(test, scores), abs=1e-6)
    right = [predictions(spec) for spec in (DIGITS.id, *benchmark.shifted)]
    correct = [p.argmax(axis=1) == labels for p, labels in right]
    for row in results:
        assert row["id_accuracy"] == pytest.approx(correct[0].mean(), abs=1e-9)
        assert row["spectrum_accuracy"] == pytest.approx(np.concatenate(correct).mean(), abs=1e-9)


def test_the_mean_over_several_sets_is_over_the_whole_spectrum_too() -> None:
    benchmark = spectrum(darker(0.5), far=DIGITS.far, near=(*DIGITS.near, darkened_noise()))
    results = oodbench.evaluate(
        network(), benchmark=benchmark, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    rows = {row["ood"]: row for row in results}
    members = [rows[spec.name] for spec in benchmark.near]
    assert rows["near"]["auroc"] == pytest.approx(np.mean([row["auroc"] for row in members]))
    assert rows["near"]["auroc_low"] < rows["near"]["auroc"] < rows["near"]["auroc_high"]
    widest = max(row["auroc_high"] - row["auroc_low"] for row in members)
    assert rows["near"]["auroc_high"] - rows["near"]["auroc_low"] < widest


def darkened_noise() -> DatasetSpec:
    pixels = np.random.default_rng(0).integers(0, 120, (90, 8, 8)).astype(np.uint8)

    def load(split: str) -> ImageArrays:
        return ImageArrays(f"noise/{split}", pixels, np.zeros(90, dtype=int), ["all"])

    return DatasetSpec("noise", load)


def test_named_ood_sets_bring_the_spectrum_with_them() -> None:
    benchmark = spectrum(darker(0.5))
    name = benchmark.near[0].name
    results = oodbench.evaluate(
        network(),
        benchmark=benchmark,
        ood=[name],
        detectors="msp",
        hardware=CPU,
        preprocess="benchmark",
    )
    assert {row["ood"] for row in results} == {name, "near", "dark-0.5", "shifted"}
    assert results.rows[0]["n_id"] == len(DIGITS.id.load("test")) + len(darker(0.5).load("test"))


def absent(name: str) -> DatasetSpec:
    def load(split: str) -> ImageArrays:
        raise MissingDataError(f"{name}: no {split} images in data/{name}. Get it: by hand.")

    return DatasetSpec(name, load)


def test_a_spectrum_with_a_set_missing_is_said_and_bears_no_groups_name() -> None:
    benchmark = spectrum(darker(0.5), absent("darkest"))
    results = oodbench.evaluate(
        network(), benchmark=benchmark, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    names = {row["ood"] for row in results if row["is_mean"]}
    assert names == {f"near({benchmark.near[0].name})", "shifted(dark-0.5)"}
    for row in results:
        assert any("without darkest" in note for note in row["notes"])
    whole = oodbench.evaluate(
        network(),
        benchmark=spectrum(darker(0.5)),
        detectors="msp",
        hardware=CPU,
        preprocess="benchmark",
    )
    assert {row["ood"] for row in whole if row["is_mean"]} == {"near", "shifted"}
    with pytest.raises(MissingDataError, match="counts shifted sets as ID, but none is there"):
        oodbench.evaluate(
            network(),
            benchmark=spectrum(absent("darkest")),
            detectors="msp",
            hardware=CPU,
            preprocess="benchmark",
        )


def test_a_full_spectrum_page_says_what_counts_as_id(tmp_path: object) -> None:
    benchmark = spectrum(darker(0.5))
    results = oodbench.evaluate(
        network(),
        benchmark=benchmark,
        detectors=["msp", "energy"],
        hardware=CPU,
        preprocess="benchmark",
        leaderboards=str(tmp_path),
    )
    page = render(benchmark, ResultStore(str(tmp_path)).rows(benchmark.name))
    assert {verdict.word for verdict in verify(str(tmp_path))} == {"identical"}
    n = len(DIGITS.id.load("test")) + len(darker(0.5).load("test"))
    assert f"ID: {n:,} images, of the test set and of all shifted sets" in page
    assert "They count as ID" in page
    assert "nothing is ranked by them" not in page
    assert "| ID accuracy | Full-spectrum accuracy | shifted accuracy | Seeds |" in page
    assert f"{100 * results.rows[0]['spectrum_accuracy']:.2f}" in page


def test_a_spectrum_wants_shifted_sets() -> None:
    with pytest.raises(OptionError, match="counts shifted sets as ID"):
        spectrum()


def test_prepared_images_are_neither_resized_nor_cropped() -> None:
    """Such as those of a corrupted set, whose publisher has cropped them."""

    def spec(name: str, is_prepared: bool) -> DatasetSpec:
        def load(split: str) -> ImageArrays:
            samples = darker(0.5).load(split)
            samples.is_prepared = is_prepared
            return samples

        return DatasetSpec(name, load)

    zoomed = replace(DIGITS.preprocess, resize="crop", pre_size=11)
    benchmark = replace(shifted(spec("prepared", True), spec("raw", False)), preprocess=zoomed)
    results = oodbench.evaluate(
        network(), benchmark=benchmark, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    rows = {row["ood"]: row for row in results}
    p, labels = predictions(darker(0.5))
    seen_whole = float((p.argmax(axis=1) == labels).mean())
    assert rows["prepared"]["shifted_accuracy"] == pytest.approx(seen_whole, abs=1e-9)
    assert rows["raw"]["shifted_accuracy"] != rows["prepared"]["shifted_accuracy"]
