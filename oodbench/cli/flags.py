"""Options in messages: their Python names between backticks, which the command line spells its way.

``(`lr`)`` becomes ``(--lr)`` there, and ```id="cifar10"` `` becomes ``--id cifar10``.
"""

from __future__ import annotations

import re

NAMES = frozenset(
    "accelerator backbone batch_size benchmark checkpoint detector devices epochs id leaderboards "
    "lr mean method modality ood pictures plot precision preset recipe retrain seed std strategy "
    "task tune workers".split()
)
"""Options that are called the same in both places."""

OTHERS = {"recipe_options": "recipe-set"}
"""Those that the command line calls otherwise, by their names in Python."""


def as_flags(message: str) -> str:
    """The message with the options of the command line; other words between backticks stay."""
    return re.sub(r"`([a-z_]+)(?:=([^`]*))?`", _flag, message)


def _flag(found: re.Match[str]) -> str:
    name, value = found.groups()
    if name not in NAMES and name not in OTHERS:
        return found[0]
    flag = f"--{OTHERS.get(name, name).replace('_', '-')}"
    return flag if value is None else f"{flag} {value.strip(chr(34))}"
