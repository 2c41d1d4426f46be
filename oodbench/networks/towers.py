"""Networks that read text: an image tower and a text tower, and the classifier that names make.

The classes' names are put into prompts ("a photo of a {}"), whose embeddings are the classifier:
logits are scaled cosines to them. The image tower is frozen and is a network's ``trunk``, so that
other names or prompts cost no pass over the images. Towers of OpenCLIP and of Hugging Face's CLIP
are made in :mod:`oodbench.networks.clip`; any other pair is a :class:`Towers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodbench import files
from oodbench.caching.fingerprint import weights_digest
from oodbench.data.transforms import Preprocess
from oodbench.errors import DataError, MissingOutputError, OptionError
from oodbench.outputs import Head
from oodbench.text import Text

PROMPT = "a photo of a {}"
"""The prompt of a class where none is asked for."""
ADJECTIVE_PROMPT = "This is a {} photo"
"""The prompt of an adjective in a list of words."""
NOUNS, ADJECTIVES = 0, 1
GROUPS = {"noun": NOUNS, "adjective": ADJECTIVES}
VERSION = 1
"""Part of the key of cached embeddings; raised when the same texts would give others."""


class Towers(nn.Module):
    """An image tower and a text tower with one space of embeddings.

    Args:
        images: images ``[B, C, H, W]`` to embeddings ``[B, D]``; where it has a method
            ``with_patches(images)``, that gives those of the patches ``[B, P, D]`` as well.
        texts: a list of texts to embeddings ``[M, D]``.
        scale: what cosines are multiplied by to be logits.
        text_tower: the module that ``texts`` runs, by which embeddings are cached; None to compute
            them each time.
        own_preprocess: what the image tower was trained to see.
        tokens: the layer of ``text_tower`` that gives the tokens' vectors, ``[M, L]`` to
            ``[M, L, W]``, for prompts with learned vectors; None where there is none such.
        before: how many tokens stand before a text's first word (CLIP's start of text).
    """

    weightless = False
    """Whether the weights are random, as no one gave any: for weights that are loaded later."""

    def __init__(
        self,
        images: nn.Module,
        texts: Callable[[Sequence[str]], Tensor],
        scale: float = 100.0,
        text_tower: nn.Module | None = None,
        own_preprocess: Preprocess | None = None,
        tokens: nn.Embedding | None = None,
        before: int = 1,
    ) -> None:
        super().__init__()
        self.images = images
        self.text_tower = text_tower
        self.scale = float(scale)
        self.own_preprocess = own_preprocess
        self.before = before
        # in a tuple, as they are parts of the text tower, which has their weights already
        self._parts = texts, tokens
        if text_tower is None and isinstance(texts, nn.Module):
            self.add_module("texts", texts)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``[B, D]`` of images."""
        embeddings: Tensor = self.images(images)
        return embeddings

    @torch.no_grad()
    def embed(self, texts: Sequence[str], at_once: int = 256) -> Tensor:
        """Unit embeddings ``[M, D]`` float32 of texts, on the CPU."""
        if self.text_tower is not None:
            self.text_tower.eval()
        parts = [
            unit(self._parts[0](list(texts[start : start + at_once])).float().cpu())
            for start in range(0, len(texts), at_once)
        ]
        return torch.cat(parts)

    @property
    def tokens(self) -> nn.Embedding:
        """The layer that gives the tokens' vectors.

        Raises:
            OptionError: the text tower has none that is known.
        """
        found = self._parts[1]
        if found is None:
            raise OptionError(
                "the text tower does not say which layer gives its tokens' vectors, so there are "
                "none to learn. Give it: Towers(..., tokens=layer), an nn.Embedding."
            )
        return found

    def with_context(self, context: Tensor, names: Sequence[str]) -> Tensor:
        """Unit embeddings ``[C, D]`` of prompts that begin with vectors in the place of words.

        A prompt is the vectors, the name and a full stop. Gradients reach the context.

        Args:
            context: ``[n, W]`` for all names, or ``[C, n, W]`` for each.
            names: of the classes.

        Raises:
            OptionError: the text tower has no layer of tokens that is known, or reads no more
                tokens than there are vectors.
        """
        count, start = context.shape[-2], self.before
        shared = context if context.ndim == 3 else context.expand(len(names), *context.shape)

        def put(_: nn.Module, __: Any, vectors: Tensor) -> Tensor:
            if vectors.shape[1] <= start + count:
                raise OptionError(
                    f"the text tower reads {vectors.shape[1]} tokens: {count} vectors leave no "
                    "room for a name behind them. Take fewer."
                )
            ends = vectors[:, :start], vectors[:, start + count :]
            return torch.cat([ends[0], shared.to(vectors), ends[1]], dim=1)

        handle = self.tokens.register_forward_hook(put)
        try:
            embeddings = self._parts[0]([" ".join([*"X" * count, f"{name}."]) for name in names])
        finally:
            handle.remove()
        return unit(embeddings.float())

    def prompted(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit embeddings ``[C, D]`` of names: of each, the mean of its prompts', normalised.

        They are cached by content: the texts and the weights of the text tower.
        """
        key = None
        if self.text_tower is not None:
            about = {"version": VERSION, "names": list(names), "templates": list(templates)}
            key = files.digest({**about, "tower": weights_digest(self.text_tower)})
        known = None if key is None else _cached(key)
        if known is not None:
            return known
        mean = torch.stack(
            [self.embed([template.format(name) for name in names]) for template in templates]
        ).mean(dim=0)
        made = unit(mean)
        if key is not None:
            _cache(key, made)
        return made


def unit(vectors: Tensor) -> Tensor:
    """Rows of ``[N, D]`` (or ``[N, P, D]``) over their L2 norm."""
    normalised: Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return normalised


def _place(key: str) -> Path:
    return files.cache_dir() / "text" / f"{key}.safetensors"


def _cached(key: str) -> Tensor | None:
    from safetensors.torch import load_file

    found: Tensor | None = None
    with contextlib.suppress(Exception):  # damaged or not there: it is made again
        found = load_file(_place(key))["text"]
    return found


def _cache(key: str, embeddings: Tensor) -> None:
    from safetensors.torch import save

    files.writable_cache()
    files.make_dir(_place(key).parent)
    files.write_bytes(_place(key), save({"text": embeddings.contiguous()}))


class ImageTower(nn.Module):
    """The image tower alone, as a network: unit embeddings, and those of patches if asked for.

    Args:
        images: see :class:`Towers`.
        patches: whether ``outputs`` has ``patches [B, P, D]`` beside ``features [B, D]``: they are
            many, so they are given where a detector reads them.

    Raises:
        OptionError: there are patches to give, and the tower gives none.
    """

    def __init__(self, images: nn.Module, patches: bool = False) -> None:
        super().__init__()
        if patches and not hasattr(images, "with_patches"):
            raise OptionError(
                f"the image tower {type(images).__name__} gives no embeddings of patches. Give it "
                "with_patches(images), or choose a vision transformer."
            )
        self.images = images
        self.patches = patches

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """``features [B, D]``, and ``patches [B, P, D]``, all unit vectors."""
        if not self.patches:
            return {"features": unit(self.images(images).float())}
        tower: Any = self.images
        whole, patches = tower.with_patches(images)
        return {"features": unit(whole.float()), "patches": unit(patches.float())}

    def head(self) -> Head | None:
        """None: the classes are not known here."""
        return None

    def forward(self, images: Tensor) -> Tensor:
        """Unit embeddings ``[B, D]``."""
        return self.outputs(images)["features"]


class ZeroShot(nn.Module):
    """A classifier that the names of the classes make of two towers, without training.

    Args:
        towers: the towers.
        names: of the classes; an underscore is a space.
        templates: prompts, with ``{}`` for the name; of several, embeddings are averaged.
        words: further words and the group of each (:func:`read_words`), for detectors that compare
            classes with them; nouns have the classes' prompts, adjectives ``ADJECTIVE_PROMPT``.
        patches: see :class:`ImageTower`.
    """

    classes: Tensor
    words: Tensor | None
    groups: Tensor | None

    def __init__(
        self,
        towers: Towers,
        names: Sequence[str],
        templates: Sequence[str] = (PROMPT,),
        words: tuple[Sequence[str], Sequence[int]] | None = None,
        patches: bool = False,
    ) -> None:
        super().__init__()
        check_templates(templates)
        self.trunk = ImageTower(towers.images, patches)
        self.scale = towers.scale
        self.input = towers.own_preprocess
        self.register_buffer("classes", towers.prompted(spaced(names), templates))
        listed = None if words is None else torch.tensor(list(words[1]), dtype=torch.int64)
        embedded = None
        if words is not None and listed is not None:
            embedded = torch.zeros(len(listed), self.classes.shape[1])
            for group, prompts in ((NOUNS, templates), (ADJECTIVES, (ADJECTIVE_PROMPT,))):
                rows = (listed == group).nonzero().flatten()
                if len(rows):
                    its_own = [words[0][row] for row in rows.tolist()]
                    embedded[rows] = towers.prompted(spaced(its_own), prompts)
        self.register_buffer("words", embedded)
        self.register_buffer("groups", listed)

    @property
    def own_preprocess(self) -> Preprocess | None:
        """What the image tower was trained to see."""
        return self.input

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the image tower gives, and ``logits [B, C]``: the scale times the cosines."""
        columns = self.trunk.outputs(images)
        return {**columns, "logits": self.head()(columns["features"])}

    def head(self) -> Head:
        """The layer that the classes' prompts make, with the embeddings as its ``text``."""
        text = Text(self.classes, self.scale, self.words, self.groups)
        return Head(self.scale * self.classes, text=text)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        return self.outputs(images)["logits"]


def spaced(names: Sequence[str]) -> list[str]:
    """Names as they stand in prompts."""
    return [name.replace("_", " ") for name in names]


def check_templates(templates: Sequence[str]) -> None:
    """Check that each prompt has one place for the name.

    Raises:
        OptionError: names the first that has not.
    """
    if not templates:
        raise OptionError("`prompts` has no prompt. Give one: 'a photo of a {}'.")
    for template in templates:
        if template.count("{}") != 1 or set(template.replace("{}", "")) & {"{", "}"}:
            raise OptionError(
                f"the prompt {template!r} must have {{}} once, where the class's name stands: "
                "'a photo of a {}'."
            )


def templates_of(prompts: str | None) -> tuple[str, ...]:
    """Prompts by what people write.

    Args:
        prompts: one, or several with ``|`` between; a file with one in each line; ``"openai"`` for
            the 80 of CLIP's authors for ImageNet, ``"openai-simple"`` for their seven best.

    Raises:
        OptionError: a prompt without a place for the name.
        MissingOutputError: the package that has the ensembles is not installed.
    """
    if prompts is None:
        return (PROMPT,)
    if prompts in ("openai", "openai-simple"):
        try:
            from open_clip import zero_shot_metadata as known
        except ImportError as error:
            raise MissingOutputError(
                f"the prompts {prompts!r} come with OpenCLIP: pip install 'oodbench[clip]'."
            ) from error
        which = "OPENAI" if prompts == "openai" else "SIMPLE"
        return tuple(make("{}") for make in vars(known)[f"{which}_IMAGENET_TEMPLATES"])
    path = files.user_path(prompts) if "{}" not in prompts else None
    if path is not None and path.is_file():
        found = tuple(_lines(path))
    else:
        found = tuple(part.strip() for part in prompts.split("|"))
    check_templates(found)
    return found


def read_names(path: str | Path, classes: int) -> list[str]:
    """Names of the classes from a file, one in each line, in the order of the labels.

    Raises:
        DataError: another number of names than of classes.
    """
    names = _lines(files.user_path(path))
    if classes and len(names) != classes:
        raise DataError(f"{path} has {len(names)} names; the ID set has {classes} classes.")
    return names


def read_words(path: str | Path) -> tuple[list[str], list[int]]:
    """Words and the group of each, from a file with one in each line.

    Behind a tabulator stands ``noun`` or ``adjective``; a word alone is a noun. Empty lines and
    those that begin with # are passed over.

    Raises:
        DataError: a group that is neither, or no words.
    """
    words, groups = [], []
    for line in _lines(files.user_path(path)):
        word, _, group = line.partition("\t")
        if (group.strip() or "noun") not in GROUPS:
            raise DataError(
                f"{path}: the word {word!r} is of the group {group.strip()!r}; the groups are "
                f"{' and '.join(GROUPS)}."
            )
        words.append(word.strip())
        groups.append(GROUPS[group.strip() or "noun"])
    if not words:
        raise DataError(f"{path} has no words. Write one in each line.")
    return words, groups


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}).") from error
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line.strip() and not line.startswith("#")]
