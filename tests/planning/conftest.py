"""No deadline for Hypothesis's examples, since a busy machine is no failure; and 20 of them, since the properties of
planning are many. ``BUCKETLINE_TEST_EXAMPLES`` asks for more."""

from __future__ import annotations

import os

from hypothesis import settings

NUM_EXAMPLES = int(os.environ.get("BUCKETLINE_TEST_EXAMPLES", "20"))

settings.register_profile("planning", deadline=None, max_examples=NUM_EXAMPLES)
settings.load_profile("planning")
