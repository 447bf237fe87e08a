"""What answers tell a browser of themselves. Other clients look at none of it."""

from __future__ import annotations

NOSNIFF = {"X-Content-Type-Options": "nosniff"}

DATA = {**NOSNIFF, "Cache-Control": "no-store"}
"""Of what the API answers: it is of this moment, for who asked, and no page."""


def page(*scripts: str) -> dict[str, str]:
    """Of a page of ours, which loads nothing from elsewhere and stands in no frame. ``scripts``: sources of scripts
    besides files of this server, as a policy has them."""
    policy = [
        "default-src 'none'",
        " ".join(["script-src 'self'", *scripts]),
        # plotly.js and Swagger UI set styles of their own, and draw pictures that are kept by way of blob and data
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
