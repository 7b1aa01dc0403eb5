"""The first start: the operator's key."""

from lensmith_auth.key_store import KeyStore, NewKey
from lensmith_auth.secrets import secret_from_text
from lensmith_platform.db import Database
from lensmith_platform.scopes import ALL

OPERATOR_APP_ID = 0
"""The platform itself: app_id of the operator's keys."""


async def ensure_operator_key(worker: Database, secret_text: str) -> bool:
    """Store the hash of a secret as the operator's key, unless an operator's key exists.

    Returns:
        Whether the key was made.

    Raises:
        ValueError: The text is no secret.
    """
    secret = secret_from_text(secret_text)
    key = NewKey(secret=secret, description="operator", scopes=[ALL], operator=True, actor="services/auth")
    async with worker.transaction(OPERATOR_APP_ID) as connection:
        return await KeyStore(connection, OPERATOR_APP_ID).create_first(key)
