"""The stages of `kwsd train`, one function each; every stage resumes where it was interrupted.

All stages share a working folder. `unpack` fills WORK/recorded, `import_corpus` WORK/NAME and
`synthesize` WORK/synthetic; all of them are trained on. `unpack_validation` fills WORK/val, which
is never trained on. The others leave WORK/aligned.tsv, WORK/targets, WORK/distilled.pt,
WORK/finetuned.pt, WORK/wake.pt, WORK/speaker.pt, WORK/checker, WORK/voices.pt and WORK/ablations,
and `export` writes the bundle. WORK/words.yaml and WORK/corpora.yaml, where they exist, replace
those that come with kwsd.

Each function raises ConfigError for bad settings, FileNotFoundError where an earlier stage has not
run, and TeacherError (a ValueError) for teachers and their targets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from kwsd.audio.format import CHUNK_SAMPLES
from kwsd.config import ConfigError
from kwsd.model.bundle import COHORT, NEGATIVES, SPEECH
from kwsd.protocol.data import CheckerSize
from kwsd.state.store import write_atomically
from kwsd.training import features, settings
from kwsd.training.bundle_runtime import BundleRuntime
from kwsd.training.bundle_writer import (
    CHECKER_COHORT,
    CHECKER_NEGATIVES,
    CHECKER_VOICES,
    BundleWriter,
)
from kwsd.training.data.corpora import VALIDATION
from kwsd.training.data.targets import Voices
from kwsd.training.data.training_data import TrainingData
from kwsd.training.models import checkpoint
from kwsd.training.models.heads import SpeakerHeads, WakeHead
from kwsd.training.settings import Settings
from kwsd.training.settings.catalog import read_roles, read_words
from kwsd.training.stages import ablate as ablations
from kwsd.training.stages import ablate_checker as checker_rows
from kwsd.training.stages import align as alignment
from kwsd.training.stages import cache as caching
from kwsd.training.stages import cohort as cohorts
from kwsd.training.stages import compare as comparison
from kwsd.training.stages import distill as distillation
from kwsd.training.stages import evaluate as evaluation
from kwsd.training.stages import export as exporting
from kwsd.training.stages import finetune as finetuning
from kwsd.training.stages import folds as splitting
from kwsd.training.stages import headline as headlines
from kwsd.training.stages import homophones as nearly
from kwsd.training.stages import negatives as bank
from kwsd.training.stages import speaker, wake
from kwsd.training.stages import synthesize as synthesis
from kwsd.training.stages import unpack as unpacking
from kwsd.training.stages.checker import candidates, voice_graph
from kwsd.training.stages.checker import distill as checker_distill
from kwsd.training.stages.checker import export as checker_export
from kwsd.training.stages.checker import spoken as spoken_windows
from kwsd.training.stages.checker import tune as checker_tuning
from kwsd.training.stages.checker import voices as checker_voices
from kwsd.training.stages.checker import words as checker_words
from kwsd.training.stages.checker.settings import CheckerSettings

CALIBRATION_SCENES = 100
"""Scenes of four seconds that the 8-bit encoder is calibrated on."""


class HeadsSettings(Settings, frozen=True):
    """The settings of `heads.yaml`."""

    wake: wake.WakeSettings
    speaker: speaker.SpeakerSettings


def unpack(work: Path, data: Path) -> None:
    """Decode the recordings that `data/manifest.tsv` names into WORK/recorded."""
    unpacking.unpack(data, work / "recorded")


def unpack_validation(work: Path, data: Path) -> None:
    """Decode the recordings that `data/manifest.tsv` names into WORK/val, for measuring alone."""
    unpacking.unpack(data, work / VALIDATION)


def import_corpus(work: Path, data: Path, layout: str, name: str | None = None) -> None:
    """Decode the corpus in the folder `data`, which has the published `layout`, into WORK/NAME
    (default: WORK/LAYOUT); room responses of the layout `collected` into the file `rirs.npz`
    there. Raises ConfigError for a name that is no folder's, or that of the store for
    validation."""
    unpacking.import_corpus(work, data, layout, name or layout)


def synthesize(work: Path, changes: Sequence[str] = ()) -> None:
    """Speak the wake words and words near them into WORK/synthetic."""
    chosen = settings.read("synthesize", synthesis.SynthesizeSettings, changes)
    corpus = read_roles(work).synthetic
    near = nearly.listed(work)
    synthesis.synthesize(work / "synthetic", read_words(work), corpus, chosen, near)


def homophones(work: Path, changes: Sequence[str] = ()) -> None:
    """Find what sounds nearly like the wake words, into WORK/homophones.tsv and, cut from the
    aligned sentences, the store WORK/homophones."""
    chosen = settings.read("homophones", nearly.HomophoneSettings, changes)
    nearly.homophones(TrainingData.of(work, None), work, chosen)


def folds(work: Path) -> None:
    """Write what each fold of the speakers holds into WORK/folds.tsv, and log it."""
    splitting.folds(TrainingData.of(work, None), work / "folds.tsv")


def align(work: Path, changes: Sequence[str] = ()) -> None:
    """Find the words of unlabeled sentences by Whisper, into WORK/aligned.tsv."""
    chosen = settings.read("align", alignment.AlignSettings, changes)
    data = TrainingData.of(work, None)
    alignment.align(data.corpora(saying=True), data.aligned, chosen)


def cache(work: Path, only: Sequence[str] | None = None, changes: Sequence[str] = ()) -> None:
    """Ask the teachers (`only`: these; else those of distill.yaml) about every utterance."""
    teachers = settings.read("cache", dict[str, caching.TeacherSettings], changes)
    usual = settings.read("distill", distillation.DistillSettings).teachers
    names = _chosen(only or list(usual), teachers, "cache")
    corpora = TrainingData.of(work, None).corpora()
    for name in names:
        caching.cache(corpora, name, teachers[name], work / "targets" / name)


def distill(work: Path, rooms: Path, changes: Sequence[str] = ()) -> None:
    """Train an encoder from the teachers' cached answers, into WORK/distilled.pt."""
    chosen = settings.read("distill", distillation.DistillSettings, changes)
    data = TrainingData.of(work, rooms)
    distillation.train(data, work / "targets", work / "distilled.pt", chosen)


