"""What the fuzzer makes up: valid files, changed, and files made of parts that are each allowed or hostile.

In: valid files (`Seeds`). Out: a hypothesis strategy for each target of `fuzz_support`, of whole inputs: the files of a
folder, path -> bytes (None makes a folder, a `Path` a link).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import soundfile
from fuzz_support import CLIP, FRAMES, LABELS, FakeEncoder, kept_frames
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from support import encode, voice

from ser.corpora.tables import COLUMNS
from ser.features.cache import FeatureCache

Input = dict[str, bytes | Path | None]
Seeds = dict[str, dict[str, bytes]]  # target -> name of a valid file -> its content

# Numbers that headers should not hold, as they are stored.
NUMBERS = (0, 1, 2, 7, 64, 65, 255, 65_535, 768_000, 1 << 20, 1 << 30, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = sorted(
    {struct.pack(f"{order}{form}", n) for order in "<>" for form in "IQ" for n in NUMBERS}
    | {struct.pack("<H", n) for n in NUMBERS if n < 65_536}
    | {struct.pack("<Q", 2**64 - 1), struct.pack("<Q", 2**63)}
    | {struct.pack(f"<{form}", x) for form in "fd" for x in (math.nan, math.inf, -math.inf, 1e38, -1e-40)}
)


def mostly(common: SearchStrategy[Any], rare: SearchStrategy[Any], times: int = 7) -> SearchStrategy[Any]:
    """The first so many times as often as the second."""
    return st.integers(0, times).flatmap(lambda n: common if n else rare)


# (what, where as a share of the file, bytes)
WHERE = st.one_of(st.floats(0, 1), st.floats(0, 1).map(lambda x: x**4))  # headers more often than sound
CHANGE = st.one_of(
    st.tuples(st.just("set"), WHERE, st.sampled_from(WORDS)),
    st.tuples(st.sampled_from(["set", "insert"]), WHERE, st.binary(min_size=1, max_size=8)),
    st.tuples(st.sampled_from(["flip", "cut", "drop", "repeat"]), WHERE, st.binary(min_size=1, max_size=1)),
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=3)
RARELY = mostly(st.just([]), CHANGES)  # the bytes of text: mostly no UTF-8 any more

# Text that names, cells and settings should not hold, and some that they may.
TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from([
        "", " ", "nan", "inf", "-inf", "1e400", "-1", "0", "0x10", "1_000", "٣", "9" * 5_000, "a" * 300, "a" * 140_000,
        "../../etc/passwd", "/", "/etc/passwd", "\0", "a\0b", "\n", '"', "'", "~", "~nobody-here/x", "http://[::1",
        "anger", "happy", "neutral", "sadness", "ANGER", "m", "female", "clip0.wav", "clip1.wav", "\ufeff", "\u202e",
    ]),
)  # fmt: skip
INTEGERS = st.one_of(st.integers(-5, 50), st.sampled_from([-(2**63), 2**31, 2**63, 10**30, 10**400]))
FLOATS = st.one_of(st.floats(), st.floats(0, 1))
DEEP, LONG = "@deep@", "@long@"  # what json.dumps cannot write
VALUES = st.one_of(
    st.none(), st.booleans(), INTEGERS, FLOATS, TEXT, st.just(DEEP), st.just(LONG),
    st.sampled_from([[], {}, [[]], [1, "a"], {"a": 1}, {"a": {"b": []}}]),
)  # fmt: skip
TREE_CHANGE = st.tuples(st.integers(0, 10_000), st.sampled_from(["set", "set", "drop", "wrap", "twice"]), VALUES)
TREE_CHANGES = st.lists(TREE_CHANGE, min_size=1, max_size=2)


def inputs(seeds: Seeds) -> dict[str, SearchStrategy[Input]]:
    """Whole inputs for each target."""
    beside: Input = {"clip0.wav": b"", "below/clip1.wav": b""}
    return {
        "audio": st.one_of(changed_sounds(seeds["audio"]), changed_sounds(seeds["audio"]), WAVS),
        "samples": SAMPLES,
        "checkpoint": checkpoints(seeds["checkpoint"]),
        "corpus": CORPORA,
        "table": TABLES.map(lambda content: {"metadata.csv": content, **beside}),
        "labels": st.builds(_labels, st.sampled_from([0, 1]), TREE_CHANGES, RARELY),
        "environment": ENVIRONMENTS,
        "hyperparameters": HYPERPARAMETERS,
        "features": features(seeds["features"]),
        "predictions": csv_inputs("predictions.csv", seeds["predictions"]["predictions.csv"]),
        "results": st.one_of(*(csv_inputs("results", one) for one in seeds["results"].values())),
        "folds": st.builds(_folds, TABLES, FOLD_WORDS),
    }


def change_bytes(content: bytes, changes: Sequence[tuple[str, float, bytes]]) -> bytes:
    """Bytes with changes, one after the other."""
    for kind, where, value in changes:
        at = int(where * len(content))
        before, rest = content[:at], content[at:]
        if kind == "set":
            content = before + value + rest[len(value) :]
        elif kind == "insert":
            content = before + value + rest
        elif kind == "flip" and rest:
            content = before + bytes([rest[0] ^ (1 << value[0] % 8)]) + rest[1:]
        elif kind == "cut":
            content = before
        elif kind == "drop":
            content = before + rest[value[0] :]
        elif kind == "repeat":
            content = before + rest[:16] * value[0] + rest
    return content


def change_tree(tree: Any, changes: Sequence[tuple[int, str, Any]]) -> str:
    """The text of a JSON value with changes somewhere inside."""
    root = [json.loads(json.dumps(tree))]
    for index, kind, value in changes:
        places = list(_places(root))
        holder, key = places[index % len(places)]
        if kind == "set":
            holder[key] = json.loads(json.dumps(value))  # a copy: later changes are inside it
        elif kind == "wrap":
            holder[key] = {"a": holder[key]} if index % 2 else [holder[key]]
        elif kind == "drop" and holder is not root:
            del holder[key]
        elif kind == "twice" and isinstance(holder, list) and holder is not root:
            holder.append(holder[key])
    text = json.dumps(root[0])
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{LONG}"', "9" * 5_000)


def _places(node: Any) -> Any:
    """`(holder, key)` of every value in a JSON value."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from _places(node[key])


