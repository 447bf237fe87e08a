"""Floor 1, planning: pure functions from arrays to arrays. No clock, no environment, no I/O (docs/planning.md)."""
