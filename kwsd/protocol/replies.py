"""The reply to each request, as structs."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from kwsd.events import SpeakerMatch
from kwsd.protocol.data import (
    ActiveWordInfo,
    AddedWordInfo,
    CheckerInfo,
    Clip,
    ClipInfo,
    LookBack,
    MadeFrom,
    MicrophoneInfo,
    PauseInfo,
    SpeakerInfo,
    TakeInfo,
)


class Reply(Struct, frozen=True, kw_only=True):
    """The fields of a reply."""


class EncodedReply(Reply, frozen=True):
    """A reply whose fields are JSON already, on the server's side alone."""

    json: bytes


class Page(Reply, frozen=True, kw_only=True, omit_defaults=True):
    """A page of a longer reply: the lists of all pages, joined, are the whole."""

    next: str | None = None
    """What the request for the next page has as `after`; left out on the last."""


class Done(Reply, frozen=True):
    """The reply of a request that has nothing to return."""


class StatusReply(Reply, frozen=True):
    """How the daemon is doing."""

    version: str
    uptime_s: float
    audio_s: float
    """Seconds of audio heard."""
    real_time_factor: float | None
    """CPU seconds per second of audio."""
    encoded_share: float | None
    """Share of the audio that the encoder was awake for."""
    words: dict[str, ActiveWordInfo]
    speakers: list[str]
    clients: int
    microphone: MicrophoneInfo
    lag_s: float | None
    """Seconds for which sound had been there when it was heard last."""
    look_back: LookBack
    encoder_id: str
    user: str
    """The user that the daemon runs as."""
    config: str | None
    """Path of the configuration; null where there is none, and defaults are in force."""
    state: str
    """Path of the state directory."""
    log_peaks: bool
    """Whether peaks are logged, without which nothing is to be calibrated from."""
    refused: str | None
    """Why this client's privileged requests are refused, and the fix; null where they are not."""
    warnings: list[str]
    """What keeps it from doing what the configuration means, with the remedy."""
    unusable: list[str] = []
    """Why files of the state directory cannot be used; the daemon goes on without them."""
    checker: CheckerInfo | None = None
    """The second stage; null where none is in force."""
    pauses: list[PauseInfo] = []
    """What keeps the microphone released, by holder."""
    disabled: list[str] = []
    """Words that it could listen for, and that are disabled."""
    pause_refused: str | None = None
    """Why `pause` and `resume` are refused to this client, and the fix; null where they are not."""
    streams: int = 0
    """How many streams of audio go to clients."""
    users: dict[str, int] = {}
    """Who listens: how many clients each user has, by the user's name."""
    stream_users: dict[str, int] = {}
    """To whom the streams of audio go: how many each user has."""
    false_accepts_per_hour: float | None = None
    """Those to expect of all words together; null where no word's were measured."""


class ConfigReply(Reply, frozen=True):
    """The configuration in force."""

    text: str
    """YAML, with the source of each key as a comment."""
    sources: dict[str, str]
    """The source of each key, by its path: a file and line, `command line`, `calibrated`, `model`
    (of the word, or of the bundle), `added word` or `default`."""


class AudioReply(Reply, frozen=True, omit_defaults=True):
    """A stretch of the look-back."""

    start: int
    end: int
    sample_rate: int
    pcm: bytes | None = None
    """Little-endian int16; left out where the audio was written to a passed descriptor."""
    written: Literal["wav"] | None = None


class StreamReply(Reply, frozen=True):
    """The stream that has begun; its messages follow."""

    stream: int
    """Its number, which its messages repeat."""
    start: int
    """Its first sample: later than the one that was asked for where that is no longer kept."""
    sample_rate: int


class ScoresReply(Reply, frozen=True):
    """The scores that follow."""

    interval_s: float
    """Seconds between two messages, a whole number of chunks."""


class StopReply(Reply, frozen=True):
    """Whether there was something to stop."""

    stopped: bool


class TakeReply(Reply, frozen=True):
    """A recorded utterance."""

    sample_rate: int
    pcm: bytes
    """Little-endian int16."""


class SpeakersReply(Page, frozen=True, kw_only=True):
    """The enrolled speakers."""

    speakers: list[SpeakerInfo]
    unusable: list[str]
    """Why other voiceprints cannot be used."""


class DeletedReply(Reply, frozen=True):
    """What was deleted."""

    deleted: str