@cache
def sounds() -> dict[str, bytes]:
    """A short recording in every format that libsndfile writes here."""
    forms = {
        "wav": ("WAV", "PCM_16"), "float": ("WAV", "FLOAT"), "double": ("WAV", "DOUBLE"), "adpcm": ("WAV", "MS_ADPCM"),
        "gsm": ("WAV", "GSM610"), "opus": ("OGG", "OPUS"), "mat": ("MAT5", None),
        **{form.lower(): (form, None) for form in ("RF64", "W64", "FLAC", "OGG", "MP3", "AIFF")},
        **{form.lower(): (form, None) for form in ("CAF", "AU", "NIST", "VOC", "SDS")},
    }  # fmt: skip
    made = {}
    for name, (form, subtype) in forms.items():
        file = io.BytesIO()
        soundfile.write(file, voice(0.6), 16_000, subtype, format=form)
        made[name] = file.getvalue()
    return made


def changed_sounds(seeds: dict[str, bytes]) -> SearchStrategy[Input]:
    # What FFmpeg reads takes a process each: a few of them.
    names = st.sampled_from([name for name in seeds if not name.startswith("av ")] * 6 + list(seeds))
    return st.builds(lambda name, changes: {CLIP: change_bytes(seeds[name], changes)}, names, CHANGES)


def _wav(form: int, channels: int, rate_hz: int, bits: int, block: int, sizes: Sequence[int], data: bytes) -> Input:
    """A WAV file from numbers that need not fit each other; a negative size is the right one."""
    head = struct.pack("<HHIIHH", form, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block, bits)
    claimed = [right if size < 0 else size for size, right in zip(sizes, (16, len(data), 0), strict=True)]
    body = b"WAVEfmt " + struct.pack("<I", claimed[0]) + head + b"data" + struct.pack("<I", claimed[1]) + data
    return {CLIP: b"RIFF" + struct.pack("<I", claimed[2] or len(body)) + body}


