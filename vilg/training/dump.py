"""Stores the inputs of a step whose loss is not finite, for debugging."""

import dataclasses
from pathlib import Path

import numpy as np
import paddle

from vilg.arrays import to_numpy


def dump_inputs(file: Path, inputs: list) -> None:
    """Write every field of every micro-batch to an .npz file, named MICRO-BATCH.FIELD."""
    arrays = {}
    for number, micro_batch in enumerate(inputs):
        for field in dataclasses.fields(micro_batch):
            value = getattr(micro_batch, field.name)
            arrays[f"{number}.{field.name}"] = to_numpy(value) if isinstance(value, paddle.Tensor) else np.array(value)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)  # type: ignore[arg-type]  # names are not allow_pickle
