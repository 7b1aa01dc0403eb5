"""Where `log_loss` was before it had a module of its own."""

from lensmith_vision.losses import log_loss

__all__ = ["log_loss"]
