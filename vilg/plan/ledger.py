"""Memory as a run takes it and gives it back."""


class Ledger:
    """Bytes that live now, and the most that ever lived together."""

    def __init__(self):
        self.live, self.peak = 0, 0

    def take(self, size: float) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)

    def give(self, size: float) -> None:
        self.live -= size

    def need(self, size: float) -> None:
        """For a moment only."""
        self.take(size)
        self.give(size)
