"""A real S3 API on loopback for tests: moto's server in a process of its own, seen through boto3."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.fault_proxy import FaultProxy

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests end, however they end
"""

KEY, SECRET = "AKIACANARYKEY", "canary/se+cret"


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Start the server; yields host:port."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


class Bucket:
    """A bucket of its own, and the way to it that batchqa takes in a test: through the fault proxy."""

    def __init__(self, server: str, proxy: FaultProxy, name: str) -> None:
        import boto3

        self.name = name
        self.proxy = proxy
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://{server}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.client.create_bucket(Bucket=name)

    def uri(self, key: str) -> str:
        """The URI that a user gives."""
        return f"s3://{self.name}/{key}?endpoint_override={self.proxy.endpoint}&scheme=http"

    def put(self, key: str, data: bytes) -> None:
        """Put an object, past the proxy."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def listing(self, prefix: str = "") -> dict[str, tuple[str, Any]]:
        """ETag and time of each object, but for the empty ones that stand for folders."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return {
            entry["Key"]: (entry["ETag"], entry["LastModified"])
            for page in pages
            for entry in page.get("Contents", ())
            if not entry["Key"].endswith("/")
        }

    def get(self, key: str) -> bytes:
        """An object's content, past the proxy."""
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """All objects, by what stands behind the prefix in their keys."""
        return {key.removeprefix(prefix): self.get(key) for key in self.listing(prefix)}

    def unfinished_uploads(self) -> int:
        """How many multipart uploads were neither completed nor aborted."""
        return len(self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ()))
