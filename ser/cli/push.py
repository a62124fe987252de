"""`ser push`: send the page to a Hugging Face Space."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", required=True, metavar="OWNER/NAME", help="made where it is missing")
    parser.add_argument("--private", action="store_true", help="make it private, if it is made now")
    parser.add_argument("--message", default="Update", help="of the commit (default %(default)r)")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent; contact nobody")


def run(args: argparse.Namespace) -> int:
    from ser.space import ROOT, check_name, contents, push

    if args.dry_run:
        check_name(args.space)
        files = contents()
        sizes = [(ROOT / file).stat().st_size for file in files]
        for file, size in zip(files, sizes, strict=True):
            print(f"{size:>10,}  {file.as_posix()}")
        print(f"{sum(sizes):>10,}  bytes in {len(files)} files would go to the Space {args.space}")
        return 0
    print(push(args.space, args.private, message=args.message))
    return 0
