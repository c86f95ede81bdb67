"""An S3-compatible store on this machine that checks every signature and every right: moto's server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.server import ThreadedMotoServer

BUCKET, PREFIX, REGION = "copies", "esteira", "eu-central-1"
#: What docs/operations.md says that the key must be allowed, and no more.
RIGHTS = ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject")


class Store:
    """A bucket, a key that may use it, and another one by which the tests look at it."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self._checks(False)
        self.key, self.secret = self._account("backup", RIGHTS)
        self._s3 = self._client("s3", *self._account("tests", ("*",)))
        self._s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self._checks(True)

    def _checks(self, on: bool) -> None:
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0 if on else float("inf")
        ActionAuthenticatorMixin.request_count = 0

    def _account(self, name: str, rights: tuple[str, ...]) -> tuple[str, str]:
        iam = self._client("iam", "nobody", "nothing")
        allowed = {"Effect": "Allow", "Resource": "*", "Action": rights}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]

    def _client(self, service: str, key: str, secret: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"max_attempts": 1}),
        )

    def settings(self, **more: str) -> Mapping[str, str]:
        """Return what .env or the ConfigMap and the Secret say."""
        return {
            "BACKUP_BUCKET": BUCKET,
            "BACKUP_BUCKET_ENDPOINT": self.endpoint,
            "BACKUP_BUCKET_REGION": REGION,
            "BACKUP_BUCKET_PREFIX": PREFIX,
            "BACKUP_BUCKET_KEY": self.key,
            "BACKUP_BUCKET_SECRET": self.secret,
            **more,
        }

    def names(self) -> list[str]:
        """Return the names below the prefix, sorted."""
        found = self._s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/").get("Contents", [])
        return sorted(one["Key"].removeprefix(f"{PREFIX}/") for one in found)

    def put(self, name: str, content: bytes = b"a dump") -> None:
        self._s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=content)

    def content(self, name: str) -> bytes:
        return bytes(self._s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}")["Body"].read())

    def under_way(self) -> int:
        """Count the uploads that have begun and are not whole."""
        return len(self._s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))

    def empty(self) -> None:
        for name in self.names():
            self._s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}")

    def stop(self) -> None:
        self._server.stop()
        self._checks(False)