def finetune(
    work: Path, rooms: Path, encoder: Path | None = None, changes: Sequence[str] = ()
) -> None:
    """Train words and voices over the whole encoder, into WORK/finetuned.pt.

    It starts from the checkpoint `encoder`, else from WORK/distilled.pt if it exists, else from the
    speech embedding."""
    chosen = settings.read("finetune", finetuning.FinetuneSettings, changes)
    data = TrainingData.of(work, rooms)
    distilled = work / "distilled.pt"
    start = encoder or (distilled if distilled.exists() else None)
    finetuning.train(data, _voices(work), start, work / "finetuned.pt", chosen)


def heads(
    work: Path,
    rooms: Path,
    encoder: Path | None = None,
    only: Sequence[str] | None = None,
    changes: Sequence[str] = (),
) -> None:
    """Train the wake head and the speaker heads (`only`: one of them) on the frozen encoder of the
    checkpoint `encoder` (default: WORK/finetuned.pt), into WORK/wake.pt and WORK/speaker.pt; the
    wake head also on that of the bundle in the folder `encoder`."""
    chosen = settings.read("heads", HeadsSettings, changes)
    both = ("wake", "speaker")
    names = _chosen(only or both, both, "heads")
    data = TrainingData.of(work, rooms)
    trained = encoder or work / "finetuned.pt"
    if trained.is_dir() and names != ["wake"]:
        raise ConfigError(
            f"{trained} is a bundle, on whose encoder the wake head alone is trained: add "
            "`--only wake`, or give a checkpoint"
        )
    for head in names:
        if head == "wake":
            wake.train(data, trained, work / "wake.pt", chosen.wake)
        else:
            speaker.train(data, _voices(work), trained, work / "speaker.pt", chosen.speaker)


def checker(
    work: Path,
    rooms: Path,
    models: Path,
    teacher: str,
    only: Sequence[str] | None = None,
    changes: Sequence[str] = (),
) -> None:
    """Make the second stage of the bundle `models` from the transformer `teacher`, a folder or a
    hub name, step by step in WORK/checker (`only`: some of the steps)."""
    chosen = settings.read("checker", CheckerSettings, changes)
    steps = ("spoken", "distill", "candidates", "tune", "words", "export")
    names = _chosen(only or steps, steps, "checker")
    data = TrainingData.of(work, rooms)
    folder = work / "checker"
    folder.mkdir(exist_ok=True)
    distilled, tuned = folder / "distilled.pt", folder / "tuned.pt"
    found = {False: folder / candidates.TRAINING, True: folder / candidates.DEVELOPMENT}
    held_back = data.validation()
    validating = None if held_back is None else folder / candidates.VALIDATION
    spoken, start, words = folder / "spoken", folder / "distilled-words.pt", folder / "words.pt"
    if "spoken" in names:
        spoken_windows.gather(data, spoken, chosen.spoken)
    if "distill" in names:
        checker_distill.make(data, teacher, distilled, chosen.distill, models, spoken, chosen.words)
    if "candidates" in names:
        for development, out in found.items():
            candidates.gather(data, models, out, chosen.candidates, development=development)
        if held_back and validating:
            candidates.gather(held_back, models, validating, chosen.candidates, development=True)
    if "tune" in names:
        if chosen.tune.spoken:
            checker_words.make(spoken, distilled, start, chosen.words)
        heard = checker_tuning.Heard(found[False], validating, spoken, start)
        checker_tuning.train(data, teacher, distilled, heard, tuned, chosen.tune)
    if "words" in names:
        checker_words.make(spoken, tuned, words, chosen.words)
    if "export" in names:
        heads = checker_export.Heads(tuned, words)
        checker_export.export(heads, found[True], models, data.roles, chosen.export)


