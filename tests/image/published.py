"""Our tokenizers in the formats of the published programs: the trees that `torch_writer` writes."""

import numpy as np

from tests.image.torch_writer import Call, Name, New
from vilg.image.dvae import DVAE
from vilg.image.vqgan import VQGAN

ORDERED = "collections OrderedDict"


def weights(layer) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in layer.state_dict().items()}


def taming_weights(model: VQGAN) -> dict[str, np.ndarray]:
    gumbel = model.settings.quantizer == "gumbel"
    table = {name.replace("quantizer.", "quantize."): value for name, value in weights(model).items()}
    table["quantize.embed.weight" if gumbel else "quantize.embedding.weight"] = table.pop("quantize.codebook")
    if gumbel:
        table["quantize.proj.weight"] = np.ascontiguousarray(table["quantize.proj.weight"].T)[:, :, None, None]
    return table


def taming(model: VQGAN) -> dict:
    """A checkpoint of pytorch-lightning, with training state in and next to the weights."""
    losses = {
        "loss.perceptual_loss.lin0.model.1.weight": np.ones([1, 2, 1, 1], np.float32),
        "loss.discriminator.main.3.num_batches_tracked": np.array(7),
    }
    score = Call(
        "numpy.core.multiarray scalar",
        (Call("numpy dtype", ("f8", False, True)), Call("_codecs encode", ("12345678", "latin1"))),
    )
    callback = Name("pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint")
    return {
        "epoch": 3,
        "global_step": 1234,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {callback: {"best_model_score": np.float32([0.5]), "current_score": score}},
        "optimizer_states": [{"state": {0: {"step": 5, "exp_avg": np.zeros(4, np.float32)}}}],
        "lr_schedulers": [],
        "state_dict": {**taming_weights(model), **losses},
        "hyper_parameters": Call("argparse Namespace", (), {"lr": 4.5e-6}),
    }


def taming_settings(model: VQGAN) -> dict:
    own, resolution = model.settings, 64
    return {
        "kind": {"gumbel": "gumbel", "nearest": "vq"}[own.quantizer],
        "embed_dim": own.code_dim,
        "n_embed": own.codebook_size,
        "ddconfig": {
            "double_z": False,
            "z_channels": own.latent_channels,
            "resolution": resolution,
            "in_channels": 3,
            "out_ch": 3,
            "ch": own.base_channels,
            "ch_mult": own.channel_multipliers,
            "dropout": 0.0,
            "num_res_blocks": own.residual_blocks,
            "attn_resolutions": [resolution // factor for factor in own.attention_factors],
        },
    }


def openai(model: DVAE) -> tuple[New, New]:
    """(encoder, decoder), as pickled modules."""
    own = model.settings
    common = {"n_hid": own.base_channels, "n_blk_per_group": own.residual_blocks, "vocab_size": own.codebook_size}
    first = {
        "input.weight": np.ascontiguousarray(model.codebook.numpy().T - 1)[:, :, None, None],
        "input.bias": np.ones(own.code_dim, np.float32),
    }
    return (
        _module("dall_e.encoder Encoder", weights(model.encoder), common),
        _module("dall_e.decoder Decoder", weights(model.decoder) | first, common | {"n_init": own.code_dim}),
    )


def _module(kind: str, table: dict[str, np.ndarray], attributes: dict) -> New:
    blocks = {}
    for name, array in table.items():
        *path, weight = name.split(".")
        branch = blocks
        for part in path:
            branch = branch.setdefault(part, {})
        branch[{"weight": "w", "bias": "b"}[weight]] = array
    return New(
        kind,
        {
            **attributes,
            "device": Call("torch device", ("cpu",)),
            "_parameters": {},
            "_buffers": {},
            "_modules": Call(ORDERED, ([["blocks", _branch(blocks)]],)),
        },
        module=True,
    )


def _branch(tree: dict) -> New:
    if "w" in tree:
        parameters = {
            name: Call("torch._utils _rebuild_parameter", (array, False, Call(ORDERED))) for name, array in tree.items()
        }
        return New("dall_e.utils Conv2d", {"_parameters": parameters, "_buffers": {}, "_modules": {}}, module=True)
    return New(
        "torch.nn.modules.container Sequential",
        {"_parameters": {}, "_buffers": {}, "_modules": {name: _branch(below) for name, below in tree.items()}},
        module=True,
    )
