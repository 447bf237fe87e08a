"""``/docs`` and ``/openapi.json``. Unlike FastAPI's own page this one loads all its files from this server, by relative
paths that also work behind a proxy, and allows its inline script by a content security policy."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from bucketline_service.http.browser_headers import NOSNIFF, page
from bucketline_service.http.responses import as_json

_ASSETS = "docs-assets"
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class _Assets(StaticFiles):
    def file_response(self, *arguments: Any, **named: Any) -> Response:
        response = super().file_response(*arguments, **named)
        response.headers.update(NOSNIFF)
        return response


def add(app: FastAPI) -> None:
    html = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{app.title} API",
        oauth2_redirect_url=None,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
    ).body
    headers = page(*map(_hash, _INLINE.findall(bytes(html))))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return as_json(app.openapi())

    app.mount(f"/{_ASSETS}", _Assets(directory=str(files("fastapi_offline") / "static")))


def _hash(script: bytes) -> str:
    """The hash of an inline script, as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
