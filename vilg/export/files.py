"""The files of an export, verified once and kept open, so that programs are loaded from what was verified."""

import os
from pathlib import Path

from vilg.errors import UserError
from vilg.export.manifest import OF_TRANSFORMER, Manifest, file_of, verified

_BY_DESCRIPTOR = Path("/proc/self/fd")  # Linux; elsewhere files are opened again by their absolute path


class ExportFiles:
    """Opens and hashes all files of an export. Raises UserError if one is missing or damaged.

    Programs are loaded at their first call, perhaps long after the export was verified. A change of the working
    directory, and a folder or file that replaces this one, have no effect on them.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self._manifest = folder.absolute(), manifest
        self._descriptors = {name: verified(folder / name, file) for name, file in manifest.files.items()}
        self._directory = os.open(folder, os.O_RDONLY)

    def __del__(self):
        for descriptor in [*getattr(self, "_descriptors", {}).values(), getattr(self, "_directory", None)]:
            if descriptor is not None:
                os.close(descriptor)

    def file(self, name: str) -> Path:
        """The path of a file, for reading it."""
        return _BY_DESCRIPTOR / str(self._descriptors[name]) if _BY_DESCRIPTOR.is_dir() else self.folder / name

    def program(self, name: str) -> tuple[Path, Path | None]:
        """Paths of structure and weights, for Paddle Inference. Programs of the transformer have no weights: None."""
        structure = f"{name}.json"
        weights = None if name in OF_TRANSFORMER else self.file(f"{name}.pdiparams")
        if not _BY_DESCRIPTOR.is_dir():
            return self.folder / structure, weights
        # Paddle recognizes the format by the suffix .json, so that file cannot be opened by its descriptor.
        path = _BY_DESCRIPTOR / str(self._directory) / structure
        if not path.is_file() or file_of(path) != self._manifest.files[structure]:
            raise UserError(f"{self.folder / structure}: has changed since the export was opened")
        return path, weights
