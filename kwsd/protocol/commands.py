"""The command table: every request with its reply.

A request is declared once, as a struct, here or in `kwsd.protocol.calibration`. Decoding,
validation, the JSON Schema in `docs/` and the types of client and server follow from the
declaration. Beside its fields, a request says who may make it (`privileged`, the default) and
whether it changes what the detector must know (`changes_state`). Unknown fields are ignored. Bytes
travel as base64. Every text, list and number has a bound. A request with a field `after` is
answered in pages (`kwsd.protocol.paging`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast, get_args

from msgspec import Meta

from kwsd.protocol import replies

# Requests are found here, wherever they are declared.
from kwsd.protocol.calibration import CalibrationPut as CalibrationPut
from kwsd.protocol.calibration import CalibrationTradeOff as CalibrationTradeOff
from kwsd.protocol.calibration import CalibrationUndo as CalibrationUndo
from kwsd.protocol.calibration import GetCalibration as GetCalibration
from kwsd.protocol.calibration import Peaks as Peaks
from kwsd.protocol.data import MAX_TAKES, Band, ClipLabel, TakeInfo
from kwsd.protocol.request import (
    MAX_EMBEDDING,
    MAX_PAUSE_S,
    MAX_STREAM_S,
    ClipIds,
    Cursor,
    EventType,
    Holder,
    Name,
    Request,
    Sample,
    Timeout,
)

PROTOCOL = 2
"""Version of the protocol, which the greeting names."""


class Subscribe(Request[replies.Done], frozen=True, tag="subscribe"):
    """Receive events from now on."""

    privileged: ClassVar[bool] = False
    types: Annotated[list[EventType], Meta(max_length=16)] | None = None
    """Only these types of events."""
    words: Annotated[list[Name], Meta(max_length=256)] | None = None
    """Only events of these words."""
    details: bool = False
    """Name the nearest speaker and the runner-up, also of a voice that is not verified: for
    privileged users only."""


class Status(Request[replies.StatusReply], frozen=True, tag="status"):
    """Ask how the daemon is doing."""

    privileged: ClassVar[bool] = False


class GetConfig(Request[replies.ConfigReply], frozen=True, tag="config"):
    """Ask for the configuration in force, calibrated thresholds included."""

    privileged: ClassVar[bool] = False


class Audio(Request[replies.AudioReply], frozen=True, tag="audio"):
    """Fetch samples of the look-back, at most 20 s; into a WAV if a descriptor is passed along.

    What is not kept is left out; the reply says which samples it has.
    """

    start: Sample
    end: Sample


class Stream(Request[replies.StreamReply], frozen=True, tag="stream"):
    """Receive the audio as it comes, from a sample of the look-back on, up to silence.

    `stream` messages follow the reply, and a `stream.end`.
    """

    group_key: ClassVar[str | None] = "stream_group"
    start: Sample | None = None
    """The first sample, such as the `end` of a wake; by default the one that comes next."""
    pre_roll_s: Annotated[float, Meta(ge=0, le=300)] | None = None
    """Instead of `start`: so many seconds before the sample that comes next."""
    silence_s: Annotated[float, Meta(ge=0, le=60)] = 0.8
    """Silence after speech that ends it, in seconds; 0 for none."""
    max_s: Annotated[float, Meta(gt=0, le=MAX_STREAM_S)] = 15.0
    """Longest length, in seconds."""


class StreamStop(Request[replies.StopReply], frozen=True, tag="stream.stop"):
    """End a stream of this connection."""

    group_key: ClassVar[str | None] = "stream_group"
    stream: Sample
    """Its number, which the reply to `stream` has."""


class Scores(Request[replies.ScoresReply], frozen=True, tag="scores"):
    """Receive each word's running scores, up to 12.5 times a second; `scores` messages follow."""

    interval_s: Annotated[float, Meta(ge=0.08, le=10)] = 0.08
    """Seconds between two messages, in whole chunks of 80 ms; each has the highest scores since the
    one before."""


class ScoresStop(Request[replies.StopReply], frozen=True, tag="scores.stop"):
    """Receive no more scores on this connection."""


