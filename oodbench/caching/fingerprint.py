"""What a network and its outputs are made of, as a digest: the key of the cache.

The key is content, never a name: weights, structure, settings, hooks and code of the network, the
images and labels, the preprocessing. A different checkpoint of the same class never meets a stale
cache.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from oodbench import files
from oodbench.caching.description import Description, describe
from oodbench.caching.values import tensor_text
from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform, content_key
from oodbench.networks.door import called
from oodbench.networks.models import digest_of

VERSION = 2
"""Part of every key; raised when the same network and data would give other outputs."""


def weights_digest(network: nn.Module) -> str:
    """Hex sha256 over all parameters and buffers (names, types, shapes, values) of a network.

    Of a network that has none, of all that it is made of; see :func:`unknown`.
    """
    whole = hashlib.sha256()
    if (own := digest_of(network)) is not None:
        return hashlib.sha256(f"digest {own}".encode()).hexdigest()
    # state_dict() leaves out the buffers that are not saved, such as a normalisation's mean
    values = {**dict(network.named_buffers()), **network.state_dict()}
    for name, value in sorted(values.items()):
        if isinstance(value, Tensor):
            whole.update(f"{name} {tensor_text(value)}\n".encode())
        elif value is not None:  # packed weights of a quantized layer, or a state of its own kind
            whole.update(f"{name} {describe(value).digest}\n".encode())
    return whole.hexdigest() if values else describe(network).digest


def code_digest(cls: type) -> str:
    """Hex sha256 over the code of a class and of its bases that are no library's."""
    return describe(cls, frameworks=False).digest


def unknown(network: nn.Module, about: Description | None = None) -> str | None:
    """Why a network's weights cannot be told, as a sentence; None if they can.

    It holds something that Python cannot read (a session of another runtime, a client, a handle,
    a TorchScript module), or nothing at all that a user's code could compute its outputs from.
    """
    if digest_of(network) is not None:
        return None
    about = about or describe(network)
    name = called(network)
    if about.opaque:
        listed = ", ".join(about.opaque[:3]) + (" …" if len(about.opaque) > 3 else "")
        reason = f"{name} holds or uses what cannot be read from here ({listed})"
    elif about.is_users and not about.has_arrays:
        reason = f"{name} has no parameters, buffers or other arrays that could be read"
    else:
        return None
    return (
        f"the weights of {name} are unknown: {reason}. What it says is not cached, and its rows "
        "say that their weights are unknown, unless `digest` tells them."
    )


def unknown_weights(said: str) -> str:
    """What a row says of weights that cannot be told: that, and a digest of the outputs.

    So the rows of two such networks are not taken for one's.
    """
    return f"unknown:{said[:24]}"


def cache_key(
    network: nn.Module,
    samples: Samples,
    preprocess: Transform,
    numbers: str,
    about: Description | None = None,
) -> str | None:
    """Hex digest of all that determines the outputs; None if that cannot be told.

    Args:
        network: its weights and what it is made of.
        samples: images and labels.
        preprocess: by its content key; see ``transforms.content_key``.
        numbers: of the forward pass; see ``Hardware.numbers``.
        about: the network's description, where it is at hand.
    """
    transform = content_key(preprocess)
    about = about or describe(network)
    if transform is None or unknown(network, about) is not None:
        return None
    return files.digest(
        {
            "version": VERSION,
            "weights": weights_digest(network),
            # what cannot be read may be described otherwise in another process
            "description": about.digest if digest_of(network) is None else called(network),
            "samples": samples.fingerprint,
            "transform": transform,
            "precision": [
                numbers,
                torch.get_float32_matmul_precision(),
                str(torch.get_default_dtype()),
            ],
        }
    )
