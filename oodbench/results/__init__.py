"""Result rows, the store that keeps them, and the pages, tables and plots that show them."""
