"""Towers of OpenCLIP and of Hugging Face's CLIP, by name or from weights on this machine.

The embedding of a patch is what the last block makes of its value alone, without attention to other
patches, put through the same normalisation and projection as the whole image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.data.transforms import Preprocess
from oodbench.errors import CheckpointError, OODBenchError, OptionError, did_you_mean
from oodbench.networks.checkpoints import read_checkpoint
from oodbench.networks.inputs import processor_of
from oodbench.networks.towers import Towers

PREFIX = "openclip/"
INSTALL = "pip install 'oodbench[clip]'"


def openclip(name: str, checkpoint: str | Path | None = None, weightless: bool = False) -> Towers:
    """Towers of OpenCLIP.

    Args:
        name: ``"openclip/ViT-B-16/openai"``: the architecture and the tag of its weights.
        checkpoint: a file with weights for the architecture instead.
        weightless: whether a name without a tag, and no file, gives random weights, for those that
            are loaded later.

    Raises:
        OptionError: no such architecture or tag; the nearest are named.
        CheckpointError: the file does not fit.
        OODBenchError: OpenCLIP is not installed, or the weights cannot be fetched.
    """
    try:
        import open_clip
    except ImportError as error:
        raise OODBenchError(f"{name} needs OpenCLIP: {INSTALL}.") from error
    architecture, _, tag = name.removeprefix(PREFIX).partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        guess = did_you_mean(architecture, known)
        raise OptionError(f"OpenCLIP has no architecture {architecture!r}.{guess}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    is_bare = weightless and checkpoint is None and not tag
    if checkpoint is None and tag not in tags and not is_bare:
        raise OptionError(
            f"name the weights of {architecture}: {PREFIX}{architecture}/TAG, with TAG one of "
            f"{', '.join(tags) or 'none'}; or give a file: `checkpoint=FILE`."
        )
    try:
        fetched = tag if checkpoint is None and not is_bare else None
        with torch.random.fork_rng(devices=[]):
            model: Any = open_clip.create_model(
                architecture,
                pretrained=fetched,
                # OpenCLIP only warns where weights were trained with another activation
                force_quick_gelu=_is_quick(open_clip, architecture, fetched),
            )
    except Exception as error:  # what a hub client raises is no one's to list
        raise OODBenchError(
            f"the weights of {name} cannot be fetched ({_line(error)}). Fetch them where they can "
            "be reached and give the file: `checkpoint=FILE`."
        ) from error
    if checkpoint is not None:
        state, _ = read_checkpoint(checkpoint)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint} does not fit OpenCLIP's {architecture} ({_line(error)})."
            ) from error
    towers = of_openclip(model, open_clip.get_tokenizer(architecture))
    towers.weightless = is_bare
    return towers


def _is_quick(open_clip: Any, architecture: str, tag: str | None) -> bool:
    """Whether published weights are of a network with QuickGELU, as OpenAI's are."""
    if tag is None:  # a file says nothing of it: there the architecture's name does, by -quickgelu
        return False
    return bool((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("quick_gelu", False))


def of_openclip(model: Any, tokenizer: Any) -> Towers:
    """Towers of a model that OpenCLIP made.

    Args:
        model: ``open_clip.create_model(...)``.
        tokenizer: ``open_clip.get_tokenizer(...)``.

    Raises:
        OptionError: it sees images in a way that oodbench has not.
    """
    import open_clip

    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1 or config.get("resize_mode", "shortest") not in ("shortest", "squash"):
        raise OptionError(f"the image tower sees images in a way that oodbench has not: {config}.")
    side = sides.pop()
    shown = Preprocess(
        side,
        tuple(config["mean"]),
        tuple(config["std"]),
        resize="crop" if config.get("resize_mode", "shortest") == "shortest" else "stretch",
        pre_size=side,
        interpolation=config["interpolation"],
    )
    model = model.eval().requires_grad_(False)
    texts = OpenCLIPTexts(model, tokenizer)
    images, scale = OpenCLIPImages(model.visual), model.logit_scale.exp().item()
    layer = getattr(getattr(model, "text", model), "token_embedding", None)
    return Towers(images, texts, scale, model, shown, layer)


class OpenCLIPTexts:
    """What OpenCLIP's text tower says of texts; copied with the model that it runs.

    Args:
        model: the whole model.
        tokenizer: of its architecture.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[M, D]``."""
        tokens = self.tokenizer(list(texts)).to(self.model.logit_scale.device)
        embeddings: Tensor = self.model.encode_text(tokens)
        return embeddings


class OpenCLIPImages(nn.Module):
    """OpenCLIP's image tower, with the embeddings of patches where it is its vision transformer.

    Args:
        visual: the model's ``visual``.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``[B, D]``."""
        embeddings: Tensor = self.visual(images)
        return embeddings

    def with_patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of whole images ``[B, D]`` and of their patches ``[B, P, D]``.

        Raises:
            OptionError: it is no vision transformer of OpenCLIP's own.
        """
        tower: Any = self.visual
        try:
            block = tower.transformer.resblocks[-1]
            attention, size = block.attn, block.attn.embed_dim
            weight, bias = attention.in_proj_weight, attention.in_proj_bias
            ends = tower.ln_post, tower.proj
        except AttributeError as error:
            raise OptionError(
                f"the {type(tower).__name__} gives no embeddings of patches: it is no vision "
                "transformer of OpenCLIP's own. Choose one, such as ViT-B-16."
            ) from error
        whole, x = _with_input(block, lambda: self(images))
        if not getattr(tower.transformer, "batch_first", True):
            x = x.transpose(0, 1)
        x = x[:, 1:]  # without the class token
        value = F.linear(
            block.ln_1(x), weight[2 * size :], None if bias is None else bias[2 * size :]
        )
        v = x + block.ls_1(attention.out_proj(value))
        v = v + block.ls_2(block.mlp(block.ln_2(v)))
        patches = ends[0](v)
        return whole, patches if ends[1] is None else patches @ ends[1]


class HuggingFaceTexts:
    """What the text tower of Hugging Face's CLIP says; copied with the model that it runs.

    Args:
        model: a ``transformers.CLIPModel``.
        tokenizer: its own.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.most = model.config.text_config.max_position_embeddings

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[M, D]``."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.most,
            return_tensors="pt",
        ).to(self.model.logit_scale.device)  # fmt: skip
        said = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        embeddings: Tensor = self.model.text_projection(said.pooler_output)
        return embeddings


