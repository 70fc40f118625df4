"""Object stores: from a URI to pyarrow's file system, and from its errors to ours.

Two rules hold here. What is shown or written down of a URI has no credentials in it (`public`), and of a
library's message only the code of the error is passed on, because the rest may repeat what it was given.
Reading and commit share this module.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from batchqa.errors import BatchqaError, InputError, SettingsError, StorageError, TryAgainError

Result = TypeVar("Result")

OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss")
"""Where an object appears whole or not at all, so that an output may be written there."""

RETRIES = 8
"""Attempts of a request on S3, with pauses that double; AWS_MAX_ATTEMPTS has another number."""

CONNECT_SECONDS = 10
SILENT_SECONDS = 20
"""How long S3 may say nothing before a request counts as failed; the SDK's own 3 s is short if it is busy."""

_THREAD = "batchqa-storage"

_PAUSES = (0.2, 0.8, 3.2)
"""Seconds between the attempts of `again`."""

_FILE = "file://"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_QUERY = re.compile(r"[a-z_]+=[^?]*")
_AWS = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during (\w+) operation")
_CURL = re.compile(r"curlCode: (\d+)")
_GCS = re.compile(r"google::cloud::Status\((\w+):")
_AZURE = re.compile(r"Azure.*?\b([45]\d\d) ", re.DOTALL)

