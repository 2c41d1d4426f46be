"""Networks: those that are known by name, those that are given, and what is read off them."""
