"""The zoo: networks by name, with where their weights are, and what made them.

An index is a JSON file; the weights are beside it, or at an address with their sha256. Nothing in
either is run: a method is one that is registered here, and weights are numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.seed import isolate_rng
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import oodbench
from oodbench import files
from oodbench.benchmark import get_benchmark
from oodbench.caching.fingerprint import weights_digest
from oodbench.data.transforms import Preprocess
from oodbench.download import transfer
from oodbench.download.described import RemoteFile
from oodbench.errors import CheckpointError, OODBenchError, UnknownNameError, did_you_mean
from oodbench.networks.door import single_precision
from oodbench.networks.headed import load_classifier
from oodbench.options import build
from oodbench.preprocessing import of_content
from oodbench.registry import METHODS
from oodbench.training.run import untrained

INDEX = "index.json"
"""The name of an index; the folder ``networks`` below one of leaderboards has it."""


@dataclass(frozen=True)
class Released:
    """A network of an index.

    Args:
        name: ``ID/BACKBONE/METHOD/SEED``.
        sha256: of the file of weights.
        weights: digest of the weights, as rows have it.
        method: how it was trained; ``"external"`` for one that oodbench did not train.
        backbone: the network's name.
        id: the ID set that it learned.
        classes: how many it tells apart.
        licence: of the weights, an SPDX expression or a sentence.
        seed: of its training; None if that is not known.
        recipe: the recipe's name; None where oodbench did not train it.
        recipe_options: the recipe's fields.
        benchmark: the one whose images it was trained on, for what it sees.
        preprocess: how images are made for it, by content; None for what the benchmark shows.
        file: of the weights, below the index's folder.
        url: where the weights are, if they are not beside the index.
        source: where it is from, for people.
        accuracy: on the ID test set; None if that was not measured.
        place: the folder of its index.
    """

    name: str
    sha256: str
    weights: str
    method: str
    backbone: str
    id: str
    classes: int
    licence: str
    seed: int | None = None
    recipe: str | None = None
    recipe_options: Mapping[str, Any] = field(default_factory=dict)
    benchmark: str | None = None
    preprocess: Mapping[str, Any] | None = None
    file: str | None = None
    url: str | None = None
    source: str = ""
    accuracy: float | None = None
    place: Path = field(default=Path(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """What stands in the index under its name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if name not in ("name", "place") and value not in (None, "", {})
        }

    @property
    def is_here(self) -> bool:
        """Whether the file of its weights lies beside the index."""
        return self.file is not None and (self.place / self.file).is_file()

    @property
    def path(self) -> Path:
        """The file of its weights on this machine; fetched if it is not here.

        Raises:
            CheckpointError: the file is not the one that the index names.
            OODBenchError: it is neither here nor can it be fetched.
        """
        beside = None if self.file is None else self.place / self.file
        if beside is not None and beside.is_file():
            if files.sha256(beside) != self.sha256:
                raise CheckpointError(
                    f"{beside} is not the file of the network {self.name}: its sha256 is another. "
                    "Restore the file."
                )
            return beside
        suffix = Path(self.url or str(self.file)).suffix
        kept = files.cache_dir() / "networks" / f"{self.sha256}{suffix}"
        if kept.is_file() and files.sha256(kept) == self.sha256:
            return kept
        if self.url is None:
            raise OODBenchError(
                f"the weights of {self.name} are not here. They are {self.file} in the folder "
                "leaderboards/networks of oodbench's repository: name that folder with OODBENCH_ZOO"
                "."
            )
        files.make_dir(files.writable_cache() / kept.parent.name)
        transfer.fetch(RemoteFile(self.url, kept.name, sha256=self.sha256), kept)
        return kept

    def load(self) -> nn.Module:
        """The network with its weights, which are those of the digest.

        Raises:
            CheckpointError: the weights do not fit, or are others.
            OODBenchError: they are not here and cannot be fetched, or nobody knows its method.
        """
        path = self.path
        with isolate_rng(), single_precision():
            network = self._trained_here(path) if self.recipe else self._given(path)
        if weights_digest(network) != self.weights:
            raise CheckpointError(f"the weights of {self.name} are not those that its index names.")
        return network.eval()

    @property
    def sees(self) -> Any:
        """How images are made for it."""
        own = of_content(self.preprocess)
        if own is None and self.benchmark is not None:
            return get_benchmark(benchmark=self.benchmark).preprocess
        return own

    def _trained_here(self, path: Path) -> nn.Module:
        kind = type(METHODS.get(self.method).get_recipe(self.recipe or ""))
        recipe = build(kind, f"recipe {self.recipe} of {self.method}", self.recipe_options)
        network = untrained(self.method, recipe, self.backbone, self.sees, self.classes)
        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path} does not fit {self.name}: {reason}.") from error
        return network

    def _given(self, path: Path) -> nn.Module:
        channels = self.sees.channels if isinstance(self.sees, Preprocess) else 3
        return load_classifier(self.backbone, path, self.classes, channels)[0]


