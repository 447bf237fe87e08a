"""Plans on disk: built once, kept under their fingerprint, memory-mapped."""