def voices(work: Path, rooms: Path, models: Path, changes: Sequence[str] = ()) -> None:
    """Put a network of voices, trained through WORK/voices.pt, beside the checker of `models`."""
    chosen = settings.read("voices", checker_voices.VoicesSettings, changes)
    data = TrainingData.of(work, rooms)
    runtime = BundleRuntime(models, checker="small")
    if runtime.checker is None:
        raise ConfigError(f"{models} has no checker; run `kwsd train checker` first")
    filters = runtime.checker_filters()
    network = checker_voices.voices(data, filters, work / "voices.pt", chosen)
    with BundleWriter(models) as writer:
        kind: Literal["mel", "waveform"] = "waveform" if filters is None else "mel"
        voice_graph.write(network, kind, writer.file(CHECKER_VOICES))
        parameters = sum(part.numel() for part in network.parameters())
        writer.set_voices(runtime.checker.size, chosen.share, chosen.weight, parameters)


def compare(work: Path, rooms: Path, encoder: Path | None = None, out: Path | None = None) -> None:
    """Measure a checkpoint of `finetune` (default: WORK/finetuned.pt) on the development split,
    into the JSON file `out` (default: beside it)."""
    path = encoder or work / "finetuned.pt"
    comparison.compare(path, TrainingData.of(work, rooms), out or path.with_suffix(".json"))


def headline(
    work: Path,
    rooms: Path,
    teacher: str,
    encoder: Path | None = None,
    out: Path | None = None,
    changes: Sequence[str] = (),
) -> None:
    """Tune the transformer `teacher`, a folder or a hub name, and its student in the checkpoint
    `encoder` (default: WORK/checker/distilled.pt) alike; measure both into the JSON file `out`
    (default: WORK/headline.json)."""
    chosen = settings.read("headline", headlines.HeadlineSettings, changes)
    data = TrainingData.of(work, rooms)
    distilled = encoder or work / "checker" / "distilled.pt"
    report = headlines.headline(data, teacher, distilled, work / "headline", chosen)
    write_atomically(out or work / "headline.json", json.dumps(report, indent=1).encode())


def ablate(
    work: Path,
    rooms: Path,
    teacher: str | None = None,
    only: Sequence[str] | None = None,
    changes: Sequence[str] = (),
) -> None:
    """Distill, tune and measure the rows of `ablate.yaml` (`only`: these), or, with the transformer
    `teacher`, a folder or a hub name, those of `ablate_checker.yaml`, into WORK/ablations."""
    if teacher is None:
        table = settings.read("ablate", ablations.AblateSettings, changes)
        names = _chosen(only or table.rows, table.rows, "ablate")
        ablations.ablate(work, TrainingData.of(work, rooms), table, names)
    else:
        rows = settings.read("ablate_checker", checker_rows.AblateCheckerSettings, changes)
        names = _chosen(only or rows.rows, rows.rows, "ablate --teacher")
        checker_rows.ablate(work, TrainingData.of(work, rooms), teacher, rows, names)


