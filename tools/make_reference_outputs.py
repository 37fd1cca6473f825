"""Writes tests/image/fixtures: files in the formats of published image tokenizers, and what their programs compute.

The weights are random. The programs are the published ones, so this needs an environment of its own, with PyTorch:

    pip install torch pytorch-lightning omegaconf DALL-E
    pip install --no-deps taming-transformers-rom1504
    python tools/make_reference_outputs.py tests/image/fixtures

It was run with torch 2.14.1, taming-transformers-rom1504 0.0.6 and DALL-E 0.1.
"""

import json
import sys
from pathlib import Path
from types import ModuleType

import attr
import numpy as np
import torch

SIDE = 16  # pixels
IMAGES = 3


def make_taming(folder: Path, kind: str) -> None:
    """A VQModel (kind vq) or GumbelVQ (kind gumbel) of taming-transformers, f = 2, as pytorch-lightning saves it."""
    # The published module imports two names that later versions of pytorch-lightning have moved. Neither is used here.
    moved = ModuleType("pytorch_lightning.utilities.distributed")
    moved.rank_zero_only = lambda function: function
    sys.modules[moved.__name__] = moved
    from taming.models.vqgan import GumbelVQ, VQModel

    torch.manual_seed(7)
    # GroupNorm with 32 groups needs at least 32 channels.
    sizes = {
        "double_z": False,
        "z_channels": 32,
        "resolution": SIDE,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [SIDE // 2],
        "dropout": 0.0,
    }
    common = {
        "ddconfig": sizes,
        "lossconfig": {"target": "torch.nn.Identity"},
        "n_embed": 24,
        "embed_dim": 32 if kind == "gumbel" else 12,  # GumbelVQ needs as many as z_channels
    }
    if kind == "gumbel":
        schedule = {"target": "torch.nn.Identity"}
        model = GumbelVQ(**common, temperature_scheduler_config=schedule, kl_weight=1e-8)
    else:
        model = VQModel(**common)
    model = randomize(model).eval()
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: value.half() for name, value in model.state_dict().items()}  # exact, see randomize
    torch.save({"epoch": 1, "state_dict": halves}, folder / "last.ckpt")
    settings = {"kind": kind, **{name: common[name] for name in ("ddconfig", "embed_dim", "n_embed")}}
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    image = torch.rand(IMAGES, 3, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        prequant = model.quant_conv(model.encoder(image))
        if kind == "gumbel":  # the quantizer itself would add Gumbel noise to the logits
            indices = model.quantize.proj(prequant).argmax(1)
            quantized = model.quantize.embed(indices).permute(0, 3, 1, 2)
        else:
            quantized, _, (_, _, indices) = model.quantize(prequant)
        reconstruction = model.decode(quantized)
    np.savez_compressed(
        folder / "io.npz",
        image=image.numpy(),
        prequant=prequant.numpy(),
        indices=indices.reshape(IMAGES, -1).numpy(),
        reconstruction=reconstruction.numpy(),
    )


def make_openai(folder: Path) -> None:
    """The encoder and decoder of DALL-E's dVAE, f = 8, as pickled modules."""
    attr.validators.set_disabled(True)  # they would require at least 64 hidden channels and 512 codes
    from dall_e import Decoder, Encoder, map_pixels, unmap_pixels

    torch.manual_seed(8)
    sizes = {"n_hid": 8, "n_blk_per_group": 1, "vocab_size": 24}
    encoder = randomize(Encoder(**sizes, use_mixed_precision=False)).eval()
    decoder = randomize(Decoder(**sizes, n_init=8, use_mixed_precision=False)).eval()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(encoder, folder / "encoder.pkl")
    torch.save(decoder, folder / "decoder.pkl")
    image = torch.rand(IMAGES, 3, SIDE, SIDE)
    with torch.no_grad():
        logits = encoder(map_pixels(image))
        indices = logits.argmax(1)
        one_hot = torch.nn.functional.one_hot(indices, sizes["vocab_size"]).permute(0, 3, 1, 2).float()
        statistics = decoder(one_hot)
    np.savez_compressed(
        folder / "io.npz",
        image=image.numpy(),
        logits=logits.numpy(),
        indices=indices.reshape(IMAGES, -1).numpy(),
        decoder_stats=statistics.numpy(),
        reconstruction=unmap_pixels(torch.sigmoid(statistics[:, :3])).numpy(),
    )


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Weights without zero biases and nearly equal codes, which could hide an error. Each is exact in 16 bits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_((torch.randn_like(parameter) / parameter[0].numel() ** 0.5).half())
            else:
                parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half())
    return model


if __name__ == "__main__":
    out = Path(sys.argv[1])
    make_taming(out / "vqgan_vq", "vq")
    make_taming(out / "vqgan_gumbel", "gumbel")
    make_openai(out / "dvae_openai")
