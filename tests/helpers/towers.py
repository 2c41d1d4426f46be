"""Small networks that read text: two towers trained on the digits, and tiny CLIPs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark import get_benchmark
from oodbench.networks.small_towers import SmallTowers
from oodbench.networks.towers import Towers

DIM, LETTERS = 32, 27
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


class ImagePart(nn.Module):
    """8x8 digits to embeddings, with those of the quarters of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.last = nn.Linear(64, DIM)

    def with_patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.conv(images).flatten(2).transpose(1, 2)  # [B, 4, 64]
        return self.last(maps.mean(dim=1)), self.last(maps)

    def forward(self, images: Tensor) -> Tensor:
        return self.with_patches(images)[0]


class TextPart(nn.Module):
    """Texts to embeddings, by their letters and pairs of letters."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(LETTERS * LETTERS, 64)
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(64, DIM))

    def forward(self, texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            code = [ord(c) % LETTERS for c in text.lower()]
            rows.append(torch.tensor([a * LETTERS + b for a, b in itertools.pairwise(code)]))
        starts = torch.tensor([0, *np.cumsum([len(r) for r in rows])[:-1]])
        out: Tensor = self.last(self.table(torch.cat(rows), starts))
        return out


@cache
def digit_towers() -> Towers:
    """Towers trained by contrast on the embedded digits 0 to 5 and their names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images, texts = ImagePart(), TextPart()
        _by_contrast(images, texts)
    shown = get_benchmark("digits").preprocess
    return Towers(images.eval(), texts.eval(), 20.0, texts.eval(), shown)


@cache
def trained_small_towers() -> SmallTowers:
    """The package's own small towers, trained in the same way."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        towers = SmallTowers(1)
        torch.manual_seed(0)
        _by_contrast(towers.images, towers.text_tower)
    return towers.eval()


def _by_contrast(images: nn.Module, texts: Any) -> None:
    """Train an image tower and a text tower on the digits and their names, in place."""
    benchmark = get_benchmark("digits")
    samples, shown = benchmark.id.load("train"), benchmark.preprocess
    x = torch.stack([shown(samples[i]) for i in range(len(samples))])
    y = torch.from_numpy(samples.labels)
    names = [f"a photo of a {name}" for name in samples.classes]
    optimizer = torch.optim.Adam([*images.parameters(), *texts.parameters()], lr=5e-3)
    for _ in range(25):
        for rows in torch.randperm(len(x)).split(128):
            e = nn.functional.normalize(images(x[rows]), dim=1)
            t = nn.functional.normalize(texts(names), dim=1)
            loss = nn.functional.cross_entropy(20 * e @ t.T, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def tiny_openclip(folder: Path) -> Any:
    """A registered architecture of OpenCLIP, tiny, and a file with random weights for it."""
    import open_clip

    (folder / "oodbench-tiny.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "oodbench-tiny.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model("oodbench-tiny")
    torch.save(model.state_dict(), folder / "tiny.pt")
    return model


def tiny_hugging_face(folder: Path) -> Any:
    """The folder of a CLIP of transformers', tiny, with random weights and a letters' tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>",
         "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    ))  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3,
         "do_center_crop": True, "do_resize": True, "do_normalize": True, "do_rescale": True,
         "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    ))  # fmt: skip
    end = len(words) - 1
    text = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24,
            "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 8}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    return model.eval()