class SpeakersTrialsReply(Reply, frozen=True):
    """Verification scores of the enrolled voices."""

    people: int
    target: list[float]
    """Of each enrolled take against the voiceprint of the speaker's other takes."""
    impostor: list[float]
    """Of other people's voices against each voiceprint."""


class SpeakersIdentifyReply(Reply, frozen=True):
    """Whose voice it is."""

    name: str | None
    """The enrolled speaker; null unless verified."""


class SpeakersHearReply(Reply, frozen=True):
    """Whose voice was heard, with details."""

    speaker: SpeakerMatch
    speech_dbfs: float
    """RMS level of the speech."""
    speech_s: float


class WordsReply(Page, frozen=True, kw_only=True):
    """The words that came with kwsd, and the added ones."""

    bundled: list[str]
    """Names of the words that came with kwsd, listened for or not."""
    words: list[AddedWordInfo]
    unusable: list[str]
    """Why other added words cannot be used."""
    unusable_words: list[str] = []
    """Names of those words, or of their files where these hold none."""
    unusable_made: list[MadeFrom] = []
    """How each of them was made, as far as its file tells."""
    keeps_takes: bool = False
    """Whether the takes of new words are kept."""


class WordsGetReply(Reply, frozen=True):
    """The file of an added word."""

    name: str
    file: bytes


class WordsDetectorReply(Reply, frozen=True):
    """What detects an added word."""

    name: str
    file: bytes
    """A word's file without its takes."""


class WordsPutReply(Reply, frozen=True):
    """The word that was kept."""

    name: str
    replaces: bool


class WordsEnabledReply(Reply, frozen=True):
    """What is listened for from now on."""

    words: list[str]
    disabled: list[str]
    """The words that are not, and could be."""


class TakesReply(Reply, frozen=True):
    """The takes of a word, in order."""

    word: str
    takes: list[TakeInfo]


class TakesGetReply(Reply, frozen=True):
    """One take with its audio."""

    take: TakeInfo
    sample_rate: int
    pcm: bytes
    """Little-endian int16."""


class TakesPutReply(Reply, frozen=True):
    """The take that was brought."""

    take: str
    """Its id."""


class TakesClearReply(Reply, frozen=True):
    """How many takes were deleted."""

    deleted: int


class ClipsReply(Page, frozen=True, kw_only=True):
    """The clips that are kept, by id: the oldest first."""

    clips: list[ClipInfo]
    enabled: bool
    """Whether new clips are kept."""
    bytes: int = 0
    """How many they take on the disk."""
    max_bytes: int = 0
    """How many they may take, by the configuration."""
    max_count: int = 0
    """How many clips there may be."""


class ClipsGetReply(Reply, frozen=True):
    """One clip with its audio."""

    clip: Clip
    sample_rate: int
    pcm: bytes
    """Little-endian int16."""


class ClipsKeepReply(Reply, frozen=True):
    """What is in force from now on."""

    enabled: bool
    """Whether new clips are kept."""


class ClipsLabelReply(Reply, frozen=True):
    """How many clips were labeled."""

    labeled: int


class ClipsClearReply(Reply, frozen=True):
    """How many clips were deleted."""

    deleted: int


class EnrollBeginReply(Reply, frozen=True):
    """The enrollment that has begun."""

    name: str
    replaces: bool
    """Whether the speaker has this reference already, or a voiceprint that cannot be read."""
    words: list[str]
    """The words that the detector listens for."""
    references: list[str] = []
    """The names of the speaker's references."""


class EnrollNextReply(Reply, frozen=True):
    """The take that was accepted."""

    take: int
    """How many takes there are now."""
    speech_dbfs: float
    """RMS level of the speech in it."""
    speech_s: float


class EnrollCommitReply(Reply, frozen=True):
    """The voiceprint that was stored."""

    name: str
    takes: int
    left_out: list[int]
    """Numbers of the accepted takes, from 1, that sound like somebody else than most of them."""
    known_as: list[str]
    """Other names under which this voice is enrolled."""
    unlike: bool = False
    """Whether it does not resemble the speaker's other references."""


class PauseReply(Reply, frozen=True):
    """The pauses in force: the microphone is released."""

    pauses: list[PauseInfo]


class ResumeReply(Reply, frozen=True):
    """The pauses that are left; where none is, the microphone is opened again."""

    resumed: bool
    """Whether the holder had a pause, which has ended."""
    pauses: list[PauseInfo]
