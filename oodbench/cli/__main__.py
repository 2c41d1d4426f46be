"""``python -m oodbench.cli``."""

from oodbench.cli import main

main()