SIZES = st.one_of(st.just(-1), st.just(-1), st.sampled_from(NUMBERS))
WAVS = st.builds(
    _wav,
    form=st.sampled_from([1, 1, 3, 3, 2, 6, 7, 0x11, 0x31, 0x55, 0xFFFE, 0]),
    channels=st.sampled_from([1, 2, 6, 64, 65, 1_000, 65_535, 0]),
    rate_hz=st.sampled_from([16_000, 44_100, 48_000, 192_000, 191_839, 4_001, 3_999, 0, 1, 768_000, 2**31, 2**32 - 1]),
    bits=st.sampled_from([8, 16, 24, 32, 64, 0, 1, 7, 65_535]),
    block=st.sampled_from([1, 2, 4, 8, 128, 256, 0, 65_535]),
    sizes=st.tuples(SIZES, SIZES, st.sampled_from([0, 0, 1, 2**32 - 1])),
    data=st.builds(
        lambda words, times: b"".join(words) * times,
        st.lists(st.one_of(st.sampled_from(WORDS), st.binary(min_size=4, max_size=4)), min_size=1, max_size=6),
        st.sampled_from([1, 100, 3_000]),
    ),
)  # fmt: skip

TYPES = [
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint64", "bool", "complex64",
]  # fmt: skip
SHAPES = [[0], [1], [1_599], [16_000], [8_000, 2], [4_000, 64], [2, 8_000], [100, 65], [0, 2], [8, 8, 8], []]
LEVELS = st.one_of(FLOATS, st.sampled_from([0.0, -1.0, 0.5, 32_767.0, 1e-5, 1e38, -1e308]))
SAMPLES = st.builds(
    lambda **told: {"samples.json": json.dumps(told).encode()},
    dtype=st.sampled_from(TYPES),
    shape=st.sampled_from(SHAPES),
    values=st.lists(LEVELS, min_size=1, max_size=5),
    rate_hz=mostly(st.sampled_from([16_000, 8_000, 44_100, 191_839, 4_000.5]), st.one_of(INTEGERS, FLOATS)),
)


def _parted(content: bytes) -> tuple[Any, bytes]:
    """The header of a safetensors file, and what follows it."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:end]), content[end:]


def _joined(header: str, rest: bytes) -> bytes:
    text = header.encode(errors="surrogatepass")
    return struct.pack("<Q", len(text)) + text + rest


def checkpoints(seed: dict[str, bytes]) -> SearchStrategy[Input]:
    """A checkpoint whose description, weights' header, or bytes were changed; mostly with a fitting checksum."""
    header, tensors = _parted(seed["model.safetensors"])
    described = json.loads(seed["model.json"])

    def rebuilt(tree: Any, in_header: Any, in_bytes: Any, in_text: Any, honest: bool) -> Input:
        text = change_tree(header, in_header) if in_header else json.dumps(header)
        weights = change_bytes(_joined(text, tensors), in_bytes)
        content = described | ({"weights_sha256": hashlib.sha256(weights).hexdigest()} if honest else {})
        about = change_bytes(change_tree(content, tree).encode(errors="surrogatepass"), in_text)
        return {"model.json": about, "model.safetensors": weights}

    none: SearchStrategy[list[Any]] = st.just([])
    return st.one_of(
        st.builds(rebuilt, TREE_CHANGES, none, none, none, st.just(True)),
        st.builds(rebuilt, none, TREE_CHANGES, none, none, st.just(True)),
        st.builds(rebuilt, none, none, CHANGES, none, st.booleans()),
        st.builds(rebuilt, none, none, none, CHANGES, st.just(True)),
    )


def features(seed: dict[str, bytes]) -> SearchStrategy[Input]:
    """A cache with one file of frames, changed anywhere, with or without a checksum that fits the change."""
    name = next(name for name in seed if name.endswith(".safetensors"))
    description = next(name for name in seed if name.endswith("encoder.json"))
    header, frames = _parted(seed[name])

    def unrepaired(changes: Any, about: Any) -> Input:
        changed = change_tree(json.loads(seed[description]), about) if about else "{}"
        told = {description: changed.encode(errors="surrogatepass"), "unrepaired": b""}
        return {name: change_bytes(seed[name], changes), **told}

    def repaired(tree: Any, in_frames: Any) -> Input:
        content = change_bytes(frames, in_frames)
        shapes = [(key, header[key]["shape"]) for key in sorted(header.keys() - {"__metadata__"})]
        digest = hashlib.sha256(json.dumps(shapes).encode() + content).hexdigest()
        return {name: _joined(change_tree(header | {"__metadata__": {"sha256": digest}}, tree), content)}

    return st.one_of(
        st.builds(unrepaired, CHANGES, st.one_of(st.just([]), TREE_CHANGES)),
        st.builds(repaired, TREE_CHANGES, st.one_of(st.just([]), CHANGES)),
    )


