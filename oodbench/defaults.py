"""The two plug-ins that are taken where none is named, and so the only ones that the core names."""

STANDARD_METHOD = "ce"
"""The training method that detectors name which were designed for any classifier."""

STANDARD_DETECTOR = "msp"
"""The detector that is scored where nothing else is asked for: the field's baseline."""