class RecordTake(Request[replies.TakeReply], frozen=True, tag="take"):
    """Record one utterance, up to a pause; `level` messages come before the reply."""

    timeout_s: Timeout = 15.0
    start: Sample | None = None
    """The first sample that may belong to it, such as the `end` of a wake; by default the one that
    comes next."""


class EnrollBegin(Request[replies.EnrollBeginReply], frozen=True, tag="enroll.begin"):
    """Begin an enrollment, which belongs to the connection and ends with it."""

    name: Name
    reference: Name = ""
    """What tells it from the speaker's other references, such as `far`, which stay beside it."""


class EnrollNext(Request[replies.EnrollNextReply], frozen=True, tag="enroll.next"):
    """Add a take: recorded from the microphone, or `audio`, or a clip."""

    kind: Literal["word", "free"] = "word"
    word: Name | None = None
    """The wake word to wait for; any where it is missing."""
    timeout_s: Timeout = 15.0
    audio: bytes | None = None
    """Little-endian int16 at 16 kHz, at most 20 s."""
    clip: Name | None = None
    """Id of a clip, whose word is the take."""


class EnrollCommit(Request[replies.EnrollCommitReply], frozen=True, tag="enroll.commit"):
    """Store the voiceprint; at least two takes are needed, and three are better."""

    changes_state: ClassVar[bool] = True


class EnrollAbort(Request[replies.Done], frozen=True, tag="enroll.abort"):
    """Drop the enrollment."""


class Speakers(Request[replies.SpeakersReply], frozen=True, tag="speakers"):
    """List the enrolled speakers."""

    privileged: ClassVar[bool] = False
    after: Cursor | None = None


class SpeakersDelete(Request[replies.DeletedReply], frozen=True, tag="speakers.delete"):
    """Delete a speaker's voiceprint, or one reference of it."""

    changes_state: ClassVar[bool] = True
    name: Name
    reference: Name | None = None


class SpeakersTrials(Request[replies.SpeakersTrialsReply], frozen=True, tag="speakers.trials"):
    """Score the enrolled voices against each other and against strangers."""


class SpeakersIdentify(
    Request[replies.SpeakersIdentifyReply], frozen=True, tag="speakers.identify"
):
    """Ask who of those who are enrolled has this voice, which was heard elsewhere."""

    group_key: ClassVar[str | None] = "identify_group"
    encoder_id: Name
    """Of the model that embedded the voice."""
    embedding: Annotated[bytes, Meta(max_length=4 * MAX_EMBEDDING)]
    """Little-endian float32, of unit length."""
    band: Band = "unknown"
    """Of the audio that it was heard in."""
    speech_s: Annotated[float, Meta(ge=0, le=3600)] = 0.6
    """Seconds of speech in that audio: about a wake word's where they are not known."""


class SpeakersHear(Request[replies.SpeakersHearReply], frozen=True, tag="speakers.hear"):
    """Record one utterance, as `take` does, and ask whose voice it is."""

    timeout_s: Timeout = 15.0


class Words(Request[replies.WordsReply], frozen=True, tag="words"):
    """List the added words."""

    privileged: ClassVar[bool] = False
    after: Cursor | None = None


class WordsGet(Request[replies.WordsGetReply], frozen=True, tag="words.get"):
    """Fetch the file of an added word."""

    name: Name


class WordsDetector(Request[replies.WordsDetectorReply], frozen=True, tag="words.detector"):
    """Fetch what detects an added word, without what is kept of its takes."""

    privileged: ClassVar[bool] = False
    name: Name


class WordsPut(Request[replies.WordsPutReply], frozen=True, tag="words.put"):
    """Keep an added word and listen for it from now on."""

    changes_state: ClassVar[bool] = True
    file: bytes
    """The word's file."""
    takes: Annotated[list[TakeInfo], Meta(max_length=MAX_TAKES)] | None = None
    """What it was made from, in place of all takes that it had: kept already, or put before. Left
    out, they stay as they are."""


class WordsDelete(Request[replies.DeletedReply], frozen=True, tag="words.delete"):
    """Delete an added word and its takes."""

    changes_state: ClassVar[bool] = True
    name: Name


