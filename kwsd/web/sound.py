"""Sound for browsers: WAV files, whole or in ranges."""

from __future__ import annotations

import io
import re
import wave
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


def wav(pcm: bytes, sample_rate: int) -> bytes:
    """Return a WAV file of little-endian int16."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, sample_rate, 0, "NONE", ""))
        out.writeframes(pcm)
    return file.getvalue()


def ranged(request: Request, data: bytes) -> Response:
    """Return a sound, or the one range of bytes that a request asks for.

    Raises HTTPException for a range that it does not have.
    """
    headers: dict[str, Any] = {"accept-ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", request.headers.get("range", ""))
    if asked is None or not any(asked.groups()):
        return Response(data, headers=headers, media_type="audio/wav")
    size = len(data)
    begin = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
    end = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
    if begin > end:
        raise HTTPException(416, "there is no such range", {"content-range": f"bytes */{size}"})
    headers["content-range"] = f"bytes {begin}-{end}/{size}"
    return Response(data[begin : end + 1], 206, headers, media_type="audio/wav")