def export(
    work: Path,
    rooms: Path,
    models: Path,
    encoder: Path | None = None,
    only: Sequence[str] | None = None,
    quantized: bool = True,
) -> None:
    """Write the bundle `models`: encoder and wake head (`student`), and the speaker heads with
    their backend (`speaker`); `only`: one of them, and the other stays as it is, or the `wake` head
    alone, behind the encoder that the bundle has.

    The encoder is that of the checkpoint `encoder` (default: WORK/finetuned.pt)."""
    chosen = _chosen(only or ("student", "speaker"), ("student", "wake", "speaker"), "export")
    data = TrainingData.of(work, rooms)
    if "student" in chosen:
        exporting.export_encoder(
            checkpoint.load_encoder(encoder or work / "finetuned.pt"),
            checkpoint.load(work / "wake.pt", "head", WakeHead),
            features.front_end(),
            data.words,
            models,
            _calibration(data) if quantized else [],
        )
    if "wake" in chosen:
        head = checkpoint.load(work / "wake.pt", "head", WakeHead)
        exporting.export_wake(head, data.words, models)
    if "speaker" in chosen:
        trained = checkpoint.load(work / "speaker.pt", "head", SpeakerHeads)
        # The backend is fitted to the embeddings of the exported bundle, so the heads go first.
        exporting.export_speaker(exporting.SpeakerModel(trained), models)
        backend = evaluation.fit_backend(BundleRuntime(models), data.corpora())
        exporting.export_speaker(exporting.SpeakerModel(trained, backend), models)


def negatives(work: Path, rooms: Path, models: Path) -> None:
    """Put embeddings of audio without the user's words into the bundle `models`, and what tells
    speech in them."""
    data = TrainingData.of(work, rooms)
    data.transcripts()  # a mismatch is reported before the models are loaded
    with BundleWriter(models) as writer:
        runtime = BundleRuntime(models, checker="small")
        files = writer.file(NEGATIVES), writer.file(CHECKER_NEGATIVES)
        if bank.gather(data, runtime, *files, work / "checker/spoken") and runtime.checker:
            writer.set_checker_negatives(runtime.checker.size)
        bank.fit_probe(data, runtime, writer.file(SPEECH))


def cohort(work: Path, rooms: Path, models: Path, changes: Sequence[str] = ()) -> None:
    """Put voices to normalize speaker scores by into the bundle `models`; for those that are joined
    with the checker's as well, where it gives voices."""
    chosen = settings.read("cohort", cohorts.CohortSettings, changes)
    data = TrainingData.of(work, rooms)
    with BundleWriter(models) as writer:
        runtime = BundleRuntime(models, checker="small", join_voices=True)
        heard = cohorts.cohort(runtime, data, chosen)
        cohorts.write(writer.file(COHORT), *heard, runtime.speaker_dim)
        if runtime.checker is not None and runtime.joins_voices:
            cohorts.write(writer.file(CHECKER_COHORT), *heard, heard[0].shape[1])
            writer.set_checker_cohort(runtime.checker.size)


def evaluate(
    work: Path,
    rooms: Path,
    models: Path,
    *,
    checker: CheckerSize | Literal["off"] = "small",
    gated: bool = True,
    only: Sequence[str] | None = None,
    write: bool = False,
) -> None:
    """Measure the bundle `models` on the development split, with `checker` as in the configuration,
    into WORK/evaluation-CHECKER.json; `only` its words or voices, into
    WORK/evaluation-CHECKER-ONLY.json.

    `write`: put thresholds and operating points into the bundle; speakers get the threshold at
    which 5 % of the owners are missed."""
    parts = _chosen(only or evaluation.PARTS, evaluation.PARTS, "evaluate")
    data = TrainingData.of(work, rooms)
    runtime = BundleRuntime(models, checker=checker, gated=gated)
    size = runtime.checker.size if runtime.checker else None
    report = evaluation.evaluate(runtime, data, parts)
    name = "-".join(["evaluation", size or "off", *(only or ())])
    (work / f"{name}.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    if write:
        scale = report.get("speakers_all", {}).get("scale")
        speakers = scale and {name: scale[name] for name in evaluation.SPEAKER_SCALE}
        if size is not None and not runtime.joins_voices:
            speakers = None  # they are what they are without a checker
        with BundleWriter(models) as writer:
            writer.set_thresholds(evaluation.word_measures(report), speakers, size)


def _voices(work: Path) -> Voices:
    """Return the vectors of the voice teacher."""
    return Voices(work / "targets" / "voice")


def _chosen(only: Iterable[str], available: Iterable[str], stage: str) -> list[str]:
    """Return `only`. Raises ConfigError where one of them is not `available`."""
    known = list(available)
    chosen = list(only)
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--only {name}: {stage} has {', '.join(known)}")
    return chosen


def _calibration(data: TrainingData) -> list[np.ndarray]:
    """Return features of scenes of the training split, four seconds each."""
    scenes = data.scenes(seed=9)
    drawn = [scenes.draw(50 * CHUNK_SAMPLES) for _ in range(CALIBRATION_SCENES)]
    clean = np.stack([scene.clean for scene in drawn])
    heard = scenes.hear(clean, [scene.degradation for scene in drawn])
    return list(features.mel_of(features.front_end(), heard))
