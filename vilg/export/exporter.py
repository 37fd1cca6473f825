"""`vilg export`: converts a checkpoint of any world size to programs for Paddle Inference."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle

from vilg import __version__, config
from vilg.attention import operator
from vilg.attention.patterns import DIRECTIONS, TEXT_TO_IMAGE
from vilg.checkpoint import Location
from vilg.config.distributed import DTYPES
from vilg.errors import UserError
from vilg.export.manifest import VOCABULARY, Manifest, Sizes, file_of
from vilg.export.predictor import Predictor
from vilg.export.program import ProgramLoadError
from vilg.export.programs import save_programs
from vilg.generation.from_checkpoint import CheckpointPipeline, load_checkpoint_pipeline
from vilg.model.transformer import Transformer
from vilg.progress import Progress
from vilg.text.tokenizer import TextTokenizer, WordPiece

# Limits for rounding: relative to the largest logit, per pixel in [0, 1], share of all codes.
LIMITS = {"logits": 1e-3, "pixels": 1e-3, "codes": 0.01}
LOGITS_IN_16_BITS = {"bf16": 0.05, "fp16": 0.01}
_STEPS = 40  # steps of each direction in the self-test: more than a row of 32


def export(
    checkpoint: Location,
    out: Path,
    portable: bool = False,
    vocabulary: str | None = None,
    image_tokenizer: str | None = None,
    raw_weights: bool = False,
    precision: str = "fp32",
) -> Manifest:
    """Export a checkpoint, or the newest checkpoint of a run, to the new folder `out`.

    portable: do not use the compiled operator. precision: of the transformer, fp32, bf16 or fp16. Other arguments: as
    in `load_checkpoint_pipeline`. Raises UserError, and leaves nothing at `out`, if the folder exists or if the export
    differs from the checkpoint converted to this precision.
    """
    if out.exists():
        raise UserError(f"--out {out}: is there already")
    if precision != "fp32" and paddle.get_device() == "cpu" and (missing := operator.why_no_half_kernels()):
        raise UserError(f"--precision {precision}: the kernels for a CPU are missing: {missing}")
    with Progress("exporting", 4) as progress:
        attention = config.Attention("blockwise" if portable else "auto")
        trained = load_checkpoint_pipeline(checkpoint, attention, vocabulary, image_tokenizer, raw_weights)
        trained.model.to(dtype=DTYPES[precision])
        progress.advance(now="programs")
        out.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            sizes = model_sizes(trained.model, trained.image_size)
            _write_vocabulary(trained.text_tokenizer, hidden / VOCABULARY)
            weights = save_programs(trained.model, trained.image_tokenizer, sizes, hidden)
            progress.advance(now="hashes")
            files = {path.name: file_of(path) for path in sorted(hidden.iterdir())}
            versions = {"vilg": __version__, "paddle": paddle.__version__}
            compiled = trained.model.blocks[0].attention.backend == "operator"
            dropout = trained.caption_dropout
            device = paddle.get_device().partition(":")[0]
            manifest = Manifest(
                sizes, compiled, trained.origin, versions, {}, files, dropout, precision, device, weights
            )
            manifest.write(hidden)
            progress.advance(now="self-test")
            try:
                manifest = replace(manifest, self_test=compare(trained, Predictor(hidden)))
            except ProgramLoadError as error:  # Paddle does not report that a program could not be written
                raise UserError(f"--out {out}: is the disk full? {error}") from None
            manifest.write(hidden)
            os.chmod(hidden, 0o777 & ~_umask())  # mkdtemp creates folders that only the owner can read
            os.rename(hidden, out)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        progress.advance()
    return manifest


def compare(trained: CheckpointPipeline, predictor: Predictor) -> dict[str, float]:
    """The largest difference between checkpoint and export for each of LIMITS. Raises UserError if a limit is
    exceeded.
    """
    rng, sizes = np.random.default_rng(0), predictor.manifest.sizes
    images = rng.random([2, 3, sizes.image_size, sizes.image_size], dtype=np.float32)
    codes = trained.encode(images)
    differences = {
        "codes": float((codes != predictor.encode(images)).mean()),
        "pixels": float(np.abs(trained.decode(codes) - predictor.decode(codes)).max()),
    }
    of_logits = []
    text = rng.integers(0, sizes.vocabulary, [2, sizes.text_length])
    for direction in DIRECTIONS:
        source, target = (text, codes) if direction == TEXT_TO_IMAGE else (codes, text)
        source, target = source.reshape([2, -1]), target.reshape([2, -1]).repeat(2, axis=0)
        both = [
            model.prefill(direction, source, samples=2) for model in (trained.decoding_model, predictor.decoding_model)
        ]
        pairs = [[decoder.first() for decoder in both]] if direction == TEXT_TO_IMAGE else []
        pairs += [
            [decoder.step(target[:, position]) for decoder in both]
            for position in range(min(_STEPS, target.shape[1] - 1))
        ]
        expected, exported = (np.stack(logits) for logits in zip(*pairs))
        of_logits.append(np.abs(expected - exported).max() / np.abs(expected).max())
    differences["logits"] = float(np.max(of_logits))  # NaN if any is NaN, unlike Python's max
    limits = LIMITS | {"logits": LOGITS_IN_16_BITS.get(predictor.manifest.precision, LIMITS["logits"])}
    for name, limit in limits.items():
        if not differences[name] <= limit:
            raise UserError(
                f"the export differs from {trained.origin} by {differences[name]:.2g} in {name}, {limit:g} is allowed"
            )
    return differences


def model_sizes(model: Transformer, image_size: int) -> Sizes:
    return Sizes(
        model.settings.layers,
        model.settings.heads,
        model.settings.hidden // model.settings.heads,
        model.settings.conv_kernel,
        model.text_length,
        model.grid,
        image_size,
        model.vocab_size,
        model.codebook_size,
    )


def _write_vocabulary(tokenizer: TextTokenizer, file: Path) -> None:
    entries = tokenizer.entries()
    lines = [""] * (max(entries.values()) + 1)
    for entry, number in entries.items():
        lines[number] = entry
    for number in reversed(range(len(lines) - 1)):  # the id of a repeated entry is its last line
        lines[number] = lines[number] or lines[number + 1]
    file.write_text("".join(line + "\n" for line in lines), "utf-8")
    if WordPiece(file).fingerprint() != tokenizer.fingerprint():
        raise UserError(f"text.tokenizer={type(tokenizer).__name__}: an export needs a BERT vocabulary")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
