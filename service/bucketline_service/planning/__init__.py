"""Pure functions from arrays to arrays: no clock, no environment, no I/O (docs/concepts/mathematics.md)."""
