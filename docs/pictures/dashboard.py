"""Take the pictures of the dashboard: ``python -m docs.pictures.dashboard``.

A coordinator is started, a run over the shipped COCO map is consumed by threads, and a headless Chromium looks on.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from bucketline import BucketClient, Operator

HERE = Path(__file__).parent
COCO = HERE.parents[1] / "service" / "bucketline_service" / "data" / "coco-5k.csv"
RUN = "sdxl-base"
SPEC = {"map": "coco", "world_size": 24, "batch_size": 4, "assign": {"max_crop_loss": 0.08}}
STRAGGLER = 17
SHOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "light": (f"#/runs/{RUN}", {"viewport": {"width": 1280, "height": 1810}}),
    "dark": (
        f"#/runs/{RUN}/images/{{image}}",
        {"viewport": {"width": 1280, "height": 1480}, "color_scheme": "dark"},
    ),
    "phone": (f"#/runs/{RUN}", {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE, help="folder")
    folder = parser.parse_args().to
    with tempfile.TemporaryDirectory() as data:
        server, url = serve(Path(data))
        try:
            with Operator(url) as operator:
                operator.put_map("coco", COCO)
                operator.put_run(RUN, SPEC)
            image = most_cropped(url)
            done = threading.Event()
            threads = [threading.Thread(target=consume, args=(url, rank, done)) for rank in range(24)]
            for thread in threads:
                thread.start()
            take(url, folder, image)
            done.set()
            for thread in threads:
                thread.join()
        finally:
            server.terminate()
            server.wait()


def serve(data: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "bucketline", "serve", "--port", "0", "--data-dir", str(data)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().split()[-1]


def most_cropped(url: str) -> int:
    """Of the images that come late enough to be waited for."""
    run = f"{url}/v1/runs/{RUN}"
    late = {"epoch": 0, "step": 45, "count": 3}
    batches = [
        batch
        for rank in range(8)
        for batch in httpx.get(f"{run}/batches", params={**late, "rank": rank}).json()["batches"]
    ]
    found = [httpx.get(f"{run}/images/{id}").json() for batch in batches for id in batch["ids"]]
    image: int = max(found, key=lambda about: float(about["nearest"]["crop_loss"]))["id"]
    return image


def consume(url: str, rank: int, done: threading.Event) -> None:
    """A training step takes a second, and one rank is slower."""
    with BucketClient(url, run=RUN, holder=f"gpu-{rank // 8}:{4000 + rank}") as client:
        while not done.wait(1.4 if rank == STRAGGLER else 1.0):
            client.next_batch(rank)


def take(url: str, folder: Path, image: int) -> None:
    path = next(
        found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, (view, options) in SHOTS.items():
            picture = shoot(browser, f"{url}/{view.format(image=image)}", options)
            # 128 colours are enough for it, and a quarter of the bytes
            Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(
                folder / f"dashboard-{name}.png", optimize=True
            )
            print(json.dumps({"picture": name, "bytes": (folder / f"dashboard-{name}.png").stat().st_size}))
        browser.close()


def shoot(browser: Browser, url: str, options: dict[str, Any]) -> bytes:
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(url)
    page.locator(".plot[data-drawn]").nth(5).wait_for(timeout=60_000)
    page.locator(".kinds", has_text="behind").wait_for(timeout=60_000)
    page.locator(".title .pill[data-state=running]").wait_for(timeout=60_000)
    page.wait_for_timeout(12_000)  # until it has seen enough to tell how fast the run goes
    picture = page.screenshot()
    context.close()
    return picture


if __name__ == "__main__":
    main()
