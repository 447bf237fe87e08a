"""Response headers for browsers. Other clients ignore them."""

from __future__ import annotations

NOSNIFF = {"X-Content-Type-Options": "nosniff"}

DATA = {**NOSNIFF, "Cache-Control": "no-store"}
"""For responses of the API: they are not cached, and not rendered as pages."""


def page(*scripts: str) -> dict[str, str]:
    """For pages of this server, which load nothing from other sites and must not be framed. ``scripts``: allowed
    sources of scripts besides this server's files, in the syntax of a content security policy."""
    policy = [
        "default-src 'none'",
        " ".join(["script-src 'self'", *scripts]),
        # plotly.js and Swagger UI use inline styles, and save pictures through blob: and data: URLs
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return {
        **NOSNIFF,
        "Content-Security-Policy": "; ".join(policy),
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
    }
