"""The tuned checker as a graph of the bundle, in 8 bit."""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.nn import functional as F

from kwsd import ort
from kwsd.audio.log_mel import LogMel
from kwsd.config import ConfigError
from kwsd.learn.regression import logistic_regression
from kwsd.metrics import threshold_at
from kwsd.model.manifest import STREAM_CLIP, Fusion
from kwsd.model.runtime import session
from kwsd.training.bundle_writer import CHECKER, BundleWriter
from kwsd.training.data.windows import PEAK, WINDOW_SAMPLES, at_peak
from kwsd.training.models import checkpoint
from kwsd.training.models.checker import Checker, CheckerHead, SpokenHead, VoiceHead
from kwsd.training.models.checkpoint import Part
from kwsd.training.models.restored import restored, restored_voice, shipped_checker
from kwsd.training.models.transformer import MelStem, Transformer
from kwsd.training.settings import Settings
from kwsd.training.settings.catalog import CONTINUOUS, CorpusRoles
from kwsd.training.stages.checker.branches import defer
from kwsd.training.stages.checker.candidates import DEGRADED, SCENES, Candidates

log = logging.getLogger(__name__)
OPSET = 17


def calibrate(logits: np.ndarray, found: Candidates) -> Fusion:
    """Return the calibration of the checker's `logits [candidate, word]` on candidates that it was
    not trained on: logistic regression (Brümmer and du Preez 2006)."""
    own = found.word == found.spoken
    checker = logits[np.arange(len(own)), found.word]
    share = found.stream.clip(STREAM_CLIP, 1 - STREAM_CLIP)
    stream = np.log(share / (1 - share))
    both = np.stack([checker, stream], axis=1).astype(np.float64)
    fit = logistic_regression(both[own], both[~own])
    checker_weight, stream_weight = fit.weights.tolist()
    return Fusion(checker_weight, max(stream_weight, 0.0), fit.bias)


