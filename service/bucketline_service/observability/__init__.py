"""What the service says of itself: metrics, traces, logs and the event log."""
