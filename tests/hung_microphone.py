"""Run kwsd with a microphone whose next call hangs once a file is there: for tests of the daemon.

python hung_microphone.py FILE VERB …
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from fake_portaudio import FakePortAudio, FakeStream

from kwsd.audio import capture, devices
from kwsd.cli.main import main
from kwsd.server import hang_watch


class HangingStream(FakeStream):
    """A stream of which a call does not come back while the file is there.

    Meanwhile descriptor 2 leads nowhere, as it does while PortAudio looks for devices.
    """

    @property
    def read_available(self) -> int:
        with devices.hushed() if hang.exists() else contextlib.nullcontext():
            while hang.exists():
                time.sleep(0.05)
        time.sleep(0.05)  # about as fast as it is spoken
        return super().read_available


if __name__ == "__main__":
    hang = Path(sys.argv[1])
    fake = FakePortAudio()
    fake.stream = HangingStream
    for module in (capture, devices):
        module.portaudio = lambda: fake  # type: ignore[attr-defined]
    hang_watch.GRACE_S = 1.0
    sys.exit(main(sys.argv[2:]))
