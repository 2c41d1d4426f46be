"""Writing to disk: whole or not at all, alone or beside others, and errors for people."""