_GONE = {"NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "404", "NOT_FOUND"}
"""Codes of an object that is not there (any more), S3's, HTTP's and Google's."""

_PASSING = {
    "NETWORK_CONNECTION",
    "SLOW_DOWN",
    "SERVICE_UNAVAILABLE",
    "THROTTLING",
    "INTERNAL_FAILURE",
    "REQUEST_TIMEOUT",
    "REQUEST_TIME_TOO_SKEWED",
    # Google's
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
    "ABORTED",
}


@dataclass(frozen=True, slots=True)
class Location:
    """An object, or a prefix of objects ("folder"): the `key` in a bucket.

    `uri` names it to people, without credentials; `path` is what its file system calls it (bucket/key).
    `root_uri` and `root_path` are those of the bucket, with a slash behind them where they are not empty.
    """

    root_uri: str
    root_path: str
    key: str
    filesystem: pafs.FileSystem = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.uri

    @property
    def uri(self) -> str:
        """The URI without credentials and options."""
        return self.root_uri + self.key

    @property
    def path(self) -> str:
        """The path in the file system, without a slash at its end."""
        return (self.root_path + self.key).rstrip("/")

    @property
    def name(self) -> str:
        """The key's part behind the last slash."""
        return self.key.rpartition("/")[2]

    def at(self, path: str) -> Location:
        """The object of the same bucket that the file system calls `path`."""
        return replace(self, key=path.removeprefix(self.root_path))

    def child(self, name: str) -> Location:
        """The object `name` below this one."""
        return replace(self, key=f"{self.key.rstrip('/')}/{name}".lstrip("/"))

    def beside(self, suffix: str) -> Location:
        """The object of this name with `suffix` behind it."""
        return replace(self, key=self.key + suffix)


EMPTY_PART = "a key with an empty part (//) cannot be opened; copy the object to a key without one"


def has_empty_part(key: str) -> bool:
    """Whether a key has two slashes in a row, or one in front, which no file system of pyarrow opens."""
    return "//" in key or key.startswith("/")


def is_uri(text: str) -> bool:
    """Whether this is a URI of something that is not local: a local path may begin with `file://`."""
    return _URI.fullmatch(text) is not None and not text.startswith(_FILE)


def local_path(text: str) -> str:
    """A local path without the `file://` that it may begin with."""
    return text.removeprefix(_FILE)


def local_output(option: str, given: str | Path) -> Path:
    """The path of what only local file systems take. Raises SettingsError for a URI."""
    if is_uri(str(given)):
        raise SettingsError(f"{option} must be a local path, not {public(str(given))}; copy it afterwards")
    return Path(local_path(str(given)))


def public(uri: str) -> str:
    """The URI without credentials and options: how messages name it, and what goes into the fingerprint.

    A local path stays as it is.
    """
    if not is_uri(uri):
        return uri
    scheme, authority, key, _ = _split(uri)
    return f"{scheme}://{_public_authority(scheme, authority)}/{key}"


def locate(uri: str) -> Location:
    """The place that a URI names. Raises SettingsError for one that cannot be.

    The key is taken as it is written, as `aws s3` does: nothing in it is percent-decoded, so that names with
    spaces, `%` or `[` can be given. The options of pyarrow's URIs (`?endpoint_override=...&scheme=http`) are
    understood; pyarrow also looks at the environment variable AWS_ENDPOINT_URL.
    """
    scheme, authority, key, query = _split(uri)
    root_uri = f"{scheme}://{_public_authority(scheme, authority)}/"
    if has_empty_part(key.rstrip("/")):
        raise SettingsError(f"{root_uri}{key}: {EMPTY_PART}")
    try:
        filesystem, root = pafs.FileSystem.from_uri(
            f"{scheme}://{authority}/" + (f"?{query}" if query else "")
        )
    except (pa.ArrowException, ValueError, TypeError):
        # the library's message repeats the URI with its credentials
        raise SettingsError(
            f"{root_uri}{key} is not a URI of a known storage (s3, gs, abfs, hdfs), or has a wrong option"
        ) from None
    except OSError as error:  # the region of a bucket is asked for
        raise trouble(root_uri, error) or StorageError(f"{root_uri}: the storage cannot be opened") from None
    if isinstance(filesystem, pafs.S3FileSystem):
        filesystem = _patient(filesystem)
    root_path = f"{root.strip('/')}/" if root.strip("/") else ""
    return Location(root_uri, root_path, key, filesystem)


def _split(uri: str) -> tuple[str, str, str, str]:
    """Scheme, authority (with credentials), key and options of a URI; a `?` in a glob is no option."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise SettingsError("this is not a URI")
    scheme, rest = match[1].lower(), match[2]
    head, mark, query = rest.rpartition("?")
    if not mark or not _QUERY.fullmatch(query):
        head, query = rest, ""
    authority, _, key = head.partition("/")
    if not authority or (":" in authority and "@" not in authority and "@" in key):
        # Perhaps s3://key:sec/ret@bucket/...: nothing of it is repeated.
        raise SettingsError(
            f"{scheme}://...: no bucket is named; write / and @ in credentials as %2F and %40 (better: give "
            f"credentials in the environment)"
        )
    return scheme, authority, key, query


def _public_authority(scheme: str, authority: str) -> str:
    """The authority without credentials. Of Azure's, user@ is the container or the account, and no secret."""
    user, mark, host = authority.rpartition("@")
    container = user.partition(":")[0] if scheme.startswith("abfs") else ""
    return f"{container}@{host}" if mark and container else host


def _patient(filesystem: pafs.S3FileSystem) -> pafs.S3FileSystem:
    """The same file system with more retries, longer time-outs, and small objects in one request.

    Its options are those that pickling it would keep. Writes stay in the background: without that, pyarrow 26
    completes a multipart upload whose part could not be uploaded, and a cut-off object is published.
    """
    _, (options, *_) = filesystem.__reduce__()
    return pafs.S3FileSystem(
        **options
        | {
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=attempts()),
            "connect_timeout": CONNECT_SECONDS,
            "request_timeout": SILENT_SECONDS,
            "background_writes": True,
            "allow_delayed_open": True,
        }
    )


def attempts() -> int:
    """How often a request to S3 is tried."""
    asked = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return int(asked) if asked.isdecimal() else RETRIES


