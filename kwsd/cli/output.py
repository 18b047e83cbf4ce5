"""What a person at a terminal sees: events as sentences, the guide's voice and level meter, progress bars.

Colour, bars and meters appear on a terminal only; what is piped gets plain lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def print_event(body: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(body, ensure_ascii=False) if as_json else sentence(body), flush=True)


def sentence(body: dict[str, Any]) -> str:
    """An event for people."""
    if body["type"] == "microphone":
        lost = f" ({body['samples_lost']} samples lost)" if body.get("samples_lost") else ""
        return f"microphone {body['state']}: {body['detail']}{lost}"
    who = body.get("speaker")
    by = f" by {who['name']} ({who['score']:.2f}{'' if who['verified'] else ', not verified'})" if who else ""
    what = "wake" if body["type"] == "wake" else f"rejected ({body['reason'].replace('_', ' ')})"
    word = body["word"].replace("_", " ")
    return f"{what}: “{word}”{by}, score {body['score']:.3f} of {body['threshold']:.3f}, {body['start'] / 16000:.2f}–{body['end'] / 16000:.2f} s"


def clip_sentence(body: dict[str, Any]) -> str:
    """A clip for people."""
    who = f" by {body['speaker']['name']}" if body.get("speaker") else ""
    label = f", labelled {body['label']}" if body["label"] else ""
    what = body["kind"].replace("_", " ")
    return f"{body['id']}: {what}, score {body['score']:.3f} of {body['threshold']:.3f}{who}{label}"


class Terminal:
    """The guide's voice on a terminal."""

    def ask(self, text: str, take: int, takes: int) -> None:
        print(f"[{take}/{takes}] Please {text}.", flush=True)

    def level(self, dbfs: float) -> None:
        if sys.stdout.isatty():
            bar = "█" * max(int((dbfs + 70) / 2), 0)
            print(f"\r  {bar:35.35s} {dbfs:4.0f} dBFS", end="", flush=True)

    def accepted(self, level_dbfs: float, speech_s: float) -> None:
        print(f"{self._fresh()}  good: {speech_s:.1f} s of speech at {level_dbfs:.0f} dBFS", flush=True)

    def rejected(self, why: str) -> None:
        print(f"{self._fresh()}  not taken: {why}", flush=True)

    def waiting(self, done_s: float, all_s: float) -> None:
        if sys.stderr.isatty():
            print(f"\r{'█' * int(40 * done_s / all_s):40s} {done_s / 60:.1f} of {all_s / 60:.1f} min", end="", file=sys.stderr, flush=True)

    def _fresh(self) -> str:
        return "\r" + " " * 50 + "\r" if sys.stdout.isatty() else ""


class Bar:
    """A progress bar over recordings, on a terminal only."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._shows, self._done, self._total = sys.stderr.isatty(), 0.0, 0.0
        if self._shows:
            from kwsd.audio.files import AudioFileError
            from kwsd.detect.offline import total_seconds

            for path in files:
                try:
                    self._total += total_seconds([path])
                except AudioFileError:
                    continue  # told when its turn comes

    def step(self, seconds: float) -> None:
        self._done += seconds
        if self._shows and self._total:
            share = min(self._done / self._total, 1.0)
            print(
                f"\r{'█' * int(40 * share):40s} {100 * share:3.0f} %  {self._done / 60:.1f} of {self._total / 60:.1f} min", end="", file=sys.stderr, flush=True
            )

    def close(self) -> None:
        if self._shows:
            print(file=sys.stderr)
