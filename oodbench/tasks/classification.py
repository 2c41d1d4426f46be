"""Classification: whole images are scored, by networks that give each one of the ID classes."""

from __future__ import annotations

from dataclasses import dataclass

from oodbench.registry import register_task
from oodbench.tasks.task import Task


@register_task("classification")
@dataclass(frozen=True)
class Classification(Task):
    """Whole images are scored, each as one sample."""
