"""`ser cache`: what the feature cache holds, and clearing it."""

from __future__ import annotations

import argparse

from ser.cli.arguments import add_cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cache(parser)
    parser.add_argument("--clear", action="store_true", help="delete what is cached")


def run(args: argparse.Namespace) -> int:
    from ser.features.address import open_cache

    cache = open_cache(args.cache)
    if args.clear:
        print(f"{cache}: {_size_text(cache.clear())} freed")
        return 0
    cached = cache.contents()
    print(f"{cache}: {_size_text(sum(one.n_bytes for one in cached))}, {len(cached)} encoders")
    for one in cached:
        print(
            f"  {one.name}  layer {one.layer}  fingerprint {one.fingerprint}: "
            f"{one.n_clips} clips, {_size_text(one.n_bytes)}"
        )
    return 0


def _size_text(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
