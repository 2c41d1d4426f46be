"""The detectors and training methods: one file = one method of the literature, whole."""
