"""Fitted detectors at work: saved and loaded, thresholds, new images, streams, export."""
