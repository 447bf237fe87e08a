"""The cursor store in one SQLite file."""