def encoder_id(encoder: Transformer) -> str:
    """Return what identifies the weights of `encoder`."""
    digest = hashlib.sha256()
    for weights in encoder.state_dict().values():
        digest.update(weights.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class Heads(NamedTuple):
    """The checkpoints that a checker is made of."""

    tuned: Path
    words: Path
    """That of `words`, which need not exist."""


def load_head(path: Path, name: str, kind: type[Part], encoder: Transformer) -> Part:
    """Return the head `name` of the checkpoint `path` of `words` or `voices`, in evaluation mode.

    Raises ConfigError where it was trained on another encoder than `encoder`."""
    head = checkpoint.load(path, name, kind)
    if torch.load(path, weights_only=True)["encoder_id"] != encoder_id(encoder):
        raise ConfigError(
            f"{path} was trained on another encoder: remove it, and the folder "
            f"{path.with_suffix('')}, and run `kwsd train checker` as before"
        )
    return head


def load_checker(path: Path) -> Checker:
    """Return the checker of the checkpoint `path` of `tune`, in evaluation mode."""
    return Checker(
        checkpoint.load(path, "encoder", Transformer),
        checkpoint.load(path, "words", CheckerHead),
        checkpoint.load(path, "voice", VoiceHead),
    ).eval()


class _Unfolded(nn.Module):
    """A convolution over time as a matrix product, of which there is one in 8 bit."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        assert isinstance(convolution, nn.Conv1d)
        weight = convolution.weight.detach()
        outputs, inputs, self.kernel = weight.shape
        (self.stride,) = convolution.stride
        self.padding = int(convolution.padding[0])
        self.product = nn.Linear(inputs * self.kernel, outputs, convolution.bias is not None)
        self.product.weight = nn.Parameter(weight.transpose(1, 2).flatten(1))
        if convolution.bias is not None:
            self.product.bias = nn.Parameter(convolution.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x [batch, channel, frame]`."""
        x = F.pad(x.transpose(1, 2), (0, 0, self.padding, self.padding))
        frames = x.shape[1] - self.kernel + 1
        parts = [x[:, at : at + frames : self.stride] for at in range(self.kernel)]
        product: Tensor = self.product(torch.cat(parts, 2))
        return product.transpose(1, 2)


class _Outputs(nn.Module):
    """A checker with the outputs that ship."""

    def __init__(self, checker: Checker, voices: bool) -> None:
        super().__init__()
        self.checker = checker
        self.voices = voices

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        logits, voice, *words = self.checker(given)
        return (logits, voice, *words) if self.voices else (logits, *words)


class _LastSteps(nn.Module):
    """An encoder down to what a head of words takes."""

    def __init__(self, encoder: Transformer, spoken: SpokenHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.spoken = spoken

    def forward(self, given: Tensor) -> Tensor:
        return self.spoken.last_steps(self.encoder.of_given(given))


Whole = TypeVar("Whole", Checker, _LastSteps)


def write_graph(
    checker: Checker, path: Path, *, quantized: bool = True, voices: bool = True
) -> None:
    """Write `checker` to `path`; `quantized`: in 8 bit, but for what is no product with weights;
    `voices`: with the output `voice`. Where it has a head for them, `words` is an output. Both are
    computed where they are wanted (`defer`)."""
    outputs = ["logits", *(["voice"] if voices else []), *(["words"] if checker.spoken else [])]
    _write(_Outputs(_unfolded(checker), voices), checker.encoder, path, outputs, quantized)
    defer(path, outputs[1:])


def _unfolded(whole: Whole) -> Whole:
    """Return a copy of `whole` whose large convolutions are matrix products."""
    whole = copy.deepcopy(whole)
    stem = whole.encoder.stem
    if isinstance(stem, MelStem):  # the positions of a window, of Whisper's 30 s
        frames = stem(whole.encoder.given(torch.zeros(1, WINDOW_SAMPLES))).shape[1]
        stem.positions = nn.Parameter(stem.positions[:frames].detach())
        stem.first = _Unfolded(stem.first)
        stem.second = _Unfolded(stem.second)
    if whole.spoken is not None:
        for n, block in enumerate(whole.spoken.blocks):
            whole.spoken.blocks[n] = _Unfolded(block)
    return whole


def _write(
    module: nn.Module, encoder: Transformer, path: Path, outputs: list[str], quantized: bool
) -> None:
    """Write `module`, which takes what is given to `encoder`, to `path`.

    The weights take 7 bits of the 8, so that sums of two products fit in 16: an x86-64 processor
    without VNNI adds them there, and saturates."""
    inputs = encoder.given(torch.zeros(1, WINDOW_SAMPLES))
    kind = encoder.kind
    whole = path.with_suffix(".float.onnx")
    with warnings.catch_warnings():
        # A group normalization asks whether its batch is large enough.
        warnings.simplefilter("ignore", TracerWarning)
        warnings.filterwarnings("ignore", "Constant folding")  # of every second frame
        torch.onnx.export(
            module.eval(),
            (inputs,),
            str(whole),
            input_names=[kind],
            output_names=outputs,
            opset_version=OPSET,
            dynamic_axes={name: {0: "batch"} for name in (kind, *outputs)},
            dynamo=False,
        )
    if quantized:
        quantization = ort.quantization()
        quantization.quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )
        whole.unlink()
    else:
        whole.replace(path)


class FrameGraph:
    """An encoder in 8 bit, as the daemon runs it, down to what a head of words takes."""

    def __init__(self, encoder: Transformer, spoken: SpokenHead, path: Path) -> None:
        """Write the graph of `encoder` to `path`."""
        self._encoder = encoder
        _write(_unfolded(_LastSteps(encoder, spoken)), encoder, path, ["frames"], quantized=True)
        self._session = session(path, one_window=True)

    def __call__(self, window: np.ndarray) -> np.ndarray:
        """Return the last steps of a window, int16 `[sample]`: float16 `[layer, step, dim]`."""
        samples = at_peak(torch.from_numpy(window.astype(np.float32))[None])
        given = {self._encoder.kind: self._encoder.given(samples).numpy()}
        frames: np.ndarray = self._session.run(["frames"], given)[0][0]
        return frames.astype(np.float16)


def front_end(encoder: Transformer) -> LogMel | None:
    """Return the front end of a transformer that takes mel bels; None for one that takes the
    waveform."""
    stem = encoder.stem
    if not isinstance(stem, MelStem):
        return None
    full_scale_bels = float(2 * np.log10(32768))
    return LogMel(
        torch.hann_window(400).numpy(),
        stem.filters.numpy(),
        hop_samples=160,
        fft_samples=400,
        floor_db=10 * (full_scale_bels - 10),
        scale=0.1,
        offset=-full_scale_bels,
    )


class ExportSettings(Settings, frozen=True):
    """The settings `export` of `checker.yaml`."""

    candidates_per_hour: float
    """Candidates of a word in an hour of continuous speech, as recorded."""
    voices: bool | Literal["kept"]
    """Whether the graph gives voices as well, which are then joined with the speaker head's;
    "kept": with the head of the checker that the bundle has, whose first blocks are the same."""
    voice_weight: float = 0.33
    """Weight of its voices, above 0 and below 1, beside the speaker head's."""


def begins_at(found: Candidates, roles: CorpusRoles, word: int, per_hour: float) -> float:
    """Return the streaming score that `per_hour` candidates of a word reach in speech without it:
    in continuous speech as recorded where `found` holds any, else in all that it holds."""
    recorded = [s for s in found.hours if s != SCENES and not s.endswith(DEGRADED)]
    sources = [source for source in recorded if roles.source(source) == CONTINUOUS]
    sources = sources or list(found.hours)
    hours = sum(found.hours[source] for source in sources)
    lowest = float(found.stream.min(initial=1.0))
    if not hours:
        return lowest
    chosen = (found.word == word) & (found.spoken < 0) & np.isin(found.source, sources)
    peaks = -np.sort(-found.stream[chosen].astype(np.float64))
    return max(threshold_at(peaks, hours, per_hour), lowest)


def export(
    heads: Heads,
    development: Path,
    models: Path,
    roles: CorpusRoles,
    settings: ExportSettings,
) -> None:
    """Put the checker of the checkpoints `heads` into the bundle `models`, calibrated on the
    candidates in the folder `development`.

    Its thresholds are provisional until `kwsd train evaluate --write`. Raises ConfigError where a
    head was trained on another encoder."""
    checker = load_checker(heads.tuned)
    if heads.words.exists():
        checker.spoken = load_head(heads.words, "spoken", SpokenHead, checker.encoder)
    else:
        log.info("%s: no such checkpoint; the first stage alone hears added words", heads.words)
    found = Candidates.load(development)
    voices = bool(settings.voices)
    with BundleWriter(models) as writer:
        path = writer.file(CHECKER)
        if settings.voices == "kept":
            checker.voice = kept_voice(models, checker)
        write_graph(checker, path, voices=voices)
        calibration = calibrate(_logits(path, checker, found), found)
        log.info("calibration %s, on %d candidates", calibration, len(found.word))
        begins = {
            word: begins_at(found, roles, n, settings.candidates_per_hour)
            for n, word in enumerate(writer.words)
        }
        log.info("a candidate begins at %s", begins)
        parts = [checker.encoder, checker.words, *([checker.voice] if voices else [])]
        parts += [checker.spoken] if checker.spoken is not None else []
        parameters = sum(p.numel() for part in parts for p in part.parameters())
        writer.set_checker(
            front_end(checker.encoder),
            WINDOW_SAMPLES,
            PEAK,
            calibration,
            begins,
            parameters,
            spoken=checker.spoken is not None,
            voice_weight=settings.voice_weight,
        )


def kept_voice(models: Path, checker: Checker) -> VoiceHead:
    """Return the head of voices of the checker in the bundle `models`.

    Raises ConfigError where there is none, or it lies on other blocks than those of `checker`."""
    shipped = shipped_checker(models, "export.voices=kept")
    encoder = restored(shipped, checker.encoder)
    head = restored_voice(shipped, checker.voice)
    blocks = max(head.mixture.layers)
    for own, kept in zip(
        (checker.encoder.stem, *checker.encoder.blocks[:blocks]),
        (encoder.stem, *encoder.blocks[:blocks]),
        strict=True,
    ):
        before = kept.state_dict()
        if any(not torch.equal(value, before[name]) for name, value in own.state_dict().items()):
            raise ConfigError(
                f"export.voices=kept: the head of voices lies on the first {blocks} blocks of the "
                "checker in the bundle, which were trained since; begin with distill.start=bundle, "
                f"and leave them as they are: distill.frozen_blocks={blocks}, "
                f"tune.frozen_blocks={blocks}"
            )
    return head


def _logits(path: Path, checker: Checker, found: Candidates) -> np.ndarray:
    """Return the exported graph's logits `[candidate, word]`."""
    graph = session(path, one_window=True)
    rows = []
    unwanted = {i.name: np.array(False) for i in graph.get_inputs()[1:]}
    for window in found.heard:
        samples = at_peak(torch.from_numpy(window.astype(np.float32))[None])
        given = {checker.encoder.kind: checker.encoder.given(samples).numpy()}
        rows.append(graph.run(["logits"], given | unwanted)[0][0])
    return np.stack(rows)
