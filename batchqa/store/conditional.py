"""Conditional writes to S3, by botocore: pyarrow's file systems have none."""

from __future__ import annotations

import importlib.util
from typing import Any

import pyarrow.fs as pafs

from batchqa.errors import TryAgainError
from batchqa.store.locations import CONNECT_SECONDS, SILENT_SECONDS, Location, attempts, refused_by_s3

_TAKEN = (409, 412)
"""HTTP statuses of a key that has an object, or that another conditional write just creates."""

_UNKNOWN = (400, 501)
"""Statuses of a server that knows no conditional writes."""


def put_new(data: bytes, to: Location) -> bool | None:
    """Create an object; False where there is one, None where this store cannot be asked so."""
    if not isinstance(to.filesystem, pafs.S3FileSystem) or not importlib.util.find_spec("botocore"):
        return None
    _, (options, *_) = to.filesystem.__reduce__()  # what pickling it would keep
    if options.get("role_arn") or options.get("anonymous"):
        return None
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = to.path.partition("/")
    try:
        _client(options).put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        if status in _TAKEN:
            return False
        if status in _UNKNOWN and error.response["Error"]["Code"] != "ExpiredToken":
            return None
        raise refused_by_s3(to.uri, error.response["Error"]["Code"], status) from None
    except BotoCoreError as error:
        raise TryAgainError(
            f"{to}: the storage cannot be reached ({type(error).__name__}); run the same command again later"
        ) from None
    return True


def _client(options: dict[str, Any]) -> Any:
    """A client with the options of a file system of pyarrow's."""
    from botocore.config import Config
    from botocore.session import get_session

    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:  # with a scheme it is from AWS_ENDPOINT_URL
        endpoint = f"{options.get('scheme') or 'https'}://{endpoint}"
    return get_session().create_client(
        "s3",
        region_name=options.get("region") or None,
        endpoint_url=endpoint or None,
        aws_access_key_id=options.get("access_key") or None,
        aws_secret_access_key=options.get("secret_key") or None,
        aws_session_token=options.get("session_token") or None,
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=SILENT_SECONDS,
            retries={"total_max_attempts": attempts(), "mode": "standard"},
            request_checksum_calculation="when_required",
            s3={"addressing_style": "path" if endpoint else "auto"},
        ),
    )
