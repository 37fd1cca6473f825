"""The size of the global batch, which may grow at the beginning of a run."""

from dataclasses import dataclass

from vilg.config.validation import require


@dataclass(frozen=True)
class BatchRampup:
    """The batch grows from `start` by `increment` to `end`, after equal shares of `samples` samples.

    The batch of a step is a function of the samples that were consumed before it. A run therefore resumes from
    consumed_samples alone, on any number of ranks, and samples keep their order. The definition is that of
    --rampup-batch-size in Megatron-LM.
    """

    start: int
    increment: int
    samples: int
    end: int

    @classmethod
    def parse(cls, setting: list[int], end: int) -> "BatchRampup":
        """From train.rampup_batch_size, [start, increment, samples] or []. Raises SettingsError."""
        written = f"train.rampup_batch_size={setting}"
        require(len(setting) in (0, 3), f"{written}: must be [start, increment, samples] or []")
        start, increment, samples = setting or (end, 1, 1)
        require(min(start, increment, samples) > 0, f"{written}: all three must be positive")
        require(not setting or start < end, f"{written}: must start below train.global_batch={end}")
        require(
            (end - start) % increment == 0,
            f"{written}: {start} does not reach train.global_batch={end} in steps of {increment}",
        )
        return cls(start, increment, samples, end)

    def sizes(self) -> range:
        """All sizes that the batch has, in ascending order."""
        return range(self.start, self.end + 1, self.increment)

    def at(self, consumed: int) -> int:
        """The batch of the step that begins after `consumed` samples."""
        if consumed >= self.samples:
            return self.end
        return self.start + consumed * self._increments // self.samples * self.increment

    def ahead(self, steps: int, consumed: int = 0) -> int:
        """The number of samples in the next `steps` steps after `consumed` samples."""
        samples = consumed
        for number, size in enumerate(self.sizes()[:-1], 1):
            until = -(-number * self.samples // self._increments)  # the following size begins after so many samples
            passed = min(steps, max(0, -(-(until - samples) // size)))
            samples, steps = samples + passed * size, steps - passed
        return samples + steps * self.end - consumed

    @property
    def _increments(self) -> int:
        return (self.end - self.start) // self.increment
