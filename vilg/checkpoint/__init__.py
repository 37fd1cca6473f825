"""Sharded checkpoints: written whole or not at all, read on any number of ranks."""

from vilg.checkpoint.format import CheckpointError, Manifest, checkpoints_in, read_manifest
from vilg.checkpoint.load import choose, load, newest_valid, verify
from vilg.checkpoint.save import save

__all__ = ["CheckpointError", "Manifest", "checkpoints_in", "choose", "load", "newest_valid", "read_manifest", "save",
           "verify"]
