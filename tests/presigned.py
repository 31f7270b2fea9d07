"""An object store for tests: moto's S3 server in a process of its own, and presigned URLs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ports import free_port, running

__all__ = ["BUCKET", "Store", "client", "store"]

BUCKET = "films"


def client(port: int) -> Any:
    """boto3's client of the store."""
    boto3 = pytest.importorskip("boto3")
    config = pytest.importorskip("botocore.config").Config(
        signature_version="s3v4", s3={"addressing_style": "path"}
    )
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )


@dataclass
class Store:
    port: int
    log: Path
    s3: Any

    def put(self, key: str, data: bytes, **params: Any) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=data, **params)

    def get(self, key: str) -> Any:
        """The object's body, which has its key."""
        body = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"]
        body.key = key
        return body

    def url_for(self, file: Any, **params: Any) -> str:
        """A URL of the object that has the key of this file."""
        asked = {"Bucket": BUCKET, "Key": file.key, **params}
        url: str = self.s3.generate_presigned_url("get_object", Params=asked, ExpiresIn=600)
        return url


@contextmanager
def store(log: Path) -> Iterator[Store]:
    """Run an empty store."""
    pytest.importorskip("moto.server")
    port = free_port()
    # Its workers ask no other machine for credentials.
    environ = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, log, env=environ):
        s3 = client(port)
        try:
            s3.create_bucket(Bucket=BUCKET)
            yield Store(port, log, s3)
        finally:
            s3.close()
