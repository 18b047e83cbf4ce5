"""The student and the speaker head at run time. State is an argument; nothing here remembers anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from kwsd.model.bundle import SPEAKER, STUDENT, VOICE_FRONT_END, Bundle, BundleError

State = tuple[np.ndarray, ...]
OUTPUTS = ("logits", "timing", "embedding", "tap")


@dataclass(frozen=True)
class Frames:
    """What the student says of `k` chunks, float32."""

    logits: np.ndarray
    """`[k, word]`"""
    timing: np.ndarray
    """`[k, 2]`: seconds since the word began and ended, meaningful where a logit is high."""
    embedding: np.ndarray
    """`[k, 96]`, the high frames."""
    tap: np.ndarray
    """`[k, tap frames a chunk, 384]`, the low frames."""


def session(path: Path) -> onnxruntime.InferenceSession:
    """One thread, sequential, no spinning: a small graph on a busy machine. Raises BundleError.

    From the file rather than from bytes, of which onnxruntime would keep a copy."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # chunks come in runs of many lengths; plans for each would pile up
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several unrelated types
        raise BundleError(f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({error}); restore the bundle") from error


class Student:
    """Encoder and wake head in one streaming graph: `step(mel, state) -> (frames, state)`."""

    def __init__(self, bundle: Bundle) -> None:
        path = bundle.path / STUDENT
        self._session = session(path)
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        self._states = [name for name in inputs if name.startswith("state_in.")]
        wanted = [name.replace("state_in.", "state_out.") for name in self._states]
        missing = [n for n in (*OUTPUTS, *wanted) if n not in outputs] + [n for n in ("mel",) if n not in inputs]
        if missing or not self._states:
            raise BundleError(f"{path}: the graph has no {', '.join(missing) or 'states'}; it is another kind of model")
        if inputs["mel"][-1] != bundle.front_end.bands or outputs["logits"][-1] != len(bundle.words):
            raise BundleError(f"{path}: takes {inputs['mel'][-1]} bands and gives {outputs['logits'][-1]} words; the manifest has "
                              f"{bundle.front_end.bands} and {len(bundle.words)}")  # fmt: skip
        self._shapes = [inputs[name] for name in self._states]
        self._wanted = [*OUTPUTS, *wanted]
        self.embedding_dim, self.tap_dim = int(outputs["embedding"][-1]), int(outputs["tap"][-1])
        self.frames_per_chunk = bundle.chunk_samples // bundle.front_end.hop_samples

    def zero_state(self) -> State:
        return tuple(np.zeros(shape, np.float32) for shape in self._shapes)

    def step(self, mel: np.ndarray, state: State) -> tuple[Frames, State]:
        """`mel [k * frames a chunk, band]` to the frames of `k` chunks and the state after them."""
        feed = {"mel": mel[None], **dict(zip(self._states, state, strict=True))}
        logits, timing, embedding, tap, *after = self._session.run(self._wanted, feed)
        k = logits.shape[1]
        return Frames(logits[0], timing[0], embedding[0], tap[0].reshape(k, -1, self.tap_dim)), tuple(after)


class SpeakerEncoder:
    """The speaker head: frames of a span and its finer bands to one embedding."""

    min_chunks = 5

    def __init__(self, bundle: Bundle) -> None:
        self._session = session(bundle.path / SPEAKER)
        inputs, wanted = {i.name: i.shape for i in self._session.get_inputs()}, {"tap", "embedding", "fine"}
        if inputs.keys() != wanted:
            raise BundleError(f"{bundle.path / SPEAKER}: takes {', '.join(sorted(inputs))} instead of {', '.join(sorted(wanted))}; it is another kind of model")
        if inputs["fine"][-1] != bundle.voice_front_end.bands:
            raise BundleError(f"{bundle.path / SPEAKER}: takes {inputs['fine'][-1]} finer bands; {VOICE_FRONT_END} gives {bundle.voice_front_end.bands}")
        self.dim = int(self._session.get_outputs()[0].shape[-1])
        self._front_end, self._chunk = bundle.voice_front_end, bundle.chunk_samples
        self.history_samples = self._front_end.history_samples
        """Samples before a chunk that its finer bands still cover."""

    def fine(self, samples: np.ndarray) -> np.ndarray:
        """Finer bands `[k, frames a chunk, band]` of k chunks and the `history_samples` before them."""
        k = (len(samples) - self.history_samples) // self._chunk
        return self._front_end(samples).reshape(k, -1, self._front_end.bands)

    def __call__(self, tap: np.ndarray, embedding: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """`tap [k, tap frames a chunk, 384]`, `embedding [k, 96]` and `fine [k, frames a chunk, band]`, k >= 1, to float32 `[dim]` of unit length."""
        feed = {"tap": tap.reshape(1, -1, tap.shape[-1]), "embedding": embedding[None], "fine": fine.reshape(1, -1, fine.shape[-1])}
        return np.asarray(self._session.run(None, feed)[0][0])
