"""Where studies are stored, what makes two searches the same, and how a study stands, as plain values.

In: a storage address: any database of Optuna (`sqlite:///PATH`, `postgresql://...`, `mysql://...`) or
`grpc://HOST:PORT` (Optuna's proxy). Out: an Optuna storage; of a study, a `summary`.

Optuna's heartbeats tell which workers of a database still live: a trial whose worker is silent for `GRACE_S` fails, and
its parameters are queued again. The proxy has no heartbeats: a trial of a killed worker stays "running" there, and
workers that end side by side may finish a few trials more than were asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus
from ser.corpora.folds import Fold
from ser.errors import SettingsError
from ser.training.run_folder import identity
from ser.training.settings import CrossvalSettings, settings_to_dict
from ser.tuning.space import Space

JOURNAL, GRPC = "journal:", "grpc://"
DATABASE_NAME = "studies.db"
HEARTBEAT_S, GRACE_S = 5, 30
QUEUE_S = 10  # longest time between the failure of a dead worker's trial and its being queued again
MAX_RETRIES = 10  # a configuration that ends its worker each time must not hold up the study for ever
GRPC_WAIT_S, SQLITE_WAIT_S = 10.0, 60
CREATE_TRIES, CREATE_PAUSE_S = 5, 0.5
IDENTITY, SCORED, ERROR, SECONDS = "ser", "scored", "error", "seconds"  # attributes of a study, of a trial
SURPLUS = "Surplus"  # the error of a trial that was not needed
RETRY_OF = "failed_trial"  # the attribute by which Optuna marks the retry of a trial
METRIC = "validation accuracy, mean of the folds"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def default_storage(runs: Path) -> str:
    """The address of the SQLite database beside the runs."""
    return f"sqlite:///{Path(runs) / DATABASE_NAME}"


def open_storage(address: str) -> BaseStorage:
    """The storage at an address; its tables are made where they are missing.

    Raises:
        SettingsError: it cannot be opened; the message never shows a password.
    """
    quiet()
    if address.startswith(JOURNAL):
        raise SettingsError(
            f"{address}: studies are stored in databases now, and those of an earlier version cannot be resumed. "
            "Start a new one with sqlite:///PATH."
        )
    try:
        return _grpc(address) if address.startswith(GRPC) else _database(address)
    except ImportError as error:
        raise SettingsError(
            f"The storage {without_password(address)} needs a package that is not installed ({error}): "
            "install psycopg[binary] for postgresql, mysqlclient for mysql, grpcio for grpc with pip."
        ) from error
    except (ArgumentError, ValueError) as error:
        raise SettingsError(
            f"{without_password(address)} is no storage. Give sqlite:///PATH, "
            "postgresql://USER:PASSWORD@HOST/NAME, mysql://USER:PASSWORD@HOST/NAME or grpc://HOST:PORT."
        ) from error
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise SettingsError(f"The storage {without_password(address)} cannot be opened: {reason}") from error


def without_password(address: str) -> str:
    """An address that may be shown."""
    return re.sub(r"(://[^:@]*):.*@", r"\1:***@", address)


def study_identity(
    corpus: Corpus, encoder: EncoderReference, base: CrossvalSettings, folds: Sequence[Fold], space: Space
) -> dict[str, Any]:
    """What a study is about; a search with anything else is another study."""
    members = json.dumps([[fold.train, fold.validation] for fold in folds])
    shared = {**settings_to_dict(base.classifier), **settings_to_dict(base.training)}
    content = {
        "corpus": identity(corpus, encoder, base)["corpus"],
        "encoder": {"fingerprint": encoder.fingerprint, "layer": encoder.layer, "dim": encoder.dim},
        "space": {name: distribution_to_json(part) for name, part in space.items()},
        "folds": {
            "protocol": base.protocol(len(folds)),
            "seed": base.seed,
            "validation_share": base.validation_share,
            "members": hashlib.sha256(members.encode()).hexdigest()[:16],
        },
        "settings": {name: value for name, value in shared.items() if name not in space},
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """The completed trial with the highest value, the first of equals."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(completed, key=lambda trial: (trial.value, -trial.number), default=None)


def first_number(trial: FrozenTrial) -> int:
    """The number of the trial, or of the one that it repeats."""
    return int(trial.system_attrs.get(RETRY_OF, trial.number))


def count_finished(study: optuna.Study) -> int:
    """Number of trials that were completed or pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def seconds_used(study: optuna.Study) -> float:
    """Seconds during which at least one trial of the study ran, on whatever machine."""
    total, until = timedelta(), datetime.min
    started = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    for trial in sorted(started, key=lambda trial: trial.datetime_start):
        end = trial.datetime_start + timedelta(seconds=trial.user_attrs.get(SECONDS, 0.0))
        total += max(timedelta(), end - max(trial.datetime_start, until))
        until = max(until, end)
    return total.total_seconds()


def summary(study: optuna.Study) -> dict[str, Any]:
    """How a study stands, as plain JSON values: counts by state, the best trial, a row for each trial that was run."""
    trials = [one for one in study.get_trials(deepcopy=False) if one.user_attrs.get(ERROR) != SURPLUS]
    best = best_of(study)
    return {
        "study": study.study_name,
        "study_id": study._study_id,  # what the dashboard's addresses call it; it has no public name
        "counts": {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState},
        "queued_again": sum(RETRY_OF in trial.system_attrs for trial in trials),
        "best": None if best is None else _row(best),
        "trials": [_row(trial) for trial in trials],
        "scored": study.user_attrs.get(SCORED),
    }


def quiet() -> None:
    """Turn off what Optuna would print: a line a trial, and notes on what it calls experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
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


def _grpc(address: str) -> GrpcStorageProxy:
    parts = urlsplit(address)
    if not parts.hostname or not parts.port:
        raise ValueError(address)
    proxy = GrpcStorageProxy(host=parts.hostname, port=parts.port)
    proxy.wait_server_ready(GRPC_WAIT_S)
    return proxy


def _database(address: str) -> RDBStorage:
    options: dict[str, Any] = {"pool_pre_ping": True}
    if address.startswith("sqlite"):
        options["connect_args"] = {"timeout": SQLITE_WAIT_S}
    for left in reversed(range(CREATE_TRIES)):
        try:
            return RDBStorage(
                address,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRIES),
            )
        except SQLAlchemyError:  # commands that begin together all make the tables, and one of them wins
            if not left:
                raise
            time.sleep(CREATE_PAUSE_S)
    raise AssertionError
