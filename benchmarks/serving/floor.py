"""The least that a request costs: a bare Starlette endpoint that reads its body and answers as many bytes."""

from __future__ import annotations

import os
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = b"x" * int(os.environ.get("FLOOR_BYTES", "256"))


async def endpoint(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, media_type="application/json")


app = Starlette(routes=[Route("/v1/runs/{run}/ranks/{rank}/next", endpoint, methods=["POST"])])

if __name__ == "__main__":
    bound = socket.create_server(("127.0.0.1", 0))
    print(f"floor: listening on http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    # as service/bucketline_service/server.py has it
    options = {"loop": "uvloop", "http": "httptools", "log_config": None, "access_log": False}
    uvicorn.Server(uvicorn.Config(app, server_header=False, **options)).run(sockets=[bound])
