"""The bucketline coordinator: planning, maps, state, and the HTTP service over them."""
