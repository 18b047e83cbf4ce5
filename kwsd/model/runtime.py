"""The ONNX sessions of a bundle. State is an argument: nothing here remembers a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kwsd.metrics import joined, unit
from kwsd.model.bundle import (
    ENCODER,
    MANIFEST,
    SPEAKER,
    VOICE_FRONT_END,
    Bundle,
    BundleError,
    CheckerModel,
    read_front_end,
)
from kwsd.ort import onnxruntime

State = tuple[np.ndarray, ...]
INTERMEDIATE = "tap"
"""Name of the intermediate features in the graphs of bundles, which 0.1.0 made too."""
FULL_SCALE = 32768
"""Of int16 samples."""
OUTPUTS = ("logits", "timing", "embedding", INTERMEDIATE)


@dataclass(frozen=True)
class Frames:
    """What the encoder and the wake head compute for `k` chunks, float32."""

    logits: np.ndarray
    """`[k, word]`."""
    timing: np.ndarray
    """`[k, 2]`: seconds since the word began and ended, meaningful where a logit is high."""
    embedding: np.ndarray
    """`[k, 96]`, the encoder's output."""
    intermediate: np.ndarray
    """`[k, frames a chunk, 384]`, the intermediate features, which know voices."""


def session(path: Path, *, one_window: bool = False) -> onnxruntime.InferenceSession:
    """Return a session of one thread, sequential and without spinning. Raises BundleError.

    `one_window`: every run takes one window, so that all shapes are known, and computed once. It
    reads the file rather than bytes, of which onnxruntime would keep a copy.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Chunks come in runs of many lengths; memory plans for each would pile up.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    if one_window:
        options.add_free_dimension_override_by_name("batch", 1)
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several unrelated types
        text = f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({error})"
        raise BundleError(f"{text}; restore the bundle") from error


class StreamingEncoder:
    """Encoder and wake head in one streaming graph: `step(mel, state) -> (frames, state)`."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError."""
        path = bundle.path / ENCODER
        self._session = session(path)
        self._front_end = bundle.front_end
        self._silence_samples = bundle.receptive_chunks * bundle.chunk_samples
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        self._states = [name for name in inputs if name.startswith("state_in.")]
        self._outputs = [*OUTPUTS, *(name.replace("_in.", "_out.") for name in self._states)]
        missing = [name for name in self._outputs if name not in outputs]
        missing += ["mel"] if "mel" not in inputs else []
        if missing or not self._states:
            lacking = ", ".join(missing) or "states"
            text = f"{path}: the graph has no {lacking}; it is another kind of model"
            raise BundleError(text)
        bands = inputs["mel"][-1]
        words = outputs["logits"][-1]
        if bands != bundle.front_end.bands or words != len(bundle.words):
            text = f"{path}: takes {bands} bands and gives {words} words"
            expected = f"{bundle.front_end.bands} and {len(bundle.words)}"
            raise BundleError(f"{text}; the manifest has {expected}")
        self._shapes = [inputs[name] for name in self._states]
        self.embedding_dim = int(outputs["embedding"][-1])
        self.intermediate_dim = int(outputs[INTERMEDIATE][-1])
        self.frames_per_chunk = bundle.chunk_samples // bundle.front_end.hop_samples
        """Mel frames of a chunk."""
        self.intermediate_per_chunk = self.frames_per_chunk // 2
        """Frames of intermediate features of a chunk."""

    def zero_state(self) -> State:
        """Return the state at the start of a stream."""
        return tuple(np.zeros(shape, np.float32) for shape in self._shapes)

    def step(self, mel: np.ndarray, state: State) -> tuple[Frames, State]:
        """Return the frames of `k` chunks, and the state after them.

        `mel` is `[k * frames a chunk, band]`.
        """
        feed = {"mel": mel[None], **dict(zip(self._states, state, strict=True))}
        logits, timing, embedding, features, *after = self._session.run(self._outputs, feed)
        intermediate = features[0].reshape(logits.shape[1], -1, self.intermediate_dim)
        return Frames(logits[0], timing[0], embedding[0], intermediate), tuple(after)

    @cached_property
    def silence(self) -> np.ndarray:
        """float32 `[dim]`, the embedding after silence that has lasted for ever."""
        history = self._front_end.history_samples
        mel = self._front_end(np.zeros(history + self._silence_samples, np.float32))
        return self.step(mel, self.zero_state())[0].embedding[-1]

    def after_silence(self, embedding: np.ndarray, frames: int) -> np.ndarray:
        """Return `embedding [k, dim]` with so many frames of silence before it."""
        return np.concatenate([np.repeat(self.silence[None], frames, axis=0), embedding])


