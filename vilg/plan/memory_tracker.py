"""Memory as a run takes it and gives it back."""


class MemoryTracker:
    """Bytes that live now, and the most that ever lived together."""

    def __init__(self):
        self.live, self.peak = 0, 0

    def allocate(self, size: float) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)

    def free(self, size: float) -> None:
        self.live -= size

    def allocate_briefly(self, size: float) -> None:
        """For a moment only."""
        self.allocate(size)
        self.free(size)
