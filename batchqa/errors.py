"""Every error that a user can meet, and the exit code that each one ends the command with.

::

    BatchqaError
    ├── SettingsError        2   an option, or a combination of options, that cannot be
    ├── InputError           2   an input that cannot be read as what it should be
    │   └── NoInputError     2   no such file, a folder or glob without files, nothing in them
    ├── LimitError           3   a limit that the user set was not met (row errors, F1)
    ├── PreconditionError    4   the output exists, or the input or options changed since
    ├── ModelError           5   a bundle or checkpoint that cannot be used
    │   └── DeviceError      5   a device, engine or provider that was asked for and cannot be had
    ├── StorageError        74   the storage failed while reading or writing
    ├── TryAgainError       75   the same command may work later (output locked, device lost, no network)
    └── StoppedError   130/143   SIGINT or SIGTERM ended the run

A message is one line: what happened, where, and what to do. It never holds row text. Anything that is
not in this tree and reaches the command line is a bug.
"""

from __future__ import annotations


class BatchqaError(Exception):
    """The base of all errors that a user can meet; `exit_code` is what the command ends with."""

    exit_code = 1


class SettingsError(BatchqaError):
    """An option, or a combination of options, that cannot be."""

    exit_code = 2


class InputError(BatchqaError):
    """An input that is missing, or that cannot be read as what it should be."""

    exit_code = 2


class NoInputError(InputError):
    """There is no input at all: what --if-no-input skip takes for nothing to do."""


class LimitError(BatchqaError):
    """A limit that the user set was not met: too many row errors, too low an F1."""

    exit_code = 3


class PreconditionError(BatchqaError):
    """The output already exists, or the input or the options changed since the job began."""

    exit_code = 4


class ModelError(BatchqaError):
    """A bundle or a checkpoint that cannot be used."""

    exit_code = 5


class DeviceError(ModelError):
    """A device, engine or provider that was asked for and cannot be had."""


class StorageError(BatchqaError):
    """The storage failed while reading or writing: damaged data, no space left, an I/O error."""

    exit_code = 74


class TryAgainError(BatchqaError):
    """The same command may work later: the output is locked, the device was lost, no network."""

    exit_code = 75


class StoppedError(BatchqaError):
    """A signal ended the run; committed parts are kept and the same command resumes from there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """The first line, at most 300 characters, of what a library's error says; its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
