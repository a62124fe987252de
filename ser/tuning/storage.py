"""Where studies are kept, what makes two searches the same, and how a study stands, as plain values.

In: a storage address: `journal:PATH` (a file), any database of Optuna (`sqlite:///PATH`, `postgresql://...`,
`mysql://...`) or `grpc://HOST:PORT` (Optuna's proxy). Out: an Optuna storage or study, or a `summary`.

Without an address it is Optuna's journal in a file beside the runs, under a lock of the kernel: two
processes that wrote 80 trials of ten reports lost nothing in either, but took 10 s where SQLite took 75 s,
and a killed writer keeps nobody waiting (tests/test_storage.py), while after Optuna's own lock of the
journal the next one waited for 31 s.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BufferedRandom
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus
from ser.corpora.folds import Fold
from ser.errors import SettingsError
from ser.training.run_folder import identity
from ser.training.settings import CrossvalSettings
from ser.tuning.liveness import RETRY_OF
from ser.tuning.space import Space, check_study_name, fixed_part

JOURNAL, GRPC = "journal:", "grpc://"
JOURNAL_NAME = "studies.journal"
IDENTITY, SCORED, ERROR = "ser", "scored", "error"
METRIC = "validation accuracy, mean of the folds"
GRPC_WAIT_S, SQLITE_WAIT_S = 10.0, 60
CREATE_TRIES, CREATE_PAUSE_S = 5, 0.5

log = logging.getLogger(__name__)


class KernelLock:
    """A lock on a file that the kernel takes back when its holder dies; Optuna's own stays for 30 s."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BufferedRandom | None = None

    def acquire(self) -> bool:
        self._file = self._path.open("a+b")
        fcntl.flock(self._file.fileno(), fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()


def default_storage(runs: Path) -> str:
    """The address of the journal beside the runs."""
    return f"{JOURNAL}{Path(runs) / JOURNAL_NAME}"


def open_storage(address: str) -> BaseStorage:
    """The storage of an address, made where it is missing.

    Raises:
        SettingsError: it cannot be opened; the message never shows a password.
    """
    try:
        if address.startswith(JOURNAL):
            return _journal(Path(address.removeprefix(JOURNAL)).expanduser())
        if address.startswith(GRPC):
            return _grpc(address)
        return _database(address)
    except ImportError as error:
        raise SettingsError(
            f"The storage {without_password(address)} needs a package that is not installed ({error}): "
            "install psycopg[binary] for postgresql, pymysql for mysql, grpcio for grpc with pip."
        ) from error
    except (ArgumentError, ValueError) as error:
        raise SettingsError(
            f"{without_password(address)} is no storage. Give journal:PATH, sqlite:///PATH, "
            "postgresql://USER:PASSWORD@HOST/NAME, mysql://USER:PASSWORD@HOST/NAME or grpc://HOST:PORT."
        ) from error
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise SettingsError(f"The storage {without_password(address)} cannot be opened: {reason}") from error


def without_password(address: str) -> str:
    """An address that may be shown."""
    try:
        password = urlsplit(address).password
    except ValueError:
        return address.split(":", 1)[0] + ":..."
    return address.replace(f":{password}@", ":***@") if password else address


def study_identity(
    corpus: Corpus, encoder: EncoderReference, base: CrossvalSettings, folds: Sequence[Fold], space: Space
) -> dict[str, Any]:
    """What a study is about; a search with anything else is another study."""
    members = [[fold.train, fold.validation] for fold in folds]
    content = {
        "corpus": identity(corpus, encoder, base)["corpus"],
        "encoder": {"fingerprint": encoder.fingerprint, "layer": encoder.layer, "dim": encoder.dim},
        "space": {name: asdict(part) for name, part in space.items()},
        "folds": {
            "protocol": base.protocol(len(folds)), "seed": base.seed,
            "validation_share": base.validation_share,
            "members": hashlib.sha256(json.dumps(members).encode()).hexdigest()[:16],
        },
        "settings": fixed_part(base, space),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def open_study(storage: BaseStorage, name: str, about: Mapping[str, Any], **options: Any) -> optuna.Study:
    """The study of a name, made where there is none; options go to Optuna (sampler and pruner).

    Raises:
        SettingsError: there is one, about something else.
    """
    study = optuna.create_study(
        storage=storage,
        study_name=check_study_name(name),
        direction="maximize",
        load_if_exists=True,
        **options,
    )
    if IDENTITY not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            raise SettingsError(f"The study {name!r} was not made by this program. Choose another name.")
        study.set_metric_names([METRIC])
        study.set_user_attr(IDENTITY, dict(about))
    found = study.user_attrs[IDENTITY]
    other = [key for key in about if found.get(key) != about[key]]
    if other:
        raise SettingsError(
            f"The study {name!r} was made with other {', '.join(other)}. Choose another name for this "
            "search, or give what the study was made with."
        )
    return study


def load_study(storage: BaseStorage, name: str) -> optuna.Study | None:
    """The study of a name; None where there is none."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """The completed trial with the highest value, the first of equals."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(completed, key=lambda trial: (trial.value, -trial.number), default=None)


def count_finished(study: optuna.Study) -> int:
    """Trials that came to their end or were pruned."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def summary(study: optuna.Study) -> dict[str, Any]:
    """How a study stands, as plain JSON values: counts by state, the best trial, a row for each trial."""
    trials = study.get_trials(deepcopy=False)
    best = best_of(study)
    return {
        "study": study.study_name,
        "study_id": study._study_id,  # what the dashboard's addresses call it; it has no public name
        "counts": {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState},
        "queued_again": sum(RETRY_OF in trial.user_attrs for trial in trials),
        "best": None if best is None else _row(best),
        "trials": [_row(trial) for trial in trials],
        "scored": study.user_attrs.get(SCORED),
    }


def quiet() -> None:
    """Leave what Optuna would print to us: a line a trial, and notes on what it calls experimental."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    epoch = trial.last_step
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "epoch": epoch,
        "validation_accuracy": None if epoch is None else trial.intermediate_values[epoch],
        "parameters": trial.params,
        "error": trial.user_attrs.get(ERROR),
    }


def _journal(path: Path) -> JournalStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = KernelLock(path.with_name(f"{path.name}.lock"))
    _drop_torn_line(path, lock)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _drop_torn_line(path: Path, lock: KernelLock) -> None:
    """Cut off a last line without its end (a full disk, a power cut), which would spoil the next one."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - (1 << 20))
            file.seek(start)
            kept = start + file.read().rfind(b"\n") + 1
            if kept < size:
                log.warning("event=journal_repaired dropped_bytes=%d", size - kept)
                file.truncate(kept)
    finally:
        lock.release()


def _grpc(address: str) -> GrpcStorageProxy:
    parts = urlsplit(address)
    if not parts.hostname or not parts.port:
        raise ValueError(address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = GrpcStorageProxy(host=parts.hostname, port=parts.port)
    proxy.wait_server_ready(GRPC_WAIT_S)
    return proxy


def _database(address: str) -> RDBStorage:
    options: dict[str, Any] = {"pool_pre_ping": True}
    if address.startswith("sqlite"):
        options["connect_args"] = {"timeout": SQLITE_WAIT_S}
    for left in reversed(range(CREATE_TRIES)):
        try:
            return RDBStorage(address, engine_kwargs=options)
        except (
            SQLAlchemyError
        ):  # several workers make the tables of a new database at once, and one of them wins
            if not left:
                raise
            time.sleep(CREATE_PAUSE_S)
    raise AssertionError
