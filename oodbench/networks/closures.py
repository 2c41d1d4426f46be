"""Functions in a copy of a network that refer to the copy, not to what was copied.

``copy.deepcopy`` leaves functions as they are. So a hook that was written in a module's method
stores what it sees in the module that was copied, and the copy reads what was there before.
"""

from __future__ import annotations

import types
from typing import Any


class Closures:
    """Functions of a network, made anew with cells of their own for a copy of it."""

    def __init__(self) -> None:
        self._cells: list[tuple[types.CellType, Any]] = []

    def add(self, function: types.FunctionType, memo: dict[int, Any]) -> None:
        """Have a memo for ``copy.deepcopy`` give another function with the same code."""
        if id(function) in memo or not function.__closure__:
            return
        closure = tuple(types.CellType() for _ in function.__closure__)
        other = types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            closure,
        )
        other.__kwdefaults__, other.__qualname__ = function.__kwdefaults__, function.__qualname__
        other.__module__, other.__doc__ = function.__module__, function.__doc__
        other.__dict__.update(function.__dict__)
        memo[id(function)] = other
        for cell, cell_of_original in zip(closure, function.__closure__, strict=True):
            try:
                content = cell_of_original.cell_contents
            except ValueError:  # nothing was assigned to it
                continue
            self._cells.append((cell, content))
            if isinstance(content, types.FunctionType):
                self.add(content, memo)

    def fill(self, memo: dict[int, Any]) -> None:
        """Once all is copied: what was the network's is the copy's, all else what it is."""
        for cell, content in self._cells:
            if isinstance(content, types.MethodType) and id(content.__self__) in memo:
                cell.cell_contents = types.MethodType(content.__func__, memo[id(content.__self__)])
            else:
                cell.cell_contents = memo.get(id(content), content)