class HuggingFaceImages(nn.Module):
    """The image tower of Hugging Face's CLIP.

    Args:
        model: a ``transformers.CLIPModel``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision: Any = model.vision_model
        self.projection: Any = model.visual_projection

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``[B, D]``."""
        embeddings: Tensor = self.projection(self.vision(pixel_values=images).pooler_output)
        return embeddings

    def with_patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of whole images ``[B, D]`` and of their patches ``[B, P, D]``."""
        layer = self.vision.encoder.layers[-1]
        whole, x = _with_input(layer, lambda: self(images))
        x = x[:, 1:]
        v = x + layer.self_attn.out_proj(layer.self_attn.v_proj(layer.layer_norm1(x)))
        v = v + layer.mlp(layer.layer_norm2(v))
        return whole, self.projection(self.vision.post_layernorm(v))


def _with_input(block: nn.Module, run: Any) -> tuple[Tensor, Tensor]:
    """What a run gives, and what a block was given meanwhile."""
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)))

    handle = block.register_forward_pre_hook(note, with_kwargs=True)
    try:
        return run(), seen[-1]
    finally:
        handle.remove()


def is_clip(name: str) -> bool:
    """Whether a folder, or a name of Hugging Face's hub, holds a CLIP."""
    from transformers import AutoConfig

    try:
        return bool(AutoConfig.from_pretrained(name).model_type == "clip")
    except (OSError, ValueError):  # whoever loads it says what is wrong
        return False


def hugging_face(name: str) -> Towers:
    """Towers of a CLIP of Hugging Face's.

    Args:
        name: a folder, or a name of the hub.

    Raises:
        OODBenchError: it cannot be loaded.
    """
    from transformers import AutoTokenizer, CLIPModel

    try:
        model: Any = CLIPModel.from_pretrained(name)
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OODBenchError(
            f"cannot load the CLIP {name} of Hugging Face's ({_line(error)})."
        ) from error
    model.eval().requires_grad_(False)
    processor = processor_of(name)
    shown = None if processor is None else Preprocess(**processor.parts)
    images, scale = HuggingFaceImages(model), model.logit_scale.exp().item()
    layer = model.text_model.embeddings.token_embedding
    texts = HuggingFaceTexts(model, tokenizer)
    return Towers(images, texts, scale, model, shown, layer)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
