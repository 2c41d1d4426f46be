"""Commands bring the data that they need: asked for, and from its publishers' layouts."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import oodbench
from oodbench import files, get_benchmark
from oodbench.cli import bringing
from oodbench.data.content import Content
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.results.store import ResultStore
from tests.helpers.cli import CLI
from tests.helpers.datasets import images_of, png, write_parquet
from tests.helpers.layouts import tarred
from tests.helpers.publisher import Publisher, publish_on_hub, publishing

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
SETS = {
    "uoft-cs/cifar10": ("plain_text/train", "plain_text/test", "img", "label", CIFAR10),
    "uoft-cs/cifar100": (
        "cifar100/train", "cifar100/test", "img", "fine_label", [f"class{i}" for i in range(100)],
    ),
    "ylecun/mnist": (
        "mnist/train", "mnist/test", "image", "label", [str(i) for i in range(10)],
    ),
    "ufldl-stanford/svhn": (
        "cropped_digits/train", "cropped_digits/test", "image", "label", list("0123456789"),
    ),
    "zh-plus/tiny-imagenet": ("data/valid", "data/valid", "image", "label", ["n1", "n2"]),
}  # fmt: skip
"""Repositories of the hub: files of the splits, columns, classes."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    """The hub's layout, with few drawn images; nobody else's archives are there."""
    folder = tmp_path_factory.mktemp("hub")
    with publishing() as publisher:
        for seed, (name, (train, test, image, label, classes)) in enumerate(SETS.items()):
            content = {}
            for split in dict.fromkeys((train, test)):
                count = len(classes) * 2
                path = folder / name / f"{split}-00000-of-00001.parquet"
                drawn = images_of(count, (32, 32, 3), 10 * seed + len(content))
                labels = [i % len(classes) for i in range(count)]
                write_parquet(path, drawn, image, label, labels, classes)
                content[path.relative_to(folder / name).as_posix()] = path.read_bytes()
            publish_on_hub(publisher, name, content)
        yield publisher


@pytest.fixture
def mirror(hub: Publisher, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    hub.asked.clear()
    monkeypatch.setenv("OODBENCH_MIRROR", hub.base)
    return hub


def network(folder: Path, classes: int) -> list[str]:
    """Words for an untrained network."""
    torch.manual_seed(0)
    path = folder / f"{classes}.safetensors"
    save_file(HeadedBackbone(create_backbone("resnet20", 3), classes).state_dict(), path)
    shown = ["--preprocess", "benchmark"]
    return ["--backbone", "resnet20", "--checkpoint", str(path), *shown]


OOD = "tin,mnist,svhn"


@pytest.mark.parametrize(("name", "other", "classes"), [("cifar10", "cifar100", 10),
                                                       ("cifar100", "cifar10", 100)])  # fmt: skip
def test_from_nothing_to_rows(
    run: CLI, mirror: Publisher, tmp_path: Path, name: str, other: str, classes: int
) -> None:
    """An empty data folder, one command, rows; archives are not there, and the hub has all."""
    words = ["eval", "--detector", "msp,maxlogit", "--id", name, "--ood", f"{other},{OOD}"]
    words += network(tmp_path, classes)
    ran = run(*words, "--download")
    assert ran.status == 0, ran.both
    rows = ResultStore("leaderboards").rows(name)
    counts = {row["ood"]: row["n_ood"] for row in rows if not row["is_mean"]}
    assert counts == {other: 2 * (110 - classes), "tin": 4, "mnist": 20, "svhn": 20}
    assert all(0 <= row["auroc"] <= 1 for row in rows)
    assert not list((files.data_dir() / "downloads").glob("*"))
    asked = len(mirror.asked)
    assert run(*words).status == 0  # all is here
    assert len(mirror.asked) == asked


def test_without_a_terminal_it_stops(run: CLI, mirror: Publisher, tmp_path: Path) -> None:
    words = ["--id", "cifar10", "--ood", "mnist,svhn", *network(tmp_path, 10)]
    for command in (["eval", "--detector", "msp"], ["compare", "--detector", "msp"]):
        if command[0] == "compare":
            words = ["--id", "cifar10", "--ood", "mnist,svhn", "--backbone", "resnet20"]
        message = run.refuses(*command, *words)
        assert "Get them: `oodbench data prepare cifar10 mnist svhn`" in message
        assert "--download" in message
        assert "MB" in message
    assert "data prepare cifar10" in run.refuses("train", "--method", "ce", "--id", "cifar10")
    assert "data prepare cifar10" in run.refuses("tune", "--detector", "knn", "--id", "cifar10")
    assert mirror.asked == []


def test_a_network_that_cannot_be_used_is_refused_before_anything_is_fetched(
    run: CLI, mirror: Publisher, tmp_path: Path
) -> None:
    unsaid = network(tmp_path, 10)[:-2]
    words = ["eval", "--detector", "msp", "--id", "cifar10", "--ood", "mnist"]
    for more in (["--download"], [], ["--download", "--mean", "0.5,0.5,0.5"]):
        assert "nobody says how images are made" in run.refuses(*words, *unsaid, *more)
        tune = ["tune", "--detector", "knn", "--id", "cifar10"]
        assert "nobody says how images are made" in run.refuses(*tune, *unsaid, *more)
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    damaged = ["--backbone", "resnet20", "--checkpoint", str(tmp_path / "damaged.safetensors")]
    assert "damaged.safetensors" in run.refuses(*words, *damaged, "--download")
    with pytest.raises(oodbench.errors.OptionError, match="nobody says how images are made"):
        oodbench.evaluate(
            HeadedBackbone(create_backbone("resnet20", 3), 10), "cifar10", ood="mnist",
            download=True,
        )  # fmt: skip
    assert mirror.asked == []
    assert not files.data_dir().exists()


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_it_asks(
    mirror: Publisher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, answer: bool
) -> None:
    from oodbench.needed import needed

    questions: list[str] = []

    def confirm(text: str) -> bool:
        questions.append(text)
        return answer

    monkeypatch.setattr(bringing.typer, "confirm", confirm)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    benchmark = oodbench.get_benchmark("cifar10")
    wanted = needed(benchmark, ood=["mnist"])
    bringing.bring(wanted, benchmark, None, lambda _: None)
    assert questions == ["Download 155.2 MB?"]
    told = capsys.readouterr().out
    assert "not here: cifar10 (train, test), 143.6 MB from " in told
    assert "licence: CC BY-SA 3.0" in told
    assert (files.data_dir() / "cifar10").is_dir() == answer
    assert bool(mirror.asked) == answer
    bringing.bring(wanted, benchmark, False, lambda _: None)


def test_evaluate_downloads(mirror: Publisher) -> None:
    results = oodbench.evaluate(
        HeadedBackbone(create_backbone("resnet20", 3), 10).eval(),
        "cifar10",
        ["msp"],
        ood="mnist",
        preprocess="benchmark",
        hardware=oodbench.Hardware(accelerator="cpu", batch_size=16),
        download=True,
    )
    assert results.rows[0]["ood"] == "mnist"


# data prepare


def test_a_dry_run_fetches_nothing(run: CLI, mirror: Publisher) -> None:
    ran = run("data", "prepare", "svhn", "imagenet", "cifar10/openood", "multiood", "--dry-run")
    assert ran.status == 0, ran.both
    for part in (
        "http://ufldl.stanford.edu/housenumbers/test_32x32.mat".replace("http://", ""),
        "64.3 MB; licence: non-commercial use",
        str(files.data_dir() / "svhn" / "test_32x32.mat"),
        "Make an account at https://image-net.org",
        "ILSVRC2012_img_val.tar",
        "cifar100",
        "multiood: ",
        "to fetch",
    ):
        assert part in ran.out, part
    assert mirror.asked == []
    assert not files.data_dir().exists()


def test_prepare(run: CLI, mirror: Publisher) -> None:
    ran = run("data", "prepare", "cifar10")
    assert ran.status == 0, ran.both
    assert "all sets of the benchmark: --benchmark cifar10" in ran.out
    assert "fetched: cifar10" in ran.out
    assert "here: 1 of 1 sets; nothing to fetch" in run("data", "prepare", "cifar10").out
    assert "name a dataset" in run.refuses("data", "prepare")
    assert "no such file" in run.refuses("data", "prepare", "svhn", "--from", "nowhere")
    assert "Did you mean 'svhn'" in run.refuses("data", "prepare", "shvn")


# data status


def test_status_of_a_benchmark(run: CLI, mirror: Publisher) -> None:
    assert run("data", "prepare", "cifar10", "mnist").status == 0
    first = run("data", "status", "cifar10")
    assert first.status == 0, first.both
    lines = first.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 24
    assert lines[0] == "benchmark cifar10: 5 of 10 splits are here"
    assert any(line.split()[:4] == ["ID", "cifar10", "train", "20"] for line in lines)
    assert any("svhn" in line and "not here, 64.3 MB to fetch" in line for line in lines)
    assert lines[-1].endswith("oodbench data prepare --benchmark cifar10")
    assert run("data", "status", "cifar10").out == first.out  # as it was remembered
    told = json.loads(run("data", "status", "cifar10", "--json").out)
    assert told["data"] == str(files.data_dir())
    by_name = {(one["name"], one["split"]): one for one in told["stocks"][0]["splits"]}
    assert by_name["cifar10", "test"]["count"] == 20
    assert by_name["svhn", "test"]["command"] == "oodbench data prepare svhn"
    assert by_name["svhn", "test"]["to_fetch"] == 64_275_384


def test_status_notices_what_changes(run: CLI) -> None:
    folder = files.data_dir() / "textures" / "test" / "dots"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(images_of(1, (8, 8, 3), number)[0]))
    assert " 3 " in run("data", "status", "textures").out
    (folder / "0.png").unlink()
    assert " 2 " in run("data", "status", "textures").out
    assert "dataset mnist: 0 of 2 splits" in run("data", "status", "mnist").out
    assert "Did you mean 'textures'" in run.refuses("data", "status", "texture")


def test_status_tells_of_another_content(run: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    from oodbench.data.content import content_fingerprint
    from oodbench.data.samples import ImageArrays
    from oodbench.registry import DATASETS

    samples = ImageArrays("three/test", images_of(3), np.zeros(3, int), ["a"])
    other = {"test": Content(3, "0" * 64)}
    spec = oodbench.DatasetSpec("three", lambda _: samples, contents=other)
    monkeypatch.setattr(DATASETS, "_objects", {"three": spec})
    out = run("data", "status", "three").out
    assert f"another: {content_fingerprint(samples)[:8]}, not 00000000" in out


# Archives, as their publishers pack them


PNG = [png(images_of(1, (16, 16, 3), seed)[0]) for seed in range(4)]
ARCHIVES = {
    "textures": (
        "/www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
        {f"dtd/images/{c}/{c}_{i}.png": PNG[i] for c in ("banded", "dotted") for i in range(2)},
        "w:gz",
        4,
    ),
    "places365": (
        "/data.csail.mit.edu/places/places365/val_256.tar",
        {f"val_256/Places365_val_{i:08}.png": PNG[i] for i in range(3)},
        "w",
        3,
    ),
    "lsun-c": (
        "/www.dropbox.com/s/fhtsw1m3qxlwj6h/LSUN.tar.gz",
        {f"LSUN/test/{i}.png": PNG[i] for i in range(2)},
        "w:gz",
        2,
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(run: CLI, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, members, mode, count = ARCHIVES[name]
    files.data_dir().mkdir()
    with publishing() as publisher:
        monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
        publisher.put(path, tarred(members, mode))
        if name == "lsun-c":  # of it no digest is known, but how many images it has
            refused = run.refuses("data", "prepare", name)
            assert "10,000 images expected, found 2" in refused
            spec = oodbench.registry.DATASETS.get(name)
            monkeypatch.setitem(spec.contents, "test", Content(count))  # type: ignore[arg-type]
        else:  # torchvision has its digest, which drawn images do not have
            assert "not the published file" in run.refuses("data", "prepare", name)
            monkeypatch.setattr("oodbench.download.transfer.difference", lambda *_: "")
        ran = run("data", "prepare", name)
        assert ran.status == 0, ran.both
    assert len(oodbench.registry.DATASETS.get(name).load("test")) == count


def test_imagenet_that_a_person_got(
    run: CLI, mirror: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two archives in the downloads folder, sorted into classes as the development kit says."""
    from scipy.io import savemat

    synsets = np.zeros(3, dtype=[(name, "O") for name in ("id", "wnid", "words", "gloss", "kids")])
    for number, (wnid, kids) in enumerate((("n01440764", 0), ("n02084071", 2), ("n04037443", 0))):
        synsets[number] = (number + 1, wnid, "words", "gloss", kids)
    kit = io.BytesIO()
    savemat(kit, {"synsets": synsets})
    base = "ILSVRC2012_devkit_t12/data"
    truth = f"{base}/ILSVRC2012_validation_ground_truth.txt"
    downloads = files.data_dir() / "downloads"
    downloads.mkdir(parents=True)
    images = {f"ILSVRC2012_val_{i + 1:08}.JPEG": PNG[i] for i in range(3)}
    (downloads / "ILSVRC2012_img_val.tar").write_bytes(tarred(images, "w"))
    (downloads / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(
        tarred({f"{base}/meta.mat": kit.getvalue(), truth: b"1\n3\n1\n"}, "w:gz")
    )
    words = ["eval", "--detector", "msp", "--id", "cifar10", "--ood", "imagenet", "--download"]
    words += network(tmp_path, 10)
    ran = run(*words)
    assert ran.status == 2
    assert "is not the published file: it has" in ran.err
    monkeypatch.setattr("oodbench.download.transfer.difference", lambda *_: "")
    ran = run(*words)
    assert ran.status == 0, ran.both
    found = oodbench.registry.DATASETS.get("imagenet").load("test")
    assert found.classes == ("n01440764", "n04037443")
    assert found.labels.tolist() == [0, 0, 1]
    assert len(list(downloads.iterdir())) == 2  # they are a person's


def test_a_benchmarks_own_images_of_a_set_are_asked_for_by_its_name() -> None:
    """MNIST by OpenOOD's list is not the MNIST that its name alone stands for."""
    whole, listed = get_benchmark("cifar10"), get_benchmark(benchmark="cifar10/openood")
    assert bringing.command(["mnist"], whole) == "oodbench data prepare mnist"
    wanted = "oodbench data prepare --benchmark cifar10/openood"
    assert bringing.command(["mnist"], listed) == wanted
    assert bringing.command(["ninco"], get_benchmark("imagenet1k")) == "oodbench data prepare ninco"
