#!/usr/bin/env python3
"""Hand what is said after a wake word to a speech-to-text program, and print what it understands.

    python3 transcribe.py whisper-cli -m ggml-base.en.bin -np -nt -f -
    python3 transcribe.py --raw COMMAND…

COMMAND is any program that reads audio on its standard input and writes text on its standard
output: one WAV file of all that was said, or with `--raw` 16-bit PCM at 16 kHz while it
is spoken, for a program that recognizes as it listens. A line of JSON is printed for each wake:

    {"word": "computer", "speaker": "ann", "text": "turn on the light"}

It needs the right to stream: `socket.stream_group` in the daemon's configuration.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
import wave

import kwsd

LATE_S = 5.0
"""A wake that is older, because another command was in work, is nobody's wish any more."""
PATIENCE_S = 60.0
"""Longest time that the program may take after the last of the audio."""


def main() -> int:
    """Transcribe what follows each wake; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", help="the daemon's socket (default: the usual one)")
    parser.add_argument("--words", help="only after these words, with commas between them")
    parser.add_argument("--silence", type=float, default=0.8, help="seconds that end a command")
    parser.add_argument("--raw", action="store_true", help="PCM while it is spoken, not a WAV")
    parser.add_argument("--count", type=int, help="exit after so many commands")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the program, and its arguments")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("name a speech-to-text program, such as whisper-cli -f -")
    words = arguments.words.split(",") if arguments.words else None
    done = 0
    with kwsd.connect(arguments.socket) as daemon:
        for wake in daemon.events(types=["wake"], words=words):
            if wake.time is not None and time.time() - wake.time > LATE_S:
                continue
            with daemon.stream(wake.end, silence_s=arguments.silence) as stream:
                text = transcribed(arguments.command, stream, raw=arguments.raw)
            speaker = wake.speaker.name if wake.speaker else None
            print(json.dumps({"word": wake.word, "speaker": speaker, "text": text}), flush=True)
            done += 1
            if done == arguments.count:
                break
    return 0


def transcribed(command: list[str], stream: kwsd.Stream, *, raw: bool) -> str:
    """Return what the program says of a stream; nothing where nobody spoke."""
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert program.stdin is not None
    parts = []
    try:
        for message in stream:
            if raw:
                program.stdin.write(message.pcm)
                program.stdin.flush()
            else:
                parts.append(message.pcm)
    except BrokenPipeError:
        stream.stop()  # it has heard enough
    if stream.end is not None and stream.end.reason == "no_speech":
        program.kill()
        program.communicate()
        return ""
    try:
        out, _ = program.communicate(None if raw else as_wav(b"".join(parts)), PATIENCE_S)
    except subprocess.TimeoutExpired:
        program.kill()
        program.communicate()
        print(f"{command[0]} has not answered within {PATIENCE_S:g} s", file=sys.stderr)
        return ""
    if program.returncode:
        print(f"{command[0]} failed with exit status {program.returncode}", file=sys.stderr)
    return " ".join(out.decode(errors="replace").split())


def as_wav(pcm: bytes) -> bytes:
    """Return PCM as a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(16000)
        wav.writeframes(pcm)
    return buffer.getvalue()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except kwsd.DaemonError as error:
        sys.exit(f"transcribe.py: {error}")
    except FileNotFoundError as error:
        sys.exit(f"transcribe.py: there is no program {error.filename!r}; install it")
    except KeyboardInterrupt:
        sys.exit(130)
