"""Trainer: takes queued versions, fits their heads and hands them in. It keeps nothing that cannot be made again."""
