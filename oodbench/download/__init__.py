"""Downloads: files from their publishers into the data folder, whole and checked, or not at all."""
