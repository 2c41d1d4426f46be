"""The process and the machine: what is put back as it was, interruptions, workers, launchers."""
