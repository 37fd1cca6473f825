"""Sharded checkpoints: complete or absent on disk, and readable on any number of ranks."""

from vilg.checkpoint.format import (
    CheckpointError,
    Manifest,
    checkpoints_after,
    checkpoints_in,
    read_manifest,
    step_directory,
    step_of,
)
from vilg.checkpoint.inspection import checkpoint_folder
from vilg.checkpoint.load import CheckpointReader, load, newest_valid, resolve_resume, verify
from vilg.checkpoint.publish import CheckpointInfo
from vilg.checkpoint.save import CheckpointManager
from vilg.checkpoint.storage import Location, join, location, same_location

__all__ = [
    "CheckpointError",
    "CheckpointInfo",
    "CheckpointManager",
    "CheckpointReader",
    "Location",
    "Manifest",
    "checkpoint_folder",
    "checkpoints_after",
    "checkpoints_in",
    "join",
    "load",
    "location",
    "newest_valid",
    "read_manifest",
    "resolve_resume",
    "same_location",
    "step_directory",
    "step_of",
    "verify",
]
