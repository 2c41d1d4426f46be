"""Training runs: what one is, what it sees, and what is kept of it."""
