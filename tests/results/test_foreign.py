"""Scores that other code wrote: every format, and no file runs code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.errors import OODBenchError
from oodbench.results import foreign
from tests.helpers.evil import Evil

SCORES = np.array([0.1, -2.0, 3.5, 3.5])


def csv_of(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_arrays(tmp_path: Path) -> None:
    for array in (SCORES, SCORES.astype(np.float32), SCORES[:, None]):
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_allclose(foreign.read(tmp_path / "a.npy").scores, SCORES, rtol=1e-6)
    np.testing.assert_array_equal(foreign.read(tmp_path / "a.npy", "id").scores, -SCORES)


def test_archives_of_confidences_are_high_for_id(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", conf=SCORES, pred=[1, 2, 3, 4], label=[1, 2, 3, 5])
    found = foreign.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.scores, -SCORES)
    assert found.correct is not None
    assert found.correct.tolist() == [True, True, True, False]
    np.savez(tmp_path / "b.npz", score=SCORES)
    np.testing.assert_array_equal(foreign.read(tmp_path / "b.npz").scores, SCORES)


def test_tables(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "path,score,label,prediction\nx.png,1.5,cat,cat\ny.png,-2,dog,cat\n")
    found = foreign.read(path)
    assert found.paths == ("x.png", "y.png")
    assert found.scores.tolist() == [1.5, -2.0]
    assert found.correct is not None
    assert found.correct.tolist() == [True, False]
    assert foreign.read(csv_of(tmp_path, "1\n2\n3\n")).scores.tolist() == [1, 2, 3]
    assert foreign.read(csv_of(tmp_path, "conf\n1\n2\n")).scores.tolist() == [-1, -2]
    assert foreign.read(csv_of(tmp_path, "path\tscore\na\t1\n", "a.tsv")).scores.tolist() == [1]


def test_a_table_of_all_sets(tmp_path: Path) -> None:
    text = "set,group,path,label,score\nid,id,,,1\nid,id,,,2\nmnist,far,,,3\ncifar,near,,,4\n"
    found = foreign.read_all(csv_of(tmp_path, text))
    assert found.id.scores.tolist() == [1, 2]
    assert found.id.paths is None
    assert {key: one.scores.tolist() for key, one in found.ood.items()} == {
        ("far", "mnist"): [3],
        ("near", "cifar"): [4],
    }
    with pytest.raises(OODBenchError, match="must be called id"):
        foreign.read_all(csv_of(tmp_path, text.replace("id,id", "in,id")))
    with pytest.raises(OODBenchError, match="holds 3 sets"):
        foreign.read(csv_of(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path,value\na,1\n", "no column score"),
        ("dataset,FPR@95,AUROC\nmnist,20,90\n", "it holds figures"),
        ("score\n1\nx\n", "could not convert"),
        ("score\n1\nnan\n", "NaN or infinite"),
        ("path,score\na,1\na,2\n", "is in it twice"),
        ("path,score\na,1\nb\n", "another number of columns"),
        ("score\n", "no lines"),
        ("", "no column"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(OODBenchError, match=why):
        foreign.read(csv_of(tmp_path, text))


def scores_of(tensors: bool = True) -> dict[str, Any]:
    """As OpenOOD's evaluator keeps them, tensors among them."""
    rng = np.random.default_rng(0)

    def one(n: int, label: int) -> list[Any]:
        return [np.arange(n), rng.normal(size=n).astype(np.float32), np.full(n, label)]

    return {
        "id": {"train": None, "val": None, "test": one(30, 3)},
        "csid": {},
        "ood": {
            "val": None,
            "near": {"cifar100": one(20, -1), "tin": None},
            "far": {"mnist": one(10, -1)},
        },
        "id_preds": torch.arange(30) if tensors else None,
        "id_labels": torch.arange(30) if tensors else None,
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_openoods_pickles(tmp_path: Path, protocol: int) -> None:
    content = scores_of()
    path = tmp_path / "knn.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = foreign.read_all(path)
    np.testing.assert_array_equal(found.id.scores, -content["id"]["test"][1].astype(float))
    assert set(found.ood) == {("near", "cifar100"), ("far", "mnist")}
    assert found.id.correct is not None
    assert found.id.correct.sum() == 1  # of the 30, that of class 3


def test_no_pickle_runs_code(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for place in ("id", "extra", "inside"):
        content: Any = scores_of(tensors=False)
        evil = Evil(trace)
        if place == "inside":
            content["id"]["test"][0] = np.array([evil, None], dtype=object)
        else:
            content[place] = evil
        path = tmp_path / "evil.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(OODBenchError, match="a pickle may run code"):
            foreign.read_all(path)
        assert not trace.exists()
    np.save(tmp_path / "evil.npy", np.array([Evil(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(OODBenchError):
        foreign.read(tmp_path / "evil.npy")
    np.savez(tmp_path / "evil.npz", score=np.array([Evil(trace)], dtype=object))
    with pytest.raises(OODBenchError):
        foreign.read(tmp_path / "evil.npz")
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "builtins.getattr", "numpy.load", "subprocess.Popen",
     "numpy.core.multiarray.scalar", "collections.Counter", "oodbench.files.write_text"],
)  # fmt: skip
def test_only_arrays_are_made(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    path = tmp_path / "x.pkl"
    path.write_bytes(b"c" + module.encode() + b"\n" + function.encode() + b"\n.")
    with pytest.raises(OODBenchError, match="it asks for"):
        foreign.read_all(path)


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(40):
        for ending in (".pkl", ".csv", ".npy", ".npz"):
            path = tmp_path / f"x{ending}"
            path.write_bytes(rng.bytes(3 * n))
            read = foreign.read if ending.startswith(".n") else foreign.read_all
            with pytest.raises(OODBenchError):
                read(path)


@pytest.mark.parametrize(
    ("name", "write", "why"),
    [
        ("a.pkl", lambda p: p.write_bytes(b""), "give it as `scores`"),
        ("a.json", lambda p: p.write_text("[1]"), r"read from \.npy, \.npz, \.csv and \.tsv files"),
        ("a.npy", lambda p: np.save(p, np.array(["x"])), "one number a sample is expected"),
        ("a.npy", lambda p: np.save(p, np.zeros((2, 2))), "one number a sample is expected"),
        ("a.npy", lambda p: np.save(p, np.zeros(0)), "one number a sample is expected"),
        ("a.npy", lambda p: p.write_bytes(b"\x93NUMPY"), "holds no scores"),
        ("a.npz", lambda p: np.savez(p, logits=SCORES), "it has none of"),
        ("a.npz", lambda p: p.write_bytes(b"PK"), "holds no scores"),
        (
            "a.npz",
            lambda p: np.savez(p, conf=SCORES, pred=[1], label=[1]),
            "of another number of samples than scores",
        ),
    ],
)
def test_files_that_hold_no_scores(tmp_path: Path, name: str, write: Any, why: str) -> None:
    write(tmp_path / name)
    with pytest.raises(OODBenchError, match=why) as error:
        foreign.read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_several_sets_are_no_one_set(tmp_path: Path) -> None:
    table = csv_of(tmp_path, "set,score\nid,1\nmnist,3\n")
    with pytest.raises(OODBenchError, match=r"holds 2 sets \(id, mnist\). Give it as `scores`"):
        foreign.read(table)
    with pytest.raises(OODBenchError, match=r"several sets are read from \.csv, \.tsv and \.pkl"):
        foreign.read_all(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([1], "no mapping with the keys id and ood"),
        ({"id": {"test": [1, 2]}, "ood": {}}, "the ID test set is not prediction, confidence and"),
        ({"id": {"test": [None, SCORES, None]}, "ood": {"near": {}}}, "no scores of OOD sets"),
        (
            {"id": {"test": [None, SCORES, None]}, "ood": {"far": {"mnist": "abc"}}},
            "one number a sample is expected",
        ),
        ({"id": {}, "ood": {}}, "test"),
    ],
)
def test_pickles_of_something_else(tmp_path: Path, content: object, why: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(OODBenchError, match=why):
        foreign.read_all(tmp_path / "a.pkl")


def test_sets_that_openood_left_out_are_left_out(tmp_path: Path) -> None:
    own = [np.array([1, 2, 3, 4]), SCORES, np.array([1, 2, 3, 0])]
    sets = {"near": None, "far": {"mnist": [None, SCORES + 1, None], "svhn": None}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"id": {"test": own}, "ood": sets}))
    found = foreign.read_all(tmp_path / "a.pkl")
    assert list(found.ood) == [("far", "mnist")]
    assert found.ood["far", "mnist"].correct is None
    assert found.id.correct is not None
    assert found.id.correct.tolist() == [True, True, True, False]


def test_what_the_network_got_right(tmp_path: Path) -> None:
    one = foreign.Foreign(SCORES, None, None)
    labels, said = tmp_path / "labels.npy", tmp_path / "said.npy"
    np.save(labels, [0, 1, 2, 3])
    np.save(said, [0, 1, 3, 3])
    correct = foreign.with_labels(one, labels, said).correct
    assert correct is not None
    assert correct.tolist() == [True, True, False, True]
    np.save(said, [0, 1, 3])
    with pytest.raises(OODBenchError, match="a class for each of the 4 ID scores"):
        foreign.with_labels(one, labels, said)
    np.save(said, [0.5, 1.0, 1.0, 1.0])
    with pytest.raises(OODBenchError, match="a class for each"):
        foreign.with_labels(one, labels, said)
    said.unlink()
    with pytest.raises(OODBenchError, match=r"are read from \.npy files"):
        foreign.with_labels(one, labels, said)
