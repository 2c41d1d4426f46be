"""The datasets and benchmarks: one file = one family."""

if __name__ != "oodbench.datasets":
    raise ImportError(
        f"this folder is the package 'oodbench.datasets', but it was imported as {__name__!r}: "
        "the current directory stands on sys.path before what you meant. "
        "Import oodbench.datasets, or start the script from another directory."
    )
