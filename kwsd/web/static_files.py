"""The files of the page: read once, compressed once, and named one by one."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


class File(NamedTuple):
    """A file of the page."""

    kind: str
    data: bytes
    compressed: bytes
    etag: str


class StaticFiles:
    """Serves the files by their paths; no path of a request ever reaches the disk."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.files: dict[str, File] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix in TYPES:
                data = path.read_bytes()
                name = "/" + path.relative_to(folder).as_posix()
                self.files["/" if name == f"/{INDEX}" else name] = File(
                    TYPES[path.suffix],
                    data,
                    gzip.compress(data, 9, mtime=0),
                    f'"{hashlib.sha256(data).hexdigest()[:24]}"',
                )

    async def answer(self, request: Request) -> Response:
        """Return a file, as it is named."""
        file = self.files.get(request.url.path)
        if file is None:
            return Response("There is no such page.", 404, media_type="text/plain")
        # A new version must show at once, and a cache of the browser's is the session's alone.
        headers = {"etag": file.etag, "cache-control": "private, no-cache", "vary": "cookie"}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        data = file.data
        if "gzip" in request.headers.get("accept-encoding", ""):
            data, headers["content-encoding"] = file.compressed, "gzip"
            headers["vary"] = "accept-encoding, cookie"
        return Response(data, headers=headers, media_type=file.kind)