class WordsEnable(Request[replies.WordsEnabledReply], frozen=True, tag="words.enable"):
    """Listen for a word that is disabled, until the daemon's restart."""

    changes_state: ClassVar[bool] = True
    name: Name


class WordsDisable(Request[replies.WordsEnabledReply], frozen=True, tag="words.disable"):
    """Do not listen for a word, until the daemon's restart."""

    changes_state: ClassVar[bool] = True
    name: Name


class Takes(Request[replies.TakesReply], frozen=True, tag="takes"):
    """List the recordings that an added word was made from, as far as they are kept."""

    word: Name


class TakesGet(Request[replies.TakesGetReply], frozen=True, tag="takes.get"):
    """Fetch a take."""

    word: Name
    take: Name
    """Its id."""


class TakesPut(Request[replies.TakesPutReply], frozen=True, tag="takes.put"):
    """Bring a take of a word, which is kept once `words.put` names it."""

    word: Name
    audio: bytes
    """Little-endian int16 at 16 kHz, at most 20 s, which has passed kwsd's high-pass."""


class TakesClear(Request[replies.TakesClearReply], frozen=True, tag="takes.clear"):
    """Delete the takes of a word; the word stays."""

    word: Name


class Clips(Request[replies.ClipsReply], frozen=True, tag="clips"):
    """List the clips."""

    after: Cursor | None = None


class ClipsGet(Request[replies.ClipsGetReply], frozen=True, tag="clips.get"):
    """Fetch a clip."""

    clip: Name
    """Its id."""


class ClipsKeep(Request[replies.ClipsKeepReply], frozen=True, tag="clips.keep"):
    """Keep new clips, or none, whatever the configuration says, also after a restart."""

    changes_state: ClassVar[bool] = True
    enabled: bool | None = None
    """Without it, the configuration decides again."""


class ClipsLabel(Request[replies.ClipsLabelReply], frozen=True, tag="clips.label"):
    """Label clips as the word or not; without a label, take it back."""

    clips: ClipIds
    """Their ids."""
    label: ClipLabel | None = None


class ClipsClear(Request[replies.ClipsClearReply], frozen=True, tag="clips.clear"):
    """Delete clips: those that are named, or all."""

    clips: ClipIds | None = None
    """Their ids."""
    all: bool = False


class Reload(Request[replies.Done], frozen=True, tag="reload"):
    """Read the configuration and the state directory again."""


class Pause(Request[replies.PauseReply], frozen=True, tag="pause"):
    """Release the microphone until the last pause is gone; a holder's second replaces the first."""

    group_key: ClassVar[str | None] = "pause_group"
    holder: Holder
    for_s: Annotated[float, Meta(gt=0, le=MAX_PAUSE_S)] | None = None
    """Seconds after which it ends, also where its connection has gone before; without, it ends with
    its connection."""


class Resume(Request[replies.ResumeReply], frozen=True, tag="resume"):
    """End the pause of a holder."""

    group_key: ClassVar[str | None] = "pause_group"
    holder: Holder


Command = (
    Subscribe
    | Status
    | GetConfig
    | Audio
    | Stream
    | StreamStop
    | Scores
    | ScoresStop
    | RecordTake
    | EnrollBegin
    | EnrollNext
    | EnrollCommit
    | EnrollAbort
    | Speakers
    | SpeakersDelete
    | SpeakersTrials
    | SpeakersIdentify
    | SpeakersHear
    | Words
    | WordsGet
    | WordsDetector
    | WordsPut
    | WordsDelete
    | WordsEnable
    | WordsDisable
    | Takes
    | TakesGet
    | TakesPut
    | TakesClear
    | GetCalibration
    | CalibrationPut
    | CalibrationUndo
    | CalibrationTradeOff
    | Peaks
    | Clips
    | ClipsGet
    | ClipsKeep
    | ClipsLabel
    | ClipsClear
    | Reload
    | Pause
    | Resume
)
"""Every request."""
COMMANDS: dict[str, type[Command]] = {
    cast(str, kind.__struct_config__.tag): kind for kind in get_args(Command)
}
"""Every request by its type."""
