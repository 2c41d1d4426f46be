"""Options in messages: their Python names between backticks, which the command line spells its way.

``(`lr`)`` becomes ``(--lr)`` there, and ```id="cifar10"` `` becomes ``--id cifar10``.
"""

from __future__ import annotations

import re

from oodbench import settings

_DEPLOYED = (
    "calibration",
    "every",
    "format",
    "false_alarms",
    "fdr",
    "fpr_budget",
    "out",
    "replace",
    "tpr",
)
"""Arguments of ``oodbench.fit`` and of what works with its result, which are options of commands
by the same names."""

_SUBMITTED = ("base", "challenges", "first", "higher", "scores")
"""The same of submissions, and of scores that other code gave."""

FLAGS = {
    **settings.flags(),
    "brought": "--from",  # of oodbench.prepare
    **{name: f"--{name.replace('_', '-')}" for name in (*_DEPLOYED, *_SUBMITTED)},
}
"""Options by their names in Python."""


def as_flags(message: str) -> str:
    """The message with the options of the command line; other words between backticks stay."""
    return re.sub(r"`([a-z_]+)(?:=([^`]*))?`", _flag, message)


def _flag(spoken: re.Match[str]) -> str:
    name, value = spoken.groups()
    if name not in FLAGS:
        return spoken[0]
    return FLAGS[name] if value is None else f"{FLAGS[name]} {value.strip(chr(34))}"
