"""Reading data: samples of one split, and what becomes of them before a network sees them."""