# ---- corpora, tables and settings -------------------------------------------------------------------------

NAMES = [
    "F03S02.wav", "M11A99.wav", "female/F03N02.wav", "03a01Fa.wav", "16b10Wb.wav", "Angry/SM1_F1_A01.wav",
    "Sad/SF2_F3_X3.wav", "Actor_01/03-01-05-02-01-01-01.wav", "S1_angry_03.wav", "notes.wav", ".hidden.wav",
]  # fmt: skip
CONTENTS = [
    b"", b"no recording", b"RIFF\xff\xff\xff\xffWAVEfmt ", None, Path(".."), Path("nowhere"), Path("/dev/zero"),
]  # fmt: skip


def _named(name: str, changes: Sequence[tuple[str, float, bytes]]) -> str:
    """A file name with changed bytes, such as a file system takes."""
    changed = change_bytes(name.encode(), changes).replace(b"\0", b"").decode(errors="surrogateescape")
    parts = [part for part in changed.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:200] or "x.wav"


KINDS_OF_CONTENT = st.sampled_from(["sound"] * 5 + list(range(len(CONTENTS))))
CORPORA = st.dictionaries(
    st.builds(_named, st.sampled_from(NAMES), mostly(st.just([]), CHANGES, 2)), KINDS_OF_CONTENT, max_size=6
).map(lambda made: {name: sounds()["wav"] if kind == "sound" else CONTENTS[kind] for name, kind in made.items()})


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str, encoding: str, changes: Any) -> bytes:
    text = "\n".join(delimiter.join(row) for row in [header, *rows])
    return change_bytes(text.encode(encoding, "replace"), changes)


