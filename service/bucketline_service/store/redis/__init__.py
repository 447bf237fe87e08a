"""The cursor store in Redis or Valkey."""
