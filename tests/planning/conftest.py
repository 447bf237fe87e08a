"""No deadline for Hypothesis's examples: a busy machine is not a failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("planning", deadline=None)
settings.load_profile("planning")
