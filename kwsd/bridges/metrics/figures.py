"""The figures: what has been heard is counted, the rest is as the daemon's status has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from kwsd.events import Event, Lag, MicrophoneChange, Rejected, RejectReason, Wake
from kwsd.protocol.replies import StatusReply

SCORES = tuple(n / 10 for n in range(1, 10))
LATENCIES_S = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0, 2.0, 5.0)
STATES = ("ok", "silent", "lost", "paused")
"""States of the microphone that last."""
MOMENTS = ("overflow", "moved", "lost")
"""Changes of the microphone that are counted."""
OPENMETRICS = "application/openmetrics-text"
PLAIN = "text/plain"


class Figures(Collector):
    """All figures of one daemon. Nobody who speaks has a name in them."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()
        registry = self._registry = CollectorRegistry()
        registry.register(self)
        self._wakes = Counter("kwsd_wakes", "Wakes.", ["word"], registry=registry)
        self._rejections = Counter(
            "kwsd_rejections",
            "What came near a wake, or would have been one, and was not let through.",
            ["word", "reason"],
            registry=registry,
        )
        self._scores = Histogram(
            "kwsd_score",
            "Scores that decided; near misses have their peaks.",
            ["word", "event"],
            buckets=SCORES,
            registry=registry,
        )
        self._latency = Histogram(
            "kwsd_latency_seconds",
            "Time from when the last sample that decided was there to the wake.",
            buckets=LATENCIES_S,
            registry=registry,
        )
        self._moments = Counter(
            "kwsd_microphone_changes",
            "Times that the microphone was lost, samples were, or another source was heard.",
            ["state"],
            registry=registry,
        )
        self._lost = Counter("kwsd_samples_lost", "Samples lost, about.", registry=registry)
        self._behind = Counter(
            "kwsd_behind", "Times that the daemon fell behind its source.", registry=registry
        )
        for state in MOMENTS:
            self._moments.labels(state)
        self._status: StatusReply | None = None

    def count(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Wake():
                self._wakes.labels(event.word).inc()
                self._scores.labels(event.word, "wake").observe(event.score)
                if event.latency_ms is not None:
                    self._latency.observe(event.latency_ms / 1000)
            case Rejected():
                self._rejections.labels(event.word, event.reason).inc()
                self._scores.labels(event.word, "rejected").observe(event.score)
            case MicrophoneChange() if event.state in MOMENTS:
                self._moments.labels(event.state).inc()
                self._lost.inc(event.samples_lost or 0)
            case Lag(behind=True):
                self._behind.inc()

    def show(self, status: StatusReply | None) -> None:
        """Show what the daemon says of itself; None while it is away."""
        self._status = status
        for word in status.words if status else ():  # a rate needs a zero to begin with
            self._wakes.labels(word)
            for reason in get_args(RejectReason):
                self._rejections.labels(word, reason)

    def text(self, kind: str) -> tuple[bytes, str]:
        """Return all figures in the format `kind`, OPENMETRICS or PLAIN, and its content type."""
        if kind == OPENMETRICS:
            text: bytes = openmetrics.generate_latest(self._registry)
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Yield what the status says; nothing that was true once, while the daemon is away."""
        status = self._status
        yield GaugeMetricFamily("kwsd_up", "Whether the daemon answers.", float(bool(status)))
        if status is None:
            return
        yield _labeled(
            "kwsd_info",
            "The daemon's version, and the encoder of its models.",
            ["version", "encoder"],
            [((status.version, status.encoder_id), 1.0)],
        )
        for name, text, value in _gauges(status):
            if value is not None:
                yield GaugeMetricFamily(name, text, value)
        cpu_s = status.audio_s * (status.real_time_factor or 0.0)
        yield CounterMetricFamily("kwsd_audio_seconds", "Sound heard.", status.audio_s)
        yield CounterMetricFamily("kwsd_cpu_seconds", "Processor time of hearing it.", cpu_s)
        if status.checker:
            text = "Windows that the second stage has heard, since it was put in force."
            yield CounterMetricFamily("kwsd_checks", text, status.checker.checks)
        state = status.microphone.state
        states = [((one,), float(one == state)) for one in dict.fromkeys([*STATES, state])]
        yield _labeled(
            "kwsd_microphone_state",
            "The state of the microphone, of which one is 1.",
            ["state"],
            states,
        )
        levels = [((str(n),), level) for n, level in enumerate(status.microphone.levels_dbfs)]
        if levels:
            text = "Level over the last second, in dB of full scale."
            yield _labeled("kwsd_level_dbfs", text, ["channel"], levels)
        thresholds = [((name,), word.threshold) for name, word in status.words.items()]
        yield _labeled("kwsd_threshold", "Score from which a word wakes.", ["word"], thresholds)


def _gauges(status: StatusReply) -> list[tuple[str, str, float | None]]:
    """Return name, help and value of plain gauges."""
    return [
        ("kwsd_uptime_seconds", "Time since the daemon has started.", status.uptime_s),
        (
            "kwsd_real_time_factor",
            "Processor seconds for a second of sound, since the start.",
            status.real_time_factor,
        ),
        (
            "kwsd_encoded_ratio",
            "Share of the sound that the encoder was awake for.",
            status.encoded_share,
        ),
        ("kwsd_lag_seconds", "How long sound had been there when it was heard.", status.lag_s),
        ("kwsd_clients", "Clients of the socket.", status.clients),
        ("kwsd_streams", "Streams of audio that go to clients.", status.streams),
        ("kwsd_pauses", "Pauses that keep the microphone released.", len(status.pauses)),
        ("kwsd_speakers", "Enrolled speakers.", len(status.speakers)),
        ("kwsd_disabled_words", "Words that are disabled.", len(status.disabled)),
        (
            "kwsd_warnings",
            "What keeps the daemon from doing what the configuration means.",
            len(status.warnings),
        ),
        ("kwsd_unusable_files", "Files of the state that cannot be used.", len(status.unusable)),
    ]


def _labeled(
    name: str, text: str, labels: list[str], values: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def preferred(accept: str) -> str:
    """Return the format that the header `Accept` of a request wants: OPENMETRICS or PLAIN."""
    weights = {OPENMETRICS: 0.0, PLAIN: 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (text.strip() for text in part.split(";"))
        given = dict(text.partition("=")[::2] for text in parameters)
        if kind == OPENMETRICS and given.get("version", "1.0.0") != "1.0.0":
            continue
        try:
            weight = float(given.get("q", "1"))
        except ValueError:
            continue
        if kind in weights:
            weights[kind] = max(weights[kind], weight)
    return OPENMETRICS if weights[OPENMETRICS] > weights[PLAIN] else PLAIN
