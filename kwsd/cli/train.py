"""`kwsd train STAGE`: the arguments of the training stages.

Only `run` loads the stages, so that `--help` works where the extra `[train]` is not installed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kwsd import extras
from kwsd.cli.output import UNAVAILABLE, USAGE, fail

HELP = "train the models, or models for words of your own"
LAYOUTS = ("speech_commands", "librispeech", "voxceleb", "mswc", "collected", "webdataset")
"""Layouts that `import` reads: those of `kwsd.training.data.importers`, which needs the extra."""
STAGES = {
    "unpack": "decode the recordings that DATA/manifest.tsv names",
    "import": "decode a corpus in a published layout",
    "synthesize": "speak the wake words and words near them in hundreds of voices",
    "folds": "count the clips, speakers and hours of each fold of the speakers",
    "align": "find the words of unlabeled sentences, by Whisper",
    "homophones": "find phrases that sound nearly like the wake words",
    "cache": "ask each teacher about every utterance, once",
    "distill": "train an encoder from the teachers' answers",
    "finetune": "train words and voices over the whole encoder",
    "heads": "train the wake head and the speaker heads on the frozen encoder",
    "checker": "make the second stage from a large pretrained transformer",
    "voices": "put a network of voices beside the second stage",
    "compare": "measure a checkpoint of finetune, or the checker's student beside its teacher",
    "ablate": "measure what each part of the training is worth, row by row of a table",
    "export": "write the model bundle",
    "negatives": "put audio without the user's words into the bundle",
    "cohort": "put voices to normalize speaker scores by into the bundle",
    "evaluate": "measure the bundle on the development split",
}
"""The stages in the order in which they run, with a line of help each."""
ROOMS = (
    "distill",
    "finetune",
    "heads",
    "checker",
    "voices",
    "compare",
    "ablate",
    "export",
    "negatives",
    "cohort",
    "evaluate",
)
"""Stages that need room responses."""
SETTINGS = (
    "synthesize",
    "align",
    "homophones",
    "cache",
    "distill",
    "finetune",
    "heads",
    "checker",
    "voices",
    "compare",
    "ablate",
    "cohort",
)
"""Stages with settings."""
SHIPPED = {
    "compare": "headline.yaml",
    "ablate": "ablate.yaml, or with --teacher of ablate_checker.yaml",
}
"""Where the file of settings has another name than the stage."""
TEACHER = {
    "checker": "a HuBERT, wav2vec 2.0, WavLM or Whisper, as transformers saves it",
    "compare": "tune this one and the checker's student of it alike, and measure both",
    "ablate": "the second stage's rows, in ablate_checker.yaml, with this teacher",
}
BUNDLE = ("checker", "voices", "export", "negatives", "cohort", "evaluate")
"""Stages that read or write the bundle."""
ENCODER = {
    "finetune": "checkpoint to start from (default: WORK/distilled.pt, else the speech embedding)",
    "heads": "checkpoint of the encoder (default: WORK/finetuned.pt), or, for the wake head alone, "
    "the folder of a bundle",
    "compare": "checkpoint to measure (default: WORK/finetuned.pt; with --teacher: "
    "WORK/checker/distilled.pt)",
    "export": "checkpoint of the encoder (default: WORK/finetuned.pt)",
}
ONLY = {
    "cache": "only these teachers (default: those of distill.yaml)",
    "heads": "only wake or speaker",
    "checker": "only spoken, distill, candidates, tune, words or export",
    "ablate": "only these rows",
    "export": "only student or speaker, and the other part of the bundle stays; or the wake head "
    "alone, behind the encoder that the bundle has",
    "evaluate": "only words or voices",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subparser for each stage."""
    parser.description = (
        "Each stage resumes where it was interrupted. docs/training.md describes how to train the "
        "models, or words of your own."
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE", title="stages")
    for stage, help in STAGES.items():
        sub = stages.add_parser(stage, help=help, description=help[0].upper() + help[1:] + ".")
        sub.add_argument(
            "--work", type=Path, default=Path("work"), help="working folder (default: work)"
        )
        if stage == "unpack":
            sub.add_argument("--data", type=Path, help="folder of manifest.tsv and its recordings")
            sub.add_argument(
                "--val",
                type=Path,
                help="the same, of recordings that are never trained on: they are reported alone",
            )
        if stage == "import":
            sub.add_argument("--data", type=Path, required=True, help="folder of the corpus")
            sub.add_argument(
                "--layout", choices=LAYOUTS, required=True, help="its published layout"
            )
            sub.add_argument(
                "--name", help="folder in the working folder (default: the layout's name)"
            )
        if stage in ROOMS:
            sub.add_argument(
                "--data", type=Path, required=True, help="folder of rirs.npz, room responses"
            )
        if stage in BUNDLE:
            sub.add_argument(
                "--models", type=Path, default=Path("models"), help="the bundle (default: models)"
            )
        if stage in ENCODER:
            sub.add_argument("--encoder", type=Path, metavar="PATH", help=ENCODER[stage])
        if stage in ONLY:
            sub.add_argument("--only", type=_names, metavar="A,B", help=ONLY[stage])
        if stage in SETTINGS:
            sub.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="KEY=VALUE",
                help=f"change a setting of {SHIPPED.get(stage, f'{stage}.yaml')}; may be repeated",
            )
        if stage in TEACHER:
            sub.add_argument(
                "--teacher", required=stage == "checker", metavar="FOLDER", help=TEACHER[stage]
            )
        if stage == "compare":
            sub.add_argument(
                "--json",
                type=Path,
                metavar="FILE",
                help="where the figures go (default: beside the checkpoint; with --teacher: "
                "WORK/headline.json)",
            )
        if stage == "export":
            sub.add_argument("--float", action="store_true", help="leave the encoder in 32 bit")
        if stage == "evaluate":
            sub.add_argument(
                "--ungated", action="store_true", help="without the voice-activity gate"
            )
            sub.add_argument(
                "--checker",
                choices=("small", "large", "off"),
                default="small",
                help="second opinion, as in the configuration (default: small, where there is one)",
            )
            sub.add_argument(
                "--write",
                action="store_true",
                help="put thresholds and operating points into the bundle",
            )


