"""Sharded checkpoints: written whole or not at all, read on any number of ranks."""

from vilg.checkpoint.format import CheckpointError, Manifest, checkpoints_in, directory_of, read_manifest
from vilg.checkpoint.load import Reader, choose, load, newest_valid, read, verify
from vilg.checkpoint.save import save

__all__ = ["CheckpointError", "Manifest", "Reader", "checkpoints_in", "choose", "directory_of", "load", "newest_valid",
           "read", "read_manifest", "save", "verify"]
