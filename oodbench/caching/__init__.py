"""What a network's outputs are cached by (content, never names), and the arrays on disk."""
