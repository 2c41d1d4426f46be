"""What is scored: whole samples, pixels, predicted boxes; one file per task."""
