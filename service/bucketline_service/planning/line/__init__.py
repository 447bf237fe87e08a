"""The ``line`` planner: an epoch's order by arithmetic alone, found at any position without state."""
