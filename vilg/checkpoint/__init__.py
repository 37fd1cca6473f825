"""Sharded checkpoints: written whole or not at all, read on any number of ranks."""

from vilg.checkpoint.desk import folder_of
from vilg.checkpoint.format import CheckpointError, Manifest, checkpoints_in, directory_of, read_manifest, step_of
from vilg.checkpoint.load import Reader, choose, load, newest_valid, verify
from vilg.checkpoint.publish import About
from vilg.checkpoint.save import Saver
from vilg.checkpoint.storage import Where, joined, where

__all__ = [
    "About",
    "CheckpointError",
    "Manifest",
    "Reader",
    "Saver",
    "Where",
    "checkpoints_in",
    "choose",
    "directory_of",
    "folder_of",
    "joined",
    "load",
    "newest_valid",
    "read_manifest",
    "step_of",
    "verify",
    "where",
]
