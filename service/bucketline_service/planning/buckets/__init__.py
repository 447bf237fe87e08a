"""Which buckets a run has, and which of them each image comes to."""
