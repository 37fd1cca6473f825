"""Counts allocated memory and its peak."""


class MemoryTracker:
    """`live`: bytes allocated now. `peak`: the most bytes that were allocated at the same time."""

    def __init__(self):
        self.live = self.peak = 0.0

    def allocate(self, size: float) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)

    def free(self, size: float) -> None:
        self.live -= size

    def allocate_briefly(self, size: float) -> None:
        """Allocate and free at once, which only affects the peak."""
        self.allocate(size)
        self.free(size)
