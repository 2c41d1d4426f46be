"""MultiOOD's sets: their labels and classes, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodbench import files
from oodbench.datasets.multiood import sets
from oodbench.datasets.multiood.samples import Clips
from oodbench.errors import DataError, MissingDataError, OptionError
from tests.helpers.multiood import ALL_SETS, fill


def test_near_ood_labels_begin_at_zero(base: Path, put: Any) -> None:
    put("HMDB_eval_near_ood.txt", ["wave/c.avi 50", "pour/a.avi 25", "pour/b.avi 25"])
    for path in ("pour/a", "pour/b", "wave/c"):
        fill(base, f"HMDB51/video/{path}.avi")
    samples = sets.HMDB_26.load("test")
    assert samples.labels.tolist() == [1, 0, 0]
    assert samples.classes == ("pour", "wave")
    assert samples.name == "hmdb51-26/test"


def test_far_ood_labels_with_gaps(base: Path, put: Any) -> None:
    put("ID_HMDB_OOD_UCF.txt", ["v_YoYo_g01_c01.avi 94", "v_PlayingDaf_g02_c01.avi 53"])
    fill(base, "UCF101/video/v_YoYo_g01_c01.avi", "UCF101/video/v_PlayingDaf_g02_c01.avi")
    samples = sets.UCF_VS_HMDB.load("test")
    assert samples.labels.tolist() == [1, 0]
    assert samples.classes == ("PlayingDaf", "YoYo")


def test_classes_are_those_of_the_training_split(base: Path, put: Any) -> None:
    put("HMDB_train.txt", ["a/1.avi 0", "b/2.avi 1", "c/3.avi 2"])
    put("HMDB_val.txt", ["c/4.avi 2"])
    fill(base, *(f"HMDB51/video/{p}.avi" for p in ("a/1", "b/2", "c/3", "c/4")))
    assert sets.HMDB.load("train").classes == ("a", "b", "c")
    samples = sets.HMDB.load("val")
    assert (samples.classes, samples.labels.tolist()) == (("a", "b", "c"), [2])
    put("HMDB_val.txt", ["d/4.avi 3"])
    with pytest.raises(DataError, match="no training sample has the label 3"):
        sets.HMDB.load("val")
    put("HMDB_val.txt", ["d/4.avi 2"])
    with pytest.raises(DataError, match="hmdb51/val: label 2 is both 'c' and 'd'"):
        sets.HMDB.load("val")


def test_sets_of_several_lists(base: Path, put: Any) -> None:
    for domain in ("human", "animal", "cartoon"):
        for split in ("test", "train"):
            put(f"HAC_{split}_only_{domain}.csv", f"{split}.mp4,4\r\nother.mp4,0\r\n".encode())
            fill(base, *(f"HAC/{domain}/videos/{name}.mp4" for name in (split, "other")))
    samples = sets.HAC.load("test")
    assert isinstance(samples, Clips)
    assert [clip.path for clip in samples.clips][:4] == [
        "human/test.mp4",
        "human/other.mp4",
        "human/train.mp4",
        "human/other.mp4",
    ]
    assert samples.classes == ("sleeping", "swimming")
    assert samples.labels.tolist() == [1, 0] * 6


def test_names_that_are_none_of_ucf(base: Path, put: Any) -> None:
    put("UCF_eval_near_ood.txt", ["PlayingDaf.avi 53"])
    with pytest.raises(DataError, match=r"'PlayingDaf\.avi' is no name of a video of UCF101"):
        sets.UCF_51.load("test")


def test_nothing_is_there_but_the_lists(base: Path, put: Any) -> None:
    put("HMDB_eval_near_ood.txt", ["pour/a.avi 25"])
    with pytest.raises(MissingDataError) as error:
        sets.MULTIOOD_HMDB_26.load("test")
    for part in (str(files.data_dir()), "Get it:", "OODBENCH_DATA", "multiood-hmdb51-26/test"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", sorted(ALL_SETS))
def test_nothing_is_there(name: str) -> None:
    spec = ALL_SETS[name]
    for split in spec.splits:
        with pytest.raises(MissingDataError) as error:
            spec.load(split)
        for part in (str(files.data_dir()), "Get it:", "OODBENCH_DATA", f"{name}/{split}"):
            assert part in str(error.value)
        assert "{" not in str(error.value)
    with pytest.raises(OptionError, match=f"{name} has the splits"):
        spec.load("eval")
