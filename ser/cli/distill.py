"""`ser distill`: a small encoder from the first layers of a teacher, refined on unlabelled recordings."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ser.cli.arguments import add_machine_arguments, add_settings, settings_of

if TYPE_CHECKING:
    from ser.encoders.distillation.distill import DistillSettings
    from ser.encoders.distillation.student import Student
    from ser.encoders.encoder import Encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.encoders.distillation.data import CropSettings
    from ser.encoders.distillation.distill import DistillSettings

    parser.add_argument("--teacher", required=True, metavar="SRC", help="hub id, folder, or 'shipped'")
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the run; the encoder lands in DIR/encoder",
    )
    student = parser.add_mutually_exclusive_group(required=True)
    student.add_argument(
        "--from-teacher", type=int, metavar="N",
        help="begin as the teacher's front end and first N layers; with --steps 0 that is the encoder",
    )  # fmt: skip
    student.add_argument(
        "--init", metavar="SRC",
        help="begin as this encoder, whatever its shape: an earlier DIR/encoder, or a transformers model of your own",
    )  # fmt: skip
    parser.add_argument("--audio", nargs="+", metavar="DIR", help="folders of recordings, any depth")
    parser.add_argument(
        "--teacher-layers", type=_numbers(int), default=(4, 8, 12), metavar="N,N", help="(default 4,8,12)"
    )
    parser.add_argument(
        "--speeds", type=_numbers(float), default=(0.9, 1.0, 1.1), metavar="X,X",
        help="factors of speed and pitch of the recordings (default 0.9,1,1.1); 1 leaves them as they are",
    )  # fmt: skip
    parser.add_argument(
        "--speech-only", action="store_true",
        help="the encoder is to be given speech alone, at one level: silence then changes nothing",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="store the encoder in half precision")
    parser.add_argument("--licence", metavar="TEXT", help="the teacher's, for the encoder's distillation.json")
    parser.add_argument("--save-every-s", type=float, default=60.0, help="seconds between saved states (%(default)s)")
    add_machine_arguments(parser)
    add_settings(parser, DistillSettings, CropSettings, leave_out=("teacher_layers", "crops", "speeds"))


def run(args: argparse.Namespace) -> int:
    from ser.encoders.distillation.data import CropSettings
    from ser.encoders.distillation.distill import DistillSettings
    from ser.encoders.distillation.student import Student
    from ser.encoders.encoder import Encoder
    from ser.errors import SettingsError

    args.crops = settings_of(CropSettings, args)
    settings = settings_of(DistillSettings, args)
    if settings.steps and not args.audio:
        raise SettingsError("--audio names the recordings to learn from; --steps 0 writes the encoder as it begins.")
    teacher = Encoder.load(args.teacher, engine="torch")
    start = teacher if args.init is None else Encoder.load(args.init, device="cpu", engine="torch")
    student = Student.first_layers(start, args.from_teacher)
    student = replace(student, speech_only=args.speech_only or student.speech_only)
    if settings.steps:
        folder = _train(args, teacher, student, settings)
    else:
        folder = args.out / "encoder"
        about = {"name": teacher.name, "fingerprint": teacher.fingerprint}
        student.write(
            folder, {"teacher": about, "student": student.origin, "licence": args.licence, "steps": 0}, args.half
        )
    print(f"The encoder is in {folder}")
    return 0


def _train(args: argparse.Namespace, teacher: Encoder, student: Student, settings: DistillSettings) -> Path:
    from ser.audio.find import contents, note_of
    from ser.encoders.distillation.data import find_audio
    from ser.encoders.distillation.distill import Distillation

    files = find_audio(args.audio)
    for folder in args.audio:
        if note := note_of(contents(Path(folder)).others):
            print(f"note: {folder}: {note}", file=sys.stderr)
    distillation = Distillation(files, teacher, student, args.out, settings)
    parameters = sum(parameter.numel() for parameter in student.model.parameters())
    print(
        f"{len(files)} recordings, student of {parameters / 1e6:.1f} M parameters, {teacher.device}, "
        f"from step {distillation.step}",
        flush=True,
    )
    with (args.out / "log.jsonl").open("a") as log:
        _note(log, {"started": time.strftime("%Y-%m-%dT%H:%M:%S"), "command": sys.argv[1:]})

        def report(line: dict[str, Any]) -> None:
            _note(log, line)
            left = f"{line['left_s'] // 3600:.0f}:{line['left_s'] % 3600 // 60:02.0f}"
            losses = " ".join(f"{loss:.3f}" for loss in line["loss"])
            print(f"step {line['step']}/{line['of']}  loss {losses}  epoch {line['epoch']}  left {left} h", flush=True)

        distillation.run(report, lambda text: print(text, flush=True), args.save_every_s)
    for path, message in distillation.stream.bad_files.items():
        print(f"left out {path}: {message}", file=sys.stderr)
    return distillation.export(args.half, args.licence)


def _note(log: IO[str], line: dict[str, Any]) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()


def _numbers(kind: type) -> Any:
    def parse(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(number) for number in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes numbers like 4,8,12, got {text!r}") from None

    return parse
