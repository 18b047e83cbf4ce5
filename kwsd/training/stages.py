"""`kwsd train STAGE`; each resumes where it was cut off.

Data: unpack, synthesize, align. Teachers: cache, distill. Training: finetune, encoder, wake, speaker. The bundle: export, negatives, cohort, evaluate.

All stages share a working folder: unpack and synthesize fill `WORK/recorded` and `WORK/synthetic`, the others leave
`WORK/encoder.pt`, `WORK/wake.pt`, `WORK/speaker.pt`, and export writes the bundle.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kwsd.model import bundle as bundles
from kwsd.model.bundle import COHORT, NEGATIVES
from kwsd.training import align, cache, corpora, distill, encoder, evaluate, export, finetune, negatives, scenes, settings, speaker, synthesize, wake
from kwsd.training.speech_embedding import front_end

log = logging.getLogger(__name__)
STAGES = ("unpack", "synthesize", "align", "cache", "distill", "finetune", "encoder", "wake", "speaker", "export", "negatives", "cohort", "evaluate")


def main(argv: Sequence[str]) -> int:
    """Run one stage; the exit status."""
    parser = argparse.ArgumentParser(prog="kwsd train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed corpora, with manifest.tsv and rirs.npz")
    parser.add_argument("--work", type=Path, default=Path("work"), help="working folder (default: work)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the bundle to write or to evaluate (default: models)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the stage")
    parser.add_argument("--encoder", type=Path, metavar="FILE", help="finetune, wake, speaker, export: of this checkpoint (default: WORK/encoder.pt)")
    parser.add_argument("--only", metavar="A,B", help="cache: these teachers")
    parser.add_argument("--float", action="store_true", help="export: leave the encoder in 32 bit")
    parser.add_argument("--ungated", action="store_true", help="evaluate without the voice-activity gate")
    parser.add_argument("--write", action="store_true", help="evaluate: put thresholds and operating points into the bundle")
    asked = parser.parse_args(argv)
    # One core is left to the worker that makes the data.
    torch.set_num_threads(max((os.cpu_count() or 2) - 1, 1))
    work, rooms = asked.work, asked.data / "rirs.npz"
    work.mkdir(parents=True, exist_ok=True)
    stores = [folder for folder in (work / "recorded", work / "synthetic") if (folder / "manifest.tsv").exists()]
    if not stores and asked.stage not in ("unpack", "synthesize"):
        parser.error(f"{work} holds no corpora yet: run `kwsd train unpack` and `kwsd train synthesize` first")
    match asked.stage:
        case "unpack":
            corpora.unpack(asked.data, work / "recorded")
        case "synthesize":
            synthesize.synthesize(work / "synthetic", **_settings({"seed": 1, "kokoro_voices": 80}, asked.set))
        case "align":
            align.align([work / "recorded"], work / "aligned.tsv", **_settings({"whisper": "base"}, asked.set))
        case "cache":
            teachers = settings.read("cache", dict[str, cache.TeacherSettings], asked.set)
            for name in asked.only.split(",") if asked.only else teachers:
                if name not in teachers:
                    parser.error(f"--only {name}: cache.yaml has {', '.join(teachers)}")
                cache.cache(corpora.Corpora(*stores), name, teachers[name], work / "targets" / name)
        case "distill":
            wanted = settings.read("distill", distill.Settings, asked.set)
            distill.train(stores, rooms, work / "targets", work / "distilled.pt", wanted)
        case "finetune":
            begin = asked.encoder or (work / "distilled.pt" if (work / "distilled.pt").exists() else None)
            finetune.train(stores, rooms, begin, work / "finetuned.pt", settings.read("finetune", finetune.Settings, asked.set))
        case "encoder":
            encoder.train(stores, rooms, work / "encoder.pt", _changed(encoder.Settings(), asked.set))
        case "wake":
            wake.train(stores, rooms, asked.encoder or work / "encoder.pt", work / "wake.pt", _changed(wake.Settings(), asked.set))
        case "speaker":
            speaker.train(stores, rooms, asked.encoder or work / "encoder.pt", work / "speaker.pt", _changed(speaker.Settings(), asked.set))
        case "export":
            trained = encoder.load_encoder(asked.encoder or work / "encoder.pt")
            mels = [] if asked.float else _calibration(stores, rooms)
            export.export(trained, wake.load_head(work / "wake.pt"), speaker.load_head(work / "speaker.pt"), front_end(), asked.models, mels)
        case "negatives":
            negatives.gather(corpora.Corpora(*stores), work / "aligned.tsv", rooms, bundles.load(asked.models), asked.models / NEGATIVES)
            export.rewrite_manifest(asked.models)
        case "cohort":
            evaluate.cohort(asked.models, stores, rooms, asked.models / COHORT)
            export.rewrite_manifest(asked.models)
        case "evaluate":
            report = evaluate.evaluate(asked.models, stores, rooms, gated=not asked.ungated)
            (work / "evaluation.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
            if asked.write:
                _write_points(asked.models, report)
    return 0


def _calibration(stores: list[Path], rooms: Path, takes: int = 100) -> list[np.ndarray]:
    """Features of scenes of the training split, four seconds each."""
    training = scenes.Scenes(corpora.Corpora(*stores), rooms, seed=9)
    return [scenes.mel_of(front_end(), training.draw(50 * scenes.CHUNK).heard) for _ in range(takes)]


def _write_points(models: Path, report: dict[str, Any]) -> None:
    """Thresholds and operating points; speakers have that of 1 % false accepts."""
    export.set_thresholds(models, evaluate.measured(report), float(report["speakers_all"]["threshold_1_percent_fa"]))


def _settings(defaults: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """`defaults` with KEY=VALUE changes, each of its default's type. Raises ValueError."""
    for change in changes:
        key, _, value = change.partition("=")
        if key not in defaults:
            raise ValueError(f"no setting {key!r} here; there are {', '.join(defaults)}")
        defaults[key] = type(defaults[key])(value)
    return defaults


def _changed(settings: Any, changes: Sequence[str]) -> Any:
    plain = {f.name: getattr(settings, f.name) for f in fields(settings) if isinstance(getattr(settings, f.name), int | float)}
    return replace(settings, **_settings(plain, changes))
