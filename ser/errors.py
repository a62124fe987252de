"""The errors that a user can cause, each with a message that says what was wrong and what to do next.

Everything the package raises for bad input derives from `SerError`, so that one `except` serves the
command line and the page. Messages are meant for people: one or two sentences, no stack trace needed.
"""

from __future__ import annotations


class SerError(Exception):
    """Base of every error whose message is written for the user."""


class AudioError(SerError):
    """A recording cannot be used: not audio, empty, silent, too short, too long, damaged.

    `kind` names the reason in one word, for programs that want to tell them apart.
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class EncoderError(SerError):
    """The speech encoder is missing, incomplete, damaged or of an unknown kind."""


class CheckpointError(SerError):
    """A checkpoint does not describe the model that its weights hold."""


class CorpusError(SerError):
    """A folder or table of labelled recordings cannot be read as a corpus."""


class FoldError(SerError):
    """A corpus cannot be split into speaker-disjoint parts as asked."""


class CacheError(SerError):
    """The feature cache cannot be used."""


class JobError(SerError):
    """A background run cannot be started, found or stopped."""


class Stopped(JobError):
    """A run was asked to stop; its state is saved, and the same command resumes it."""


class SettingsError(SerError, ValueError):
    """A setting has a value that makes no sense; the command line treats it as bad usage."""
