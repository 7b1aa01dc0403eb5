"""The streams: what is kept of the events, and for how long.

Every stream keeps by *limits*, none is a work queue and none keeps by interest: one subject feeds workers and
broadcasts alike, and an event published before its first consumer exists must still be there. What falls out by age or
size is published again by the reconcilers, which know from Postgres what is unfinished. Only usage is nowhere else:
its stream refuses new messages when it is full, and `UsageMeter` keeps them until there is room.
"""

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError

LONGEST_DAYS = 30
"""No stream holds an event longer than this."""

_DAY_SECONDS = 24 * 3600.0
_MEBIBYTE = 1024 * 1024
_DUPLICATE_SECONDS = 120.0
_OTHER_CONFIGURATION = 10058  # Error code of JetStream: the stream exists with another configuration.


def _stream(name: str, *, days: float, mebibytes: int, discard: DiscardPolicy = DiscardPolicy.OLD) -> StreamConfig:
    return StreamConfig(
        name=name,
        subjects=[f"{name.lower()}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=days * _DAY_SECONDS,
        max_bytes=mebibytes * _MEBIBYTE,
        discard=discard,
        duplicate_window=_DUPLICATE_SECONDS,
    )


STREAMS = (
    _stream("INPUTS", days=7, mebibytes=256),
    _stream("MODELS", days=7, mebibytes=64),
    _stream("APPS", days=LONGEST_DAYS, mebibytes=64),
    _stream("USAGE", days=LONGEST_DAYS, mebibytes=256, discard=DiscardPolicy.NEW),
)


def stream_of(subject: str) -> str:
    """The stream that keeps a subject."""
    return subject.partition(".")[0].upper()


async def ensure_streams(jetstream: JetStreamContext, replicas: int) -> None:
    """Make the streams, or bring them to this configuration; changes nothing that is right already.

    Args:
        jetstream: of a connected client.
        replicas: copies of each stream in a NATS cluster.
    """
    for config in STREAMS:
        wanted = config.evolve(num_replicas=replicas)
        try:
            await jetstream.add_stream(wanted)
        except APIError as error:
            if error.err_code != _OTHER_CONFIGURATION:
                raise
            await jetstream.update_stream(wanted)
