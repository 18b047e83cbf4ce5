"""The settings of `kwsd train checker`."""

from __future__ import annotations

from kwsd.training.settings import Settings
from kwsd.training.stages.checker.candidates import CandidateSettings
from kwsd.training.stages.checker.distiller import DistillCheckerSettings
from kwsd.training.stages.checker.export import ExportSettings
from kwsd.training.stages.checker.spoken import SpokenSettings
from kwsd.training.stages.checker.tune import TuneSettings
from kwsd.training.stages.checker.words import WordsSettings


class CheckerSettings(Settings, frozen=True):
    """The settings of `checker.yaml`."""

    distill: DistillCheckerSettings
    candidates: CandidateSettings
    tune: TuneSettings
    spoken: SpokenSettings
    words: WordsSettings
    export: ExportSettings
