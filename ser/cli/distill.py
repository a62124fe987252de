"""`ser distill`: train a small encoder from unlabelled recordings and a teacher."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.encoders.distillation.distill import DistillSettings
    from ser.encoders.distillation.student import StudentSettings

    default, student = DistillSettings(), StudentSettings()
    parser.add_argument(
        "--audio", nargs="+", required=True, metavar="DIR", help="folders of recordings, any depth"
    )
    parser.add_argument("--teacher", required=True, help="folder or hub id of the teacher encoder")
    parser.add_argument(
        "--teacher-layers", default="4,8,12", help="hidden layers to learn (default %(default)s)"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="folder of the run; the encoder lands in OUT/encoder"
    )
    parser.add_argument(
        "--init",
        metavar="DIR",
        help="begin from this encoder's weights, such as an earlier run's OUT/encoder",
    )
    parser.add_argument("--cache", type=Path, help="keep the teacher's answers in this folder")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument(
        "--save-every-s", type=float, default=60.0, help="seconds between saved states (%(default)s)"
    )
    groups: tuple[tuple[object, type, tuple[str, ...]], ...] = (
        (default, int, ("steps",)),
        (default.crops, int, ("batch_size", "seed")),
        (default, float, ("cosine_weight", "pooled_weight", "learning_rate")),
        (default.crops, float, ("crop_s", "degrade")),
        (student, int, ("hidden_size", "layers", "intermediate_size", "heads")),
    )
    for holder, kind, names in groups:
        for name in names:
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(holder, name))


def run(args: argparse.Namespace) -> int:
    import torch

    from ser.encoders.distillation.data import CropSettings, find_audio
    from ser.encoders.distillation.distill import Distillation, DistillSettings
    from ser.encoders.distillation.student import StudentSettings
    from ser.encoders.encoder import Encoder
    from ser.errors import SettingsError

    try:
        layers = tuple(int(layer) for layer in args.teacher_layers.split(","))
    except ValueError:
        raise SettingsError(
            f"--teacher-layers takes numbers like 4,8,12, got {args.teacher_layers!r}."
        ) from None
    if args.threads:
        torch.set_num_threads(args.threads)
    crops = CropSettings(args.batch_size, args.crop_s, args.degrade, seed=args.seed)
    settings = DistillSettings(
        teacher_layers=layers, cosine_weight=args.cosine_weight, pooled_weight=args.pooled_weight, steps=args.steps,
        learning_rate=args.learning_rate, crops=crops,
    )  # fmt: skip
    student = StudentSettings(args.hidden_size, args.layers, args.intermediate_size, args.heads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    files = find_audio(args.audio)
    distillation = Distillation(
        files, Encoder.load(args.teacher, device=device), args.out, settings, student, args.cache,
        Encoder.load(args.init, device="cpu") if args.init else None,
    )  # fmt: skip
    parameters = sum(parameter.numel() for parameter in distillation.distiller.student.parameters())
    print(
        f"{len(files)} recordings, student of {parameters / 1e6:.1f} M parameters, {device}, "
        f"from step {distillation.step}"
    )
    with (args.out / "log.jsonl").open("a") as log:
        log.write(json.dumps({"started": time.strftime("%Y-%m-%dT%H:%M:%S"), "command": sys.argv[1:]}) + "\n")

        def report(line: dict[str, Any]) -> None:
            log.write(json.dumps(line) + "\n")
            log.flush()
            left = f"{line['left_s'] // 3600:.0f}:{line['left_s'] % 3600 // 60:02.0f}"
            losses = " ".join(f"{loss:.3f}" for loss in line["loss"])
            print(
                f"step {line['step']}/{line['of']}  loss {losses}  epoch {line['epoch']}  left {left} h",
                flush=True,
            )

        distillation.run(report, args.save_every_s)
    for path, message in distillation.bad_files.items():
        print(f"left out {path}: {message}", file=sys.stderr)
    print(f"The encoder is in {args.out / 'encoder'}")
    return 0