class SpeakerEncoder:
    """The speaker head: frames of a span and its finer bands to one embedding."""

    min_chunks = 5

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError."""
        path = bundle.path / SPEAKER
        self._session = session(path)
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        expected = {INTERMEDIATE, "embedding", "fine"}
        if inputs.keys() != expected:
            found = ", ".join(sorted(inputs))
            text = f"{path}: takes {found} instead of {', '.join(sorted(expected))}"
            raise BundleError(f"{text}; it is another kind of model")
        bands = inputs["fine"][-1]
        if bands != bundle.voice_front_end.bands:
            given = bundle.voice_front_end.bands
            text = f"{path}: takes {bands} finer bands; {VOICE_FRONT_END} gives {given}"
            raise BundleError(text)
        self.dim = int(self._session.get_outputs()[0].shape[-1])
        self._front_end = bundle.voice_front_end
        self._chunk_samples = bundle.chunk_samples
        self.history_samples = self._front_end.history_samples
        """Samples before a chunk that its finer bands still cover."""

    def fine(self, samples: np.ndarray) -> np.ndarray:
        """Return finer bands `[k, frames a chunk, band]` of k chunks.

        `samples` are the `history_samples` before them and the chunks.
        """
        k = (len(samples) - self.history_samples) // self._chunk_samples
        return self._front_end(samples).reshape(k, -1, self._front_end.bands)

    def __call__(
        self, intermediate: np.ndarray, embedding: np.ndarray, fine: np.ndarray
    ) -> np.ndarray:
        """Return the speaker embedding of k >= 1 chunks, float32 `[dim]` of unit length.

        `intermediate [k, frames a chunk, 384]`, `embedding [k, 96]`, `fine [k, frames a chunk,
        band]`.
        """
        feed = {
            INTERMEDIATE: intermediate.reshape(1, -1, intermediate.shape[-1]),
            "embedding": embedding[None],
            "fine": fine.reshape(1, -1, fine.shape[-1]),
        }
        return np.asarray(self._session.run(None, feed)[0][0])


def wanted_by(output: str) -> str:
    """Return the input, a bool, that tells a graph whether an `output` is wanted."""
    return f"{output}_wanted"


class CheckerGraph:
    """The graph of a checker: windows of audio in, the logits of the bundle's words out, or an
    embedding of the voice."""

    def __init__(self, bundle: Bundle, model: CheckerModel) -> None:
        """Raises BundleError."""
        self.model = model
        path = bundle.file(model.file)
        self._front_end = None
        self._input = "waveform"
        shape: list[int] = [model.samples]
        if model.front_end is not None:
            front_end = read_front_end(bundle.file(model.front_end))
            framed = model.samples - front_end.history_samples
            if framed <= 0 or framed % front_end.hop_samples:
                text = f"{bundle.path / model.front_end}: makes no whole frames"
                raise BundleError(f"{text} of {model.samples} samples; restore the bundle")
            self._front_end = front_end
            self._input = "mel"
            shape = [framed // front_end.hop_samples, front_end.bands]
        self._session, outputs = self._open(path, shape, "logits")
        inputs = {i.name for i in self._session.get_inputs()}
        self._deferred = [output for output in outputs if wanted_by(output) in inputs]
        self._expect(path, "logits", outputs["logits"][1:], [len(bundle.words)])
        self._own_dim = _length(path, "voice", outputs)
        self._bundle = bundle
        self._shape = shape
        if model.network is not None and self._own_dim is None:
            text = f"{path}: gives no voice, beside which {model.network.file} would be"
            raise BundleError(f"{text}; restore the bundle")
        self.word_dim = _length(path, "words", outputs)
        """Length of an embedding of what was said; None where the graph gives none."""
        if self._own_dim is None and model.voices is not None:
            text = f"{path}: gives no voice, and {MANIFEST} has a cohort of such"
            raise BundleError(f"{text}; restore the bundle")
        if self.word_dim is None and model.word_id is not None:
            text = f"{path}: gives no words, and {MANIFEST} has a word_id of such"
            raise BundleError(f"{text}; restore the bundle")

    @property
    def voice_dim(self) -> int | None:
        """Length of a voice embedding; None where the graph gives none. Raises BundleError."""
        if self._own_dim is None or self._network is None:
            return self._own_dim
        return self._own_dim + int(self._network.get_outputs()[0].shape[-1])

    def load_voices(self) -> None:
        """Load the network of voices, if there is one. Raises BundleError."""
        self._network  # noqa: B018 # a cached property

    @cached_property
    def _network(self) -> onnxruntime.InferenceSession | None:
        if self.model.network is None:
            return None
        path = self._bundle.file(self.model.network.file)
        network, outputs = self._open(path, self._shape, "voice")
        _length(path, "voice", outputs)
        return network

    def _open(
        self, path: Path, shape: list[int], output: str
    ) -> tuple[onnxruntime.InferenceSession, dict[str, list[int | str]]]:
        """Return the graph of a file that takes windows and gives an `output` at least, and the
        shapes of what it gives. Raises BundleError."""
        opened = session(path, one_window=True)
        inputs = {i.name: i.shape for i in opened.get_inputs()}
        outputs = {o.name: o.shape for o in opened.get_outputs()}
        asked = inputs.keys() - set(map(wanted_by, outputs))
        if asked != {self._input} or output not in outputs:
            text = f"{path}: takes {', '.join(sorted(inputs))}, gives {', '.join(sorted(outputs))}"
            text += f"; it should take {self._input} and give {output}"
            raise BundleError(f"{text}: it is another kind of model")
        self._expect(path, self._input, inputs[self._input][1:], shape)
        return opened, outputs

    @staticmethod
    def _expect(path: Path, name: str, found: list[int | str], expected: list[int]) -> None:
        """Raise BundleError unless the fixed axes of a shape are as the manifest has them."""
        fits = len(found) == len(expected) and all(
            not isinstance(axis, int) or axis == wanted
            for axis, wanted in zip(found, expected, strict=True)
        )
        if not fits:
            text = f"{path}: {name} is {found}; the manifest has {expected}"
            raise BundleError(f"{text}; restore the bundle")

    def __call__(self, window: np.ndarray) -> np.ndarray:
        """Return the logits `[word]` of a window `[sample]`, int16 scale, of the model's length."""
        return self._run(self._prepared(window), "logits")[0]

    def with_words(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of a window as above and, of the same run, its embedding of words."""
        logits, vector = self._run(self._prepared(window), "logits", "words")
        return logits, unit(vector)

    def words(self, window: np.ndarray) -> np.ndarray:
        """Return the embedding of what was said at the end of a window as above, float32 `[dim]`
        of unit length."""
        return unit(self._run(self._prepared(window), "words")[0])

    def with_voice(self, head: np.ndarray, span: np.ndarray) -> np.ndarray:
        """Return a speaker embedding `[dim]`: the head's, joined with that of the voice in a span.

        `span [sample]`, int16 scale, is at most a window long; silence comes before it. The head's
        embedding alone is returned where the graph gives none.
        """
        if self.voice_dim is None:
            return head
        return joined(head, self.voice(span), self.model.voice_weight)

    def voice(self, span: np.ndarray) -> np.ndarray:
        """Return the embedding of the voice in a span as above, float32 `[dim]` of unit length."""
        samples = np.asarray(span, np.float32)
        given = self._prepared(np.pad(samples, (self.model.samples - len(samples), 0)))
        voice = unit(self._run(given, "voice")[0])
        if self._network is None or self.model.network is None:
            return voice
        known = unit(self._network.run(["voice"], {self._input: given[None]})[0][0])
        return joined(voice, known, self.model.network.share)

    def _run(self, given: np.ndarray, *outputs: str) -> list[np.ndarray]:
        """Return `outputs` of what `_prepared` gives; no others are computed that can be left
        out."""
        feed = {self._input: given[None]}
        feed |= {wanted_by(output): np.array(output in outputs) for output in self._deferred}
        return [found[0] for found in self._session.run(outputs, feed)]

    def _prepared(self, window: np.ndarray) -> np.ndarray:
        """Return what the graph takes: the window at its peak, as mel frames or in ±1."""
        highest = float(np.abs(window).max(initial=0.0))
        gain = self.model.peak / highest if highest else 0.0
        scaled = np.asarray(window, np.float32) * np.float32(gain)
        if self._front_end is None:
            return scaled
        return self._front_end(scaled * np.float32(FULL_SCALE))


def _length(path: Path, name: str, outputs: Mapping[str, list[int | str]]) -> int | None:
    """Return the length of an output's vectors; None without it. Raises BundleError."""
    if name not in outputs:
        return None
    length = outputs[name][-1]
    if not isinstance(length, int) or len(outputs[name]) != 2:
        text = f"{path}: {name} is {outputs[name]}, and not a vector of one length"
        raise BundleError(f"{text}; restore the bundle")
    return length


class Runtime:
    """The sessions of a bundle, loaded once and shared by streams."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError."""
        self.encoder = StreamingEncoder(bundle)
        self.speaker = SpeakerEncoder(bundle)
        self._bundle = bundle
        self._checker: CheckerGraph | None = None

    def checker(self, model: CheckerModel | None, *, voices: bool = False) -> CheckerGraph | None:
        """Return the graph of a checker, or None for none; the last one that was asked for is kept.

        Its network of `voices` is loaded with it, or where a voice is asked for first. Raises
        BundleError where it cannot be loaded.
        """
        kept = self._checker
        if model is None:
            kept = None
        elif kept is None or kept.model != model:
            kept = CheckerGraph(self._bundle, model)
        if kept is not None and voices:
            kept.load_voices()
        self._checker = kept
        return kept