def trouble(shown: str, error: BaseException) -> BatchqaError | None:
    """What a store's error means for the user; None for an error that no store's library raised.

    TryAgainError where the same command may work later, InputError for a bucket that does not exist,
    StorageError for everything else that the store refuses.
    """
    text = str(error)
    if is_gone(error) and (_AWS.search(text) or _GCS.search(text) or _AZURE.search(text)):
        return StorageError(f"{shown} was deleted in the meantime")
    if match := _AWS.search(text):
        code, status, operation = match.groups("")
        return _aws(shown, code, status, operation, _CURL.search(text))
    if match := _GCS.search(text):
        return _judged(shown, match[1], match[1] in _PASSING)
    if match := _AZURE.search(text):
        return _judged(shown, f"HTTP status {match[1]}", _passes(int(match[1])))
    return None


def is_gone(error: BaseException) -> bool:
    """Whether an error says that the object is not there: while it was read, another run removed it."""
    if isinstance(error, FileNotFoundError):
        return True
    text = str(error)
    if match := _AWS.search(text):
        return bool(_GONE.intersection((match[1], match[2])))
    match = _GCS.search(text) or _AZURE.search(text)
    return match is not None and match[1] in _GONE


def refused_by_s3(shown: str, code: str, status: int) -> BatchqaError:
    """The same for a PutObject that S3 refused another library: its code, as the S3 API writes it."""
    named = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()
    if named in ("NO_SUCH_BUCKET", "EXPIRED_TOKEN"):
        return _aws(shown, "UNKNOWN" if named == "EXPIRED_TOKEN" else named, str(status), "PutObject", None)
    return _judged(shown, f"{named} during PutObject", _passes(status))


def _aws(shown: str, code: str, status: str, operation: str, curl: re.Match[str] | None) -> BatchqaError:
    what = f"curl {curl[1]}" if curl else f"HTTP status {status}" if status else code
    # an expired token: a code that the SDK does not know, and of HEAD and GET it sees no code at all
    if (code, status) == ("UNKNOWN", "400"):
        return TryAgainError(
            f"{shown}: the storage refuses the credentials ({what} during {operation}), which may have "
            "expired: renew them and run the same command again"
        )
    if code == "NO_SUCH_BUCKET":
        return InputError(f"{shown}: there is no such bucket")
    return _judged(
        shown, f"{what} during {operation}", code in _PASSING or bool(status and _passes(int(status)))
    )


def _passes(status: int) -> bool:
    return status >= 500 or status in (408, 429)


def _judged(shown: str, what: str, passes: bool) -> BatchqaError:
    if passes:
        return TryAgainError(
            f"{shown}: the storage cannot be reached, or is overloaded ({what}); run the same command again "
            "later: it resumes after the last committed part"
        )
    return StorageError(
        f"{shown}: the storage refuses it ({what}); check the credentials, the region and the bucket's policy"
    )


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Turn what a store's library raises in the block into our errors; FileNotFoundError for what is gone."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        if is_gone(error):
            raise FileNotFoundError(errno.ENOENT, "the object is gone", shown) from error
        known = trouble(shown, error)
        if known is None:
            raise
        raise known from error


def again(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that reads; where pyarrow gave up too early, again.

    pyarrow 26 reads into a buffer of the size that was asked for. An error's text that is longer than this,
    as for a few bytes it always is, becomes INTERNAL_FAILURE, which the SDK does not try again.
    """
    for pause in _PAUSES:
        try:
            return function(*arguments)
        except OSError as error:
            if "AWS Error INTERNAL_FAILURE" not in str(error):
                raise
            time.sleep(pause)
    return function(*arguments)


def read_at(file: pa.NativeFile, offset: int, size: int) -> bytes:
    """A few bytes of an opened file, from `offset` on."""

    def read() -> bytes:
        file.seek(offset)
        return bytes(file.read(size))

    return again(read)


def waiting_for(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that may take long inside a library, where signals are not looked at, in a thread.

    So SIGTERM and SIGINT are answered while an upload, or a store that is silent, is waited for.
    """
    future: Future[Result] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001  (raised again, in the thread that waits)
            future.set_exception(error)

    threading.Thread(target=call, name=_THREAD, daemon=True).start()
    return future.result()


def is_waiting() -> bool:
    """Whether a call is still going on that nobody waits for any more, as a signal came."""
    return any(thread.name == _THREAD for thread in threading.enumerate())
