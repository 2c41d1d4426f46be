"""ImageNet-1k against iNaturalist, SUN, Places and Textures."""

from __future__ import annotations

from pathlib import Path

from oodbench import files, get_benchmark
from oodbench.datasets.imagenet_four import whole_validation
from tests.conftest import write_images


def test_id_is_the_whole_validation_split_in_its_own_order() -> None:
    rows = whole_validation().rows()
    assert [path for path, _ in rows] == [
        f"imagenet_1k/val/ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 50_001)
    ]
    counts: dict[int, int] = {}
    for _, label in rows:
        counts[label] = counts.get(label, 0) + 1
    assert counts == dict.fromkeys(range(1000), 50)


def test_the_four_and_abets_sets() -> None:
    four, abet = (get_benchmark(benchmark=f"imagenet1k/{name}") for name in ("four", "abet"))
    assert [spec.name for spec in four.far] == ["inaturalist", "sun-mos", "places-mos", "textures"]
    assert [spec.contents["test"].count for spec in four.far] == [10_000, 10_000, 10_000, 5_640]
    assert [spec.name for spec in abet.far][3] == "textures-train1"
    assert (four.preprocess.pre_size, abet.preprocess.pre_size) == (256, 232)
    assert (four.protocol.rank_by, abet.protocol.rank_by) == ("auroc", "fpr95_id")
    assert four.protocol.fpr == abet.protocol.fpr == "fpr95_id"


def test_another_number_of_scenes_is_told(tmp_path: Path) -> None:
    (spec,) = [
        spec for spec in get_benchmark(benchmark="imagenet1k/four").far if spec.name == "sun-mos"
    ]
    write_images(files.data_dir() / "SUN" / "images", {".": 3}, size=16)
    samples = spec.load("test")
    assert spec.difference("test", samples).startswith(
        "sun-mos/test: 10,000 images expected, found 3."
    )