COLUMN_NAMES = [name for names in COLUMNS.values() for name in names]
LINES = [["clip0.wav", "s1", "anger", "f"], ["clip1.wav", "s2", "sad", "m"], ["below/clip1.wav", "s1", "neutral", ""]]
# Enough lines that folds can be made of them.
MANY = [[f"{n}.wav", f"s{n % 12}", LABELS[n // 12 % 3], "fm"[n % 2]] for n in range(72)]
COLUMNS_OF_TABLES = st.lists(st.one_of(st.sampled_from(COLUMN_NAMES), TEXT), max_size=5)
TABLES = st.builds(
    _csv,
    mostly(st.just(["path", "speaker", "emotion", "gender"]), COLUMNS_OF_TABLES),
    st.one_of(
        st.lists(mostly(st.sampled_from(LINES), st.lists(TEXT, max_size=5)), max_size=4, unique_by=str),
        st.lists(st.lists(TEXT, min_size=4, max_size=5), max_size=1).map(lambda more: MANY + LINES + more),
    ),
    st.sampled_from([",", ",", ",", ";", "\t"]),
    st.sampled_from(["utf-8"] * 7 + ["utf-8-sig", "utf-16", "latin-1"]),
    RARELY,
)


def csv_inputs(name: str, seed: bytes) -> SearchStrategy[Input]:
    """A table with other cells, lines or bytes."""

    def changed(cells: Any, changes: Any) -> Input:
        delimiter = "," if seed[:1] != b"{" else ": "
        lines = [line.split(delimiter) for line in seed.decode().split("\n")]
        for row, column, text in cells:
            line = lines[row % len(lines)]
            line[column % len(line)] = text
        return {name: change_bytes("\n".join(map(delimiter.join, lines)).encode(errors="replace"), changes)}

    cell = st.tuples(st.integers(0, 1_000), st.integers(0, 20), TEXT)
    return st.builds(changed, st.lists(cell, max_size=2), RARELY)


FOLD_WORDS = st.lists(
    st.one_of(
        INTEGERS.map(lambda n: ["--seed", str(n)]), INTEGERS.map(lambda n: ["--folds", str(n)]),
        FLOATS.map(lambda x: [f"--validation-share={x}"]), st.just(["--split", "loso"]), st.just(["--split", "random"]),
        st.just(["--labels", "corrected"]),
    ), max_size=2,
)  # fmt: skip


def _folds(table: bytes, words: Sequence[Sequence[str]]) -> Input:
    return {"folds.csv": table, "words.json": json.dumps([one for pair in words for one in pair]).encode()}


def _labels(form: int, tree: Any, changes: Any) -> Input:
    seed = [[{"id": "F01A01", "emotion": "anger"}, {"id": "M01N01", "emotion": "neutral"}], {
        "F01A01.wav": {"emotion": "anger", "transcript": "..."}, "M01N01.wav": {"emotion": "N"}}]  # fmt: skip
    return {"shemo.json": change_bytes(change_tree(seed[form], tree).encode(errors="surrogatepass"), changes)}


VARIABLES = [
    "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "SPACE_ID",
    *(f"SER_{name}" for name in (
        "CHECKPOINT", "ENCODER", "DATA", "CORPORA", "STORAGE", "DASHBOARD_WRITABLE", "PASSWORD", "MAX_UPLOAD_MB",
        "MAX_AUDIO_S", "QUEUE_LENGTH", "REQUESTS_PER_MINUTE",
    )),
]  # fmt: skip
SETTINGS = st.one_of(TEXT, INTEGERS.map(str), FLOATS.map(str), st.just("/tmp:/"))
ENVIRONMENTS = st.dictionaries(st.sampled_from(VARIABLES), SETTINGS, max_size=4).map(
    lambda given: {"environment.json": json.dumps(given).encode()}
)

KINDS: dict[str, SearchStrategy[Any]] = {
    **dict.fromkeys(["base_units", "final_units", "gru_layers", "batch_size", "max_epochs", "patience", "max_frames",
                     "seed", "unknown"], INTEGERS),
    **dict.fromkeys(["dropout", "learning_rate", "l2", "momentum", "label_smoothing"], FLOATS),
    **dict.fromkeys(["pooling", "optimizer", "monitor"], st.one_of(TEXT, st.sampled_from(["last", "sgd", "loss"]))),
}  # fmt: skip
OF_FOLDS = [
    st.tuples(st.sampled_from(["n_folds", "seed"]), INTEGERS), st.tuples(st.just("validation_share"), FLOATS),
    st.tuples(st.just("split"), st.one_of(TEXT, st.just("loso"))),
]  # fmt: skip
HYPERPARAMETERS = st.builds(
    lambda *of: {"settings.json": json.dumps(dict(zip(("training", "crossval"), map(dict, of), strict=True))).encode()},
    st.lists(st.one_of(*(st.tuples(st.just(name), kind) for name, kind in KINDS.items())), max_size=4),
    st.lists(st.one_of(*OF_FOLDS), max_size=2),
)  # fmt: skip


def seeds(checkpoint: Path, folder: Path) -> Seeds:
    """Valid files of every target."""
    audio = dict(sounds())
    for suffix, codec, options in (("m4a", "aac", {}), ("webm", "libopus", {}), ("aac", "aac", {"format": "adts"})):
        path = encode(folder / f"clip.{suffix}", codec, voice(0.6, 48_000), 48_000, **options)
        audio[f"av {suffix}"] = path.read_bytes()
    store = FeatureCache(folder / "cache").store(FakeEncoder(), {})
    for key in FRAMES:
        store.add(key, kept_frames(key))
    store.flush()
    kept = [path for path in (folder / "cache").rglob("*") if path.is_file() and path.name != "verified.json"]
    labels = ",".join(LABELS)
    rows = [f"{path},{speaker},{n % 3 + 1},{emotion},{LABELS[n % 3]},0.2,0.3,0.5"
            for n, (path, speaker, emotion, _) in enumerate(MANY[:30])]  # fmt: skip
    answers = [f"{n}.wav,anger,true,1.5,0.2,0.3,0.5" for n in range(4)]
    shares = {"anger": 1, "neutral": 0, "sadness": 0}
    lines = [json.dumps({"file": f"{n}.wav", "probabilities": shares}) for n in range(4)]
    return {
        "audio": audio,
        "checkpoint": {name: (checkpoint / name).read_bytes() for name in ("model.json", "model.safetensors")},
        "features": {str(path.relative_to(folder / "cache")): path.read_bytes() for path in kept},
        "predictions": {
            "predictions.csv": "\n".join([f"file,speaker,fold,emotion,predicted,{labels}", *rows]).encode()
        },
        "results": {
            "csv": "\n".join([f"file,emotion,confident,duration_s,{labels}", *answers, ""]).encode(),
            "jsonl": "\n".join([*lines, ""]).encode(),
        },
    }
