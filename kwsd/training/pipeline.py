"""`kwsd train STAGE`; each resumes where it was cut off.

Data: unpack, import, synthesize, align. Teachers: cache, distill. Training: finetune, heads, compare, ablate. The bundle: export, negatives, cohort, evaluate.

All stages share a working folder: unpack fills `WORK/recorded`, import `WORK/LAYOUT`, synthesize `WORK/synthetic`; all of them are
trained on. The others leave `WORK/targets`, `WORK/distilled.pt`, `WORK/finetuned.pt`, `WORK/wake.pt` and `WORK/speaker.pt`, ablate
`WORK/ablations`, and export writes the bundle.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kwsd.config import ConfigError
from kwsd.model import bundle as bundles
from kwsd.model.bundle import COHORT, NEGATIVES
from kwsd.training import settings
from kwsd.training.data import corpora, importers, scenes
from kwsd.training.data.transcripts import Spoken
from kwsd.training.models import checkpoint
from kwsd.training.models.network import SpeakerHeads, WakeHead
from kwsd.training.models.speech_embedding import front_end
from kwsd.training.stages import ablate, align, cache, compare, distill, evaluate, export, finetune, negatives, speaker, synthesize, wake

log = logging.getLogger(__name__)
STAGES = (
    "unpack", "import", "synthesize", "align", "cache", "distill", "finetune", "heads", "compare", "ablate", "export", "negatives", "cohort", "evaluate",
)  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """Of `heads.yaml`."""

    wake: wake.Settings
    speaker: speaker.Settings


def main(argv: Sequence[str]) -> int:
    """Run one stage; the exit status."""
    parser = argparse.ArgumentParser(prog="kwsd train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed corpora, with manifest.tsv and rirs.npz; import: the corpus's own")
    parser.add_argument("--work", type=Path, default=Path("work"), help="working folder (default: work)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the bundle to write or to evaluate (default: models)")
    parser.add_argument("--layout", choices=importers.LAYOUTS, help="import: how the corpus in the folder --data lies")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the stage")
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="FILE",
        help="finetune: on from it (default: WORK/distilled.pt, else the speech embedding); heads, compare, export: of it (default: WORK/finetuned.pt)",
    )
    parser.add_argument(
        "--only",
        metavar="A,B",
        help="cache: these teachers (default: those of distill.yaml); heads: wake or speaker; export: student or speaker; ablate: these rows",
    )
    parser.add_argument("--float", action="store_true", help="export: leave the encoder in 32 bit")
    parser.add_argument("--ungated", action="store_true", help="evaluate without the voice-activity gate")
    parser.add_argument("--write", action="store_true", help="evaluate: put thresholds and operating points into the bundle")
    asked = parser.parse_args(argv)
    work, rooms = asked.work, asked.data / "rirs.npz"
    work.mkdir(parents=True, exist_ok=True)
    stores = sorted(path.parent for path in work.glob("*/audio.npy"))
    if not stores and asked.stage not in ("unpack", "import", "synthesize"):
        parser.error(f"{work} holds no corpora yet: run `kwsd train unpack` (or import) and `kwsd train synthesize` first")
    match asked.stage:
        case "unpack":
            _store(work / "recorded", corpora.read_manifest(asked.data / "manifest.tsv"))
        case "import":
            if asked.layout is None:
                parser.error(f"import needs --layout {', '.join(importers.LAYOUTS)}")
            _store(work / asked.layout, importers.rows(asked.layout, asked.data))
        case "synthesize":
            synthesize.synthesize(work / "synthetic", settings.read("synthesize", synthesize.Settings, asked.set))
        case "align":
            align.align(stores, work / "aligned.tsv", settings.read("align", align.Settings, asked.set))
        case "cache":
            teachers = settings.read("cache", dict[str, cache.TeacherSettings], asked.set)
            usual = settings.read("distill", distill.Settings).teachers
            for name in _chosen(asked, teachers, usual):
                cache.cache(corpora.Corpora(*stores), name, teachers[name], work / "targets" / name)
        case "distill":
            wanted = settings.read("distill", distill.Settings, asked.set)
            distill.train(stores, rooms, work / "targets", work / "distilled.pt", wanted)
        case "finetune":
            distilled = work / "distilled.pt"
            begin = asked.encoder or (distilled if distilled.exists() else None)
            wanted = settings.read("finetune", finetune.Settings, asked.set)
            finetune.train(stores, rooms, _spoken(work, stores), cache.Voices(work / "targets" / "voice"), begin, work / "finetuned.pt", wanted)
        case "heads":
            both, trained = settings.read("heads", Heads, asked.set), asked.encoder or work / "finetuned.pt"
            for head in _chosen(asked, ("wake", "speaker")):
                if head == "wake":
                    wake.train(stores, rooms, _spoken(work, stores), trained, work / "wake.pt", both.wake)
                else:
                    speaker.train(stores, rooms, cache.Voices(work / "targets" / "voice"), trained, work / "speaker.pt", both.speaker)
        case "compare":
            checkpoint_file = asked.encoder or work / "finetuned.pt"
            compare.compare(checkpoint_file, stores, rooms, _spoken(work, stores), checkpoint_file.with_suffix(".json"))
        case "ablate":
            rows = settings.read("ablate", ablate.Settings, asked.set)
            ablate.ablate(work, stores, rooms, _spoken(work, stores), rows, _chosen(asked, rows.rows))
        case "export":
            chosen = _chosen(asked, ("student", "speaker"))
            if "student" in chosen:
                encoder, woken = checkpoint.load_encoder(asked.encoder or work / "finetuned.pt"), checkpoint.load(work / "wake.pt", "head", WakeHead)
                export.export(encoder, woken, front_end(), asked.models, [] if asked.float else _calibration(stores, rooms))
            if "speaker" in chosen:
                spoke, fine = checkpoint.load(work / "speaker.pt", "head", SpeakerHeads), speaker.voice_front_end()
                export.put_speaker(asked.models, export.Speaker(spoke), fine)
                export.put_speaker(asked.models, export.Speaker(spoke, evaluate.fit_backend(asked.models, stores)), fine)
        case "negatives":
            negatives.gather(corpora.Corpora(*stores), _spoken(work, stores), rooms, bundles.load(asked.models), asked.models / NEGATIVES)
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


def _spoken(work: Path, stores: list[Path]) -> Spoken:
    """What `align` has found. Raises ConfigError where that is of other stores."""
    spoken = Spoken(work / "aligned.tsv")
    unknown = spoken.stores - {store.name for store in stores}
    if unknown:
        raise ConfigError(f"{work / 'aligned.tsv'}: words of {min(unknown)!r}, which {work} does not hold; remove the file and run `kwsd train align` again")
    return spoken


def _store(dest: Path, rows: Iterable[corpora.Row]) -> None:
    def told() -> Iterator[corpora.Take]:
        seconds = 0.0
        for n, take in enumerate(corpora.decode(rows), 1):
            yield take
            seconds += len(take.samples) / corpora.RATE
            if n % 5000 == 0:
                log.info("%s: %d clips, %.1f h", dest.name, n, seconds / 3600)

    log.info("%s: %d clips in all", dest.name, corpora.write_store(dest, told()))


def _calibration(stores: list[Path], rooms: Path, takes: int = 100) -> list[np.ndarray]:
    """Features of scenes of the training split, four seconds each."""
    training = scenes.Scenes(corpora.Corpora(*stores), rooms, seed=9)
    drawn = [training.draw(50 * scenes.CHUNK) for _ in range(takes)]
    return list(scenes.mel_of(front_end(), training.hear(np.stack([s.clean for s in drawn]), [s.degradation for s in drawn])))


def _write_points(models: Path, report: dict[str, Any]) -> None:
    """Thresholds and operating points; speakers have the threshold of 1 % false accepts."""
    export.set_thresholds(models, evaluate.measured(report), report["speakers_all"]["scale"])


def _chosen(asked: argparse.Namespace, there: Iterable[str], usual: Iterable[str] | None = None) -> list[str]:
    """What `--only` names, else the `usual` ones (None: all). Raises ConfigError."""
    chosen = asked.only.split(",") if asked.only else list(there if usual is None else usual)
    for name in chosen:
        if name not in there:
            raise ConfigError(f"--only {name}: {asked.stage} has {', '.join(there)}")
    return chosen
