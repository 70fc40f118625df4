"""Airflow connections as the environment of a command: credentials never stand on a command line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol


class Connection(Protocol):
    """What is needed of an Airflow connection."""

    conn_id: str
    conn_type: str
    login: str | None
    password: str | None
    extra_dejson: dict[str, Any]


@contextmanager
def environment_of(connection: Connection) -> Iterator[dict[str, str]]:
    """The variables by which pyarrow finds the credentials of an object store.

    A connection without credentials leaves them to what the machine has (a role, a profile). Raises
    ValueError for a connection of another kind, or one whose kind of credentials pyarrow cannot be given.
    """
    make = _KINDS.get(connection.conn_type)
    if make is None:
        raise ValueError(
            f"the connection {connection.conn_id} has the type {connection.conn_type!r}, which is not one "
            f"of an object store ({', '.join(sorted(_KINDS))})"
        )
    variables = make(connection)
    keyfile = variables.pop("keyfile", None)
    if keyfile is None:
        yield variables
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:  # only its owner can read it
        file.write(keyfile)
        file.flush()
        yield {**variables, "GOOGLE_APPLICATION_CREDENTIALS": file.name}


def _aws(connection: Connection) -> dict[str, str]:
    extra = connection.extra_dejson
    if extra.get("role_arn"):
        raise ValueError(
            f"the connection {connection.conn_id} names a role to assume (role_arn), which batchqa "
            "cannot assume; give the worker the role, or name a profile (profile_name) that assumes it"
        )
    return _given(
        AWS_ACCESS_KEY_ID=connection.login,
        AWS_SECRET_ACCESS_KEY=connection.password,
        AWS_SESSION_TOKEN=extra.get("aws_session_token"),
        AWS_PROFILE=extra.get("profile_name"),
        AWS_DEFAULT_REGION=extra.get("region_name"),
        AWS_REGION=extra.get("region_name"),
        AWS_ENDPOINT_URL=extra.get("endpoint_url") or extra.get("host"),
    )


def _google(connection: Connection) -> dict[str, str]:
    # older connections have a long prefix before each name
    extra = {
        name.removeprefix("extra__google_cloud_platform__"): value
        for name, value in connection.extra_dejson.items()
    }
    keyfile = extra.get("keyfile_dict")
    return _given(
        GOOGLE_APPLICATION_CREDENTIALS=extra.get("key_path"),
        GOOGLE_CLOUD_PROJECT=extra.get("project"),
        keyfile=json.dumps(keyfile) if isinstance(keyfile, Mapping) else keyfile,
    )


def _azure(connection: Connection) -> dict[str, str]:
    extra = connection.extra_dejson
    tenant = extra.get("tenant_id") or extra.get("extra__wasb__tenant_id")
    if connection.password and not tenant:
        raise ValueError(
            f"the connection {connection.conn_id} has an account key, which cannot be passed on; use an "
            "application (client id as login, secret as password, tenant_id), or a managed identity"
        )
    if not tenant:
        return {}
    return _given(
        AZURE_TENANT_ID=tenant, AZURE_CLIENT_ID=connection.login, AZURE_CLIENT_SECRET=connection.password
    )


def _given(**variables: str | None) -> dict[str, str]:
    return {name: value for name, value in variables.items() if value}


_KINDS: dict[str, Callable[[Connection], dict[str, str]]] = {
    "aws": _aws,
    "google_cloud_platform": _google,
    "wasb": _azure,
    "adls": _azure,
}
