"""The paper that something comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """Where a method comes from; ``oodbench info`` and the leaderboard read it.

    Args:
        title: as published.
        authors: as cited in BibTeX.
        venue: ``"ICLR"``.
        year: of publication.
        url: paper or arXiv page.
        formula: the score or the loss in one line of plain text.
        figures: published figures, one line each, with the protocol they hold for.
    """

    title: str
    authors: str
    venue: str
    year: int
    url: str
    formula: str = ""
    figures: tuple[str, ...] = ()

    def bibtex(self, key: str) -> str:
        """The paper as a BibTeX entry."""
        return (
            f"@inproceedings{{{key},\n  title = {{{self.title}}},\n"
            f"  author = {{{self.authors}}},\n"
            f"  booktitle = {{{self.venue}}},\n  year = {{{self.year}}},\n"
            f"  url = {{{self.url}}}\n}}"
        )
