"""Routes of the page. They need no token, because the files contain no data."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from bucketline_service.dashboard.assets import PAGE, Asset, Assets
from bucketline_service.errors import NotFound
from bucketline_service.http.browser_headers import page

_HEADERS = page()
_FOREVER = "public, max-age=31536000, immutable"


def routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    loader = _Loader()

    @router.get("/")
    async def dashboard(request: Request) -> Response:
        assets = await loader.assets()
        return _answer(request, assets, PAGE, assets.by_name[PAGE], "no-cache")

    @router.get("/assets/{digest}/{name}")
    async def asset(request: Request, digest: str, name: str) -> Response:
        """During an update a page may request the files of another release: it gets these, and does not cache them."""
        assets = await loader.assets()
        found = assets.by_name.get(name)
        if found is None or name == PAGE:
            raise NotFound(f"the dashboard has no file {name[:80]!r}")
        return _answer(request, assets, name, found, _FOREVER if digest == assets.digest else "no-store")

    return router


class _Loader:
    """Loads the files at the first request: most replicas never serve the page."""

    def __init__(self) -> None:
        self._loading: asyncio.Task[Assets] | None = None

    async def assets(self) -> Assets:
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.create_task(asyncio.to_thread(Assets.load))
        return await asyncio.shield(self._loading)


def _answer(request: Request, assets: Assets, name: str, found: Asset, cache: str) -> Response:
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    tag = f'"{assets.digest}-{name}{"-gzip" if is_packed else ""}"'
    headers = {**_HEADERS, "Cache-Control": cache, "ETag": tag, "Vary": "Accept-Encoding"}
    if tag in [
        each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")
    ]:
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return Response(found.packed if is_packed else found.plain, headers=headers, media_type=found.media_type)