def run(arguments: argparse.Namespace) -> int:
    """Run one stage; return the exit status.

    Raises ConfigError, OSError and ValueError, as the stages do."""
    try:
        from kwsd.training import pipeline
    except ModuleNotFoundError as error:
        return fail(
            UNAVAILABLE,
            f"training needs {error.name}, which is not installed; "
            f"install the extra: {extras.command('train')}",
        )
    stage = arguments.stage
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    rooms = arguments.data / "rirs.npz" if stage in ROOMS else Path()
    match stage:
        case "unpack":
            if not (arguments.data or arguments.val):
                return fail(USAGE, "unpack needs --data FOLDER, --val FOLDER, or both")
            if arguments.data:
                pipeline.unpack(work, arguments.data)
            if arguments.val:
                pipeline.unpack_validation(work, arguments.val)
        case "import":
            pipeline.import_corpus(work, arguments.data, arguments.layout, arguments.name)
        case "synthesize":
            pipeline.synthesize(work, arguments.set)
        case "folds":
            pipeline.folds(work)
        case "align":
            pipeline.align(work, arguments.set)
        case "homophones":
            pipeline.homophones(work, arguments.set)
        case "cache":
            pipeline.cache(work, arguments.only, arguments.set)
        case "distill":
            pipeline.distill(work, rooms, arguments.set)
        case "finetune":
            pipeline.finetune(work, rooms, arguments.encoder, arguments.set)
        case "heads":
            pipeline.heads(work, rooms, arguments.encoder, arguments.only, arguments.set)
        case "checker":
            pipeline.checker(
                work, rooms, arguments.models, arguments.teacher, arguments.only, arguments.set
            )
        case "voices":
            pipeline.voices(work, rooms, arguments.models, arguments.set)
        case "compare" if arguments.teacher is not None:
            pipeline.headline(
                work,
                rooms,
                arguments.teacher,
                arguments.encoder,
                arguments.json,
                arguments.set,
            )
        case "compare":
            if arguments.set:
                return fail(USAGE, "--set changes how --teacher and its student are tuned; add it")
            pipeline.compare(work, rooms, arguments.encoder, arguments.json)
        case "ablate":
            pipeline.ablate(work, rooms, arguments.teacher, arguments.only, arguments.set)
        case "export":
            pipeline.export(
                work,
                rooms,
                arguments.models,
                arguments.encoder,
                arguments.only,
                quantized=not arguments.float,
            )
        case "negatives":
            pipeline.negatives(work, rooms, arguments.models)
        case "cohort":
            pipeline.cohort(work, rooms, arguments.models, arguments.set)
        case "evaluate":
            pipeline.evaluate(
                work,
                rooms,
                arguments.models,
                checker=arguments.checker,
                gated=not arguments.ungated,
                only=arguments.only,
                write=arguments.write,
            )
    return 0


def _names(text: str) -> list[str]:
    """Return the names in `text`, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
