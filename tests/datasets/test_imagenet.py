"""ImageNet by its folders, and what is left of it without the classes of another set."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench import files, get_benchmark
from oodbench.dataset import resolve_dataset
from oodbench.datasets.imagenet import by_name
from oodbench.errors import DataError, MissingDataError, OptionError, UnknownNameError
from oodbench.evaluator import Evaluator
from tests.conftest import write_images
from tests.helpers.transfer import CLASSES, IMAGENET, PARTS, ids, load, picture

FEW = ("n01440764_tench", "n01443537", "n02085620_Chihuahua", "n02123045-tabby", "n02123394_x")


def imagenet(place: str = "imagenet500/test", classes: tuple[str, ...] = FEW) -> Path:
    return write_images(files.data_dir() / place, dict.fromkeys(classes, 1), size=8)


def left(name: str) -> list[str]:
    """WordNet ids of the classes whose images are there."""
    samples = load(name)
    assert samples.name == f"{name}/test"
    return sorted({samples.classes[label][:9] for label in samples.labels})


@pytest.mark.parametrize(
    "place", ["imagenet/val", "imagenet/test", "ILSVRC2012/val",
    "imagenet/ILSVRC/Data/CLS-LOC/val", "imagenet500/test"],
)  # fmt: skip
def test_folders_of_imagenet_begin_with_a_wordnet_id(place: str) -> None:
    name = "imagenet500" if "500" in place else "imagenet"
    with pytest.raises(MissingDataError, match=place):
        load(f"{name}-without:pets")
    imagenet(place)
    assert load(name).classes == FEW


@pytest.mark.parametrize("strange", [".", "tench", "n0144076", "n014407640", "x_n01440764"])
def test_what_is_no_folder_of_imagenet(strange: str) -> None:
    imagenet("imagenet/val", (*FEW, strange) if strange != "." else (".",))
    with pytest.raises(DataError, match=r"WordNet id.*Sort them into class folders") as error:
        load("imagenet-without:cifar10")
    assert repr(strange.replace(".", "all")) in str(error.value)


def test_exactly_the_tables_classes_are_left_out(tmp_path: Path) -> None:
    one = picture(tmp_path / "one.png")
    for wordnet_id in IMAGENET:
        folder = files.data_dir() / "imagenet" / "val" / wordnet_id
        folder.mkdir(parents=True)
        (folder / "one.png").hardlink_to(one)
    for name in (*CLASSES, "pets", "food101", "caltech101", *PARTS):
        assert left(f"imagenet-without:{name}") == sorted(set(IMAGENET) - ids(name))


def test_imagenet_without_what_nobody_knows_or_all() -> None:
    for name in ("imagenet-without", "imagenet500-without:", "imagenet-without:cifar11"):
        with pytest.raises(UnknownNameError) as error:
            resolve_dataset(name)
    assert "cifar10, cifar10-small" in str(error.value)
    imagenet(classes=FEW[2:])
    with pytest.raises(DataError, match="every class that is there is also in cifar10"):
        load("imagenet500-without:cifar10")


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    imagenet()
    for split in ("train", "test"):
        for label in ("Goldfish", "tench", "n02123045_x", "Persian-Cats", "my own thing"):
            picture(tmp_path / split / label / "0.png")
    nested = f"imagenet500-without:folder:{tmp_path}"
    assert left(nested) == ["n02085620"]
    for path in (f"folder:{tmp_path}", f"folder:{tmp_path}@64"):
        found = get_benchmark(benchmark=f"ptood/{path}")
        assert found.name == f"ptood/{path}"
        assert [part.name for part in found.groups["familiar"]] == [f"imagenet-without:{path}"]
        known = found.caveats.names
        assert set(known) == {"Goldfish", "tench", "n02123045_x", "Persian-Cats"}
        assert known["Goldfish"] == ("goldfish",)
    with pytest.raises(OptionError, match="ptood/folder:PATH"):
        get_benchmark(benchmark="ptood/folder")
    assert by_name(["n01440764_x"]) == {"n01440764_x": {"n01440764": "tench"}}
    assert len(by_name(["crane"])["crane"]) == 2, "the bird and the machine"
    assert by_name(["x_n01440764", "n99999999", "goldfish bowl"]) == {}
    ood = ["near=imagenet500-without:cifar10", f"near={nested}", "imagenet500-without:pets"]
    evaluator = Evaluator(get_benchmark(f"folder:{tmp_path}"), ood=ood)
    chosen = [(one.group, len(one.samples)) for one in evaluator.ood]
    assert chosen == [("near", 2), ("near", 1), ("far", 2)]
    with pytest.raises(OptionError, match="'near', 'far', 'shifted', not 'familiar'"):
        get_benchmark(f"folder:{tmp_path}").choose(["familiar=imagenet500-without:cifar10"])
