"""What makes figures doubtful that can be computed all the same."""
