"""Pre-training in 16 bits from its entry point: metrics, held-out loss, images, checkpoints, and their readers."""

import numpy as np
import pytest
from PIL import Image

from tests.processes import metrics
from tests.training.test_pretraining import changed
from vilg import checkpoint
from vilg.attention import operator
from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.export.exporter import export
from vilg.export.predictor import Predictor
from vilg.training.entry_points import pretrain


@pytest.fixture(scope="module", autouse=True)
def kernels():
    if operator.why_no_half_kernels():
        pytest.skip(operator.why_no_half_kernels())


def run(small, precision):
    train = {"eval_every": 3, "sample_images_every": 6}
    settings = changed(small, run={"name": precision}, distributed={"precision": precision}, train=train)
    pretrain(settings)
    folder = small.run.folder.parent / precision
    image = np.asarray(Image.open(next(folder.rglob("*heldout*.png"))).convert("RGB"), np.float32)
    return metrics(folder), image, folder


def test_a_run_in_16_bits(small):
    whole, image, _ = run(small, "fp32")
    for precision in ("bf16", "fp16"):
        half, own, folder = run(small, precision)
        for name in ("loss", "heldout_nll_t2i", "heldout_nll_i2t"):
            values = [[line[name] for line in lines if name in line] for lines in (whole, half)]
            assert np.allclose(*values, rtol=0.02) and len(values[0]) >= 2
        assert [line["loss_scale"] for line in half if "loss_scale" in line] == [65536] * (
            6 if precision == "fp16" else 0
        )
        # Nearly the same distribution and the same random numbers: most codes are equal. Noise would not be.
        assert own.shape == image.shape and (own == image).mean() > 0.5
        tensors = checkpoint.load(folder / "checkpoints" / "step-00000006")[1]
        weight = tensors["model/blocks.0.mlp.out.weight"]
        assert weight.dtype == np.float32 and (weight.view(np.uint32) & 0xFFFF).any()  # masters, not rounded


def test_a_checkpoint_of_16_bits_is_exported_and_predicted_with(small, tmp_path):
    _, _, folder = run(small, "bf16")
    export(folder, tmp_path / "export")  # which compares the programs with the checkpoint
    logits = Predictor(tmp_path / "export").decoding_model.prefill(TEXT_TO_IMAGE, np.zeros([1, 8], np.int64)).first()
    assert np.isfinite(logits).all() and logits.std() > 0