def index(*folders: str | Path) -> dict[str, Released]:
    """The networks that are known here, by name.

    Those of oodbench's own index, of the folders in ``OODBENCH_ZOO``, and of the ones given, which
    go first. A folder has an ``index.json``, itself or in ``networks`` below it.

    Raises:
        OODBenchError: an index that is none.
    """
    by_name: dict[str, Released] = {}
    for path in _indices(folders):
        for name, network in read(path).items():
            by_name.setdefault(name, network)
    return by_name


def read(path: Path) -> dict[str, Released]:
    """The networks of an index.

    Raises:
        OODBenchError: it is none.
    """
    known = {f.name for f in fields(Released)} - {"name", "place"}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["networks"]
        networks = {
            name: Released(
                name=name, place=path.parent, **{k: v for k, v in about.items() if k in known}
            )
            for name, about in entries.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OODBenchError(f"{path} is no index of networks ({error}). Restore it.") from error
    for network in networks.values():
        if network.file is not None and not _is_below(network.file):
            raise OODBenchError(f"{path} names a file outside of its folder: {network.file!r}.")
    return networks


def write(path: Path, networks: Iterable[Released]) -> None:
    """Write an index, whole or not at all."""
    entries = {one.name: one.to_json() for one in sorted(networks, key=lambda one: one.name)}
    files.write_text(path, json.dumps({"format": 1, "networks": entries}, indent=1) + "\n")


def _is_below(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _indices(folders: Iterable[str | Path]) -> Iterator[Path]:
    given = [files.user_path(folder) for folder in folders]
    given += [files.user_path(p) for p in os.environ.get("OODBENCH_ZOO", "").split(os.pathsep) if p]
    for folder in given:
        for place in (folder / INDEX, folder / "networks" / INDEX):
            if place.is_file():
                yield place
    package = Path(oodbench.__file__).parent
    for place in (
        package.parent / "leaderboards" / "networks" / INDEX,  # of a checkout
        package / "networks" / INDEX,  # of what was built from one
    ):
        if place.is_file():
            yield place


def with_weights(weights: str, *folders: str | Path) -> Released | None:
    """The network whose weights have a digest, as a row names them; None if none is known."""
    return next((one for one in index(*folders).values() if one.weights == weights), None)


def named(name: str, *folders: str | Path) -> Released:
    """The network of a name.

    Raises:
        UnknownNameError: there is none; the nearest are named.
    """
    known = index(*folders)
    if name not in known:
        raise UnknownNameError(
            f"the zoo has no network {name!r}.{did_you_mean(name, known)} "
            "`oodbench list networks` shows them."
        )
    return known[name]


def load_network(name: str) -> nn.Module:
    """A network of the zoo: by a name such as ``"cifar10/resnet20/ce/seed0"``.

    Its weights come from beside the index, from the cache, or from their address, and are compared
    with their sha256. It knows how images are made for it: give it to :func:`oodbench.evaluate` or
    :func:`oodbench.fit` as it is.

    Args:
        name: as ``oodbench list networks`` has it.

    Raises:
        UnknownNameError: there is no such network; the nearest are named.
        CheckpointError: a file that is not the one of the index.
        OODBenchError: its weights are not here and cannot be fetched.
    """
    released = named(name)
    network = released.load()
    if isinstance(released.sees, Preprocess):
        network.own_preprocess = released.sees  # type: ignore[assignment]
    return network
