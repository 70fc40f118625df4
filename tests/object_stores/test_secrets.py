"""Credentials of object stores are in nothing that is said or kept."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from batchqa import SettingsError
from batchqa.output import Target
from batchqa.store.locations import locate, public
from tests.object_stores.stores import (
    FOREVER,
    ROWS,
    at,
    jsonl,
    local,
    program,
)
from tests.s3 import KEY, SECRET, Bucket


@pytest.mark.parametrize("fault", [None, "SlowDown", "InvalidAccessKeyId", "option", "bucket"])
def test_credentials_in_a_uri_are_nowhere_to_be_found(
    bucket: Bucket, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    bucket.put("in.jsonl", jsonl(ROWS))

    def secret(key: str) -> str:
        return bucket.uri(key).replace("s3://", f"s3://{KEY}:{quote(SECRET, safe='')}@")

    output = secret("x/out.jsonl")
    if fault == "option":
        output += "&secret_key=" + quote(SECRET, safe="")
    elif fault == "bucket":
        output = output.replace(bucket.name, "no-such-bucket")
    elif fault:
        bucket.proxy.fault = at("PutObject", 4, fault, times=FOREVER)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with program(tiny_bundle, secret("in.jsonl"), output) as process:
        out, errors = process.communicate(timeout=120)
    assert process.returncode == {None: 0, "SlowDown": 75, "option": 2}.get(fault, 74), errors
    bucket.proxy.reset()
    said = [out, errors, *bucket.contents().values(), *local(tmp_path).values()]
    assert len(bucket.listing("x/")) >= (2 if fault in (None, "SlowDown") else 0)
    for text in said:
        for canary in (KEY, SECRET, quote(SECRET, safe=""), SECRET.partition("/")[2]):
            assert canary.encode() not in text
    assert b"Traceback" not in errors


def test_a_secret_that_is_not_percent_encoded_is_refused_without_repeating_it() -> None:
    for uri in ("s3://AKIA:sec/ret@bucket/in.parquet", "s3://AKIA:sec/ret@bucket/in.parquet?scheme=http"):
        for use in (public, locate, Target.parse):
            with pytest.raises(SettingsError, match="%2F") as refused:
                use(uri)
            assert "ret" not in str(refused.value).replace("secret", "")
            assert "AKIA" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/a/b.parquet", "s3://bucket/a/b.parquet"),
        ("s3://key:se%2Fcret@bucket/a?region=eu-west-1", "s3://bucket/a"),
        ("S3://bucket/in-?.parquet", "s3://bucket/in-?.parquet"),
        ("s3://bucket/user@host/x", "s3://bucket/user@host/x"),
        ("gs://anonymous@bucket/a b", "gs://bucket/a b"),
        ("abfs://container:password@account.dfs.core.windows.net/a", None),
        ("abfss://:password@account.blob.core.windows.net/container/a", None),
    ],
)
def test_what_is_shown_of_a_uri_names_the_place_and_no_secret(uri: str, shown: str | None) -> None:
    if shown is None:
        assert "password" not in public(uri)
        assert public(uri).endswith(uri.partition("password@")[2])
    else:
        assert public(uri) == shown


def test_an_azure_container_belongs_to_the_place() -> None:
    assert public("abfs://one@account/a") != public("abfs://two@account/a")
