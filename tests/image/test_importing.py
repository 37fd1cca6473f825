"""Published weights: the results equal those of the published programs, and invalid files are one-line errors."""

import copy
import json
import re

import numpy as np
import paddle
import pytest
import yaml

from tests.image import published
from tests.image.reference import GUMBEL, OPENAI, VQ, fixture
from tests.image.torch_writer import Call, New, Shared, write
from vilg import config, image
from vilg.cli import main
from vilg.errors import UserError
from vilg.image.dvae import DVAE
from vilg.image.importing import import_tokenizer
from vilg.image.vqgan import VQGAN

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def vqgan(quantizer="gumbel") -> VQGAN:
    paddle.seed(0)
    return VQGAN(
        config.VQGAN(
            quantizer=quantizer,
            base_channels=32,
            channel_multipliers=[1, 2],
            residual_blocks=1,
            attention_factors=[2],
            latent_channels=12,
            codebook_size=16,
            code_dim=8,
        )
    )


def dvae() -> DVAE:
    paddle.seed(0)
    return DVAE(config.DVAE(downsamplings=2, base_channels=8, residual_blocks=1, codebook_size=16, code_dim=6))


def write_settings(file, tree):
    file.write_text(json.dumps(tree) if file.suffix == ".json" else yaml.safe_dump(tree))
    return file


def import_taming(folder, tree, settings, legacy=False, name="s.json"):
    write(folder / "last.ckpt", tree, legacy)
    return import_tokenizer("taming", [folder / "last.ckpt"], write_settings(folder / name, settings), folder / "out")


def import_openai(folder, encoder, decoder, legacy=False):
    write(folder / "encoder.pkl", encoder, legacy)
    write(folder / "decoder.pkl", decoder, legacy)
    return import_tokenizer("openai-dvae", [folder / "encoder.pkl", folder / "decoder.pkl"], None, folder / "out")


@FORMATS
@pytest.mark.parametrize("quantizer", ["gumbel", "nearest"])
def test_a_vqgan_with_its_training_state(tmp_path, quantizer, legacy):
    model = vqgan(quantizer)
    got = import_taming(tmp_path, published.taming(model), published.taming_settings(model), legacy)
    assert got.settings == model.settings and got.fingerprint() == model.fingerprint() and not got.training
    assert image.load(tmp_path / "out").fingerprint() == model.fingerprint()


def test_a_state_dict_in_half_precision(tmp_path):
    model = vqgan()
    halves = {name: value.astype(np.float16) for name, value in published.taming_weights(model).items()}
    got = import_taming(
        tmp_path, Call(published.ORDERED, ([list(item) for item in halves.items()],)), published.taming_settings(model)
    )
    assert np.allclose(got.quantizer.codebook.numpy(), model.quantizer.codebook.numpy(), atol=2e-3)


@pytest.mark.parametrize("quantizer, target", [("gumbel", "GumbelVQ"), ("nearest", "VQModel")])
def test_the_yaml_of_taming(tmp_path, quantizer, target):
    model = vqgan(quantizer)
    parameters = {name: value for name, value in published.taming_settings(model).items() if name != "kind"}
    parameters |= {"lossconfig": {"target": "taming.modules.losses.DummyLoss"}, "monitor": "val/rec_loss"}
    if quantizer == "gumbel":
        parameters |= {"kl_weight": 1e-8, "temperature_scheduler_config": {"target": "x", "params": {"lr_max": 0.9}}}
    tree = {
        "model": {"base_learning_rate": 4.5e-6, "target": f"taming.models.vqgan.{target}", "params": parameters},
        "data": {"target": "main.DataModuleFromConfig"},
    }
    got = import_taming(tmp_path, published.taming(model), tree, name="model.yaml")
    assert got.fingerprint() == model.fingerprint()


@FORMATS
def test_a_dvae_of_two_pickled_modules(tmp_path, legacy):
    model = dvae()
    got = import_openai(tmp_path, *published.openai(model), legacy)
    assert got.settings == model.settings and not got.training
    own = model.state_dict()
    assert all(np.allclose(value.numpy(), own[name].numpy(), atol=1e-6) for name, value in got.state_dict().items())
    assert image.load(tmp_path / "out").fingerprint() == got.fingerprint()


def fails(message, make, *arguments, **options):
    with pytest.raises(UserError, match=message) as caught:
        make(*arguments, **options)
    assert "\n" not in str(caught.value)


def renamed(tree, old, new):
    tree["state_dict"] = {new if name == old else name: value for name, value in tree["state_dict"].items()}


BIAS = "quant_conv.bias"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda tree: tree["state_dict"].pop(BIAS), f"no weight {BIAS}, which .*s.json asks for"),
        (lambda tree: tree.update(state_dict={}), r"no weight encoder.conv_in.weight \(and \d+ more\)"),
        (lambda tree: renamed(tree, BIAS, "quant_conv.bios"), f"no weight {BIAS}, which"),
        (
            lambda tree: tree["state_dict"].update(more=np.zeros(3)),
            "unknown weight more, for which .*s.json has no place",
        ),
        (
            lambda tree: tree["state_dict"].update({BIAS: np.zeros(9, np.float32)}),
            rf"{BIAS} has the shape \[9\], .*s.json asks for \[8\]",
        ),
        (lambda tree: tree["state_dict"].update({BIAS: "text"}), f"{BIAS} is no tensor"),
        (lambda tree: tree["state_dict"].update({BIAS: Call("omegaconf DictConfig")}), f"{BIAS} is no tensor"),
        (
            lambda tree: tree["state_dict"].update({BIAS: np.full(8, np.nan, np.float32)}),
            f"{BIAS} has elements that are not finite",
        ),
        (lambda tree: tree.update(state_dict=[1]), "holds no state_dict"),
        (
            lambda tree: tree["callbacks"].update(x=Call("os system", ("true",))),
            "refused: its pickle names 'os.system'",
        ),
        (lambda tree: tree.update(x=Call("torch.hub load", ("a", "b"))), "refused: its pickle names 'torch.hub.load'"),
        (
            lambda tree: tree.update(x=New("dall_e.encoder Encoder", {})),
            "refused: its pickle names 'dall_e.encoder.Enc",
        ),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, damage, message):
    tree = published.taming(vqgan())
    damage(tree)
    fails(f"last.ckpt: {message}", import_taming, tmp_path, tree, published.taming_settings(vqgan()))
    assert not (tmp_path / "out").exists()


def test_the_other_quantizer(tmp_path):
    fails(
        "no weight quantize.embed",
        import_taming,
        tmp_path,
        published.taming(vqgan("nearest")),
        published.taming_settings(vqgan("gumbel")),
    )
    fails(
        "no weight quantize.embedding.weight",
        import_taming,
        tmp_path,
        published.taming(vqgan("gumbel")),
        published.taming_settings(vqgan("nearest")),
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tree: tree.pop("kind"), "kind is None, none of vq, gumbel"),
        (lambda tree: tree.update(kind="vae"), "kind is vae"),
        (lambda tree: tree.pop("embed_dim"), "embed_dim is missing"),
        (lambda tree: tree.pop("ddconfig"), "ddconfig.z_channels is missing"),
        (lambda tree: tree["ddconfig"].pop("ch_mult"), "ddconfig.ch_mult is missing"),
        (
            lambda tree: tree["ddconfig"].update(chmult=[1]),
            "unknown key ddconfig.chmult; did you mean ddconfig.ch_mult",
        ),
        (lambda tree: tree["ddconfig"].update(ch="many"), "ddconfig.ch: "),
        (lambda tree: tree["ddconfig"].update(ch_mult=2), "ddconfig.ch_mult: "),
        (lambda tree: tree.update(ddconfig=3), ".*ddconfig.*: "),
        (lambda tree: tree["ddconfig"].update(double_z=True), "ddconfig.double_z=True: a VQGAN here has false"),
        (lambda tree: tree["ddconfig"].update(in_channels=1), "ddconfig.in_channels=1: a VQGAN here has 3"),
        (lambda tree: tree["ddconfig"].update(ch=33), "vqgan.base_channels=33"),
        (lambda tree: tree.update(remap="codes.npy"), "remap=codes.npy"),
        (
            lambda tree: tree.update(model={"target": "ldm.models.autoencoder.AutoencoderKL"}),
            "model.target is ldm.models",
        ),
        (lambda tree: tree.update(model={"target": "taming.models.vqgan.VQModel"}), "model.params is missing"),
        (lambda tree: tree.update(model=3), "model.target is None"),
    ],
)
@pytest.mark.parametrize("name", ["s.json", "s.yaml"])
def test_settings_that_do_not_fit(tmp_path, change, message, name):
    tree = copy.deepcopy(published.taming_settings(vqgan()))
    change(tree)
    fails(
        f"{re.escape(str(tmp_path / name))}: {message}",
        import_taming,
        tmp_path,
        published.taming(vqgan()),
        tree,
        name=name,
    )


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("s.json", "{", "not readable"),
        ("s.yaml", "a: [", "not readable"),
        ("s.yaml", "- 1", "settings are"),
        ("s.yaml", "!!python/object/apply:os.system ['touch x']", "not readable"),
        ("s.json", None, "no such file"),
    ],
)
def test_broken_settings(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    fails(message, import_tokenizer, "taming", [tmp_path / "last.ckpt"], tmp_path / name, tmp_path / "out")


def changed(module: New, **attributes) -> New:
    return New(module.name, {**module.state, **attributes}, module.module)


def test_modules_that_do_not_fit(tmp_path):
    encoder, decoder = published.openai(dvae())
    for pair, message in [
        ((decoder, encoder), "encoder.pkl: holds dall_e.decoder.Decoder where dall_e.encoder.Encoder .*wrong order"),
        ((encoder, encoder), "decoder.pkl: holds dall_e.encoder.Encoder where dall_e.decoder.Decoder"),
        (({"state_dict": {}}, decoder), "encoder.pkl: holds no module where dall_e.encoder.Encoder should be"),
        ((changed(encoder, n_hid=12), decoder), "decoder.pkl: its n_hid is 8, that of .*encoder.pkl is 12"),
        ((changed(encoder, n_hid="8"), decoder), "encoder.pkl: a module without n_hid"),
        ((changed(encoder, n_hid=9), changed(decoder, n_hid=9)), "encoder.pkl: dvae.base_channels=9"),
        ((changed(encoder, n_hid=4), changed(decoder, n_hid=4)), "encoder.pkl: blocks.input.w has the shape"),
        ((changed(encoder, vocab_size=17), changed(decoder, vocab_size=17)), r"encoder.pkl: blocks.output.conv.w has"),
        ((encoder, changed(decoder, n_init=5)), "decoder.pkl: blocks"),
        ((changed(encoder, _modules={}), decoder), "encoder.pkl: a module without _modules"),
        (
            (changed(encoder, _modules={**encoder.state["_modules"].arguments[0][0][1].state["_modules"]}), decoder),
            "encoder.pkl: a module without _modules",
        ),
        ((New("dall_e.encoder Encoder", 3), decoder), "encoder.pkl: a module without n_hid"),
        ((changed(encoder, x=Call("builtins exec", ("1",))), decoder), "refused: its pickle names 'builtins.exec'"),
        ((changed(encoder, x=New("torch.nn.modules.conv Conv2d", {})), decoder), "names 'torch.nn.modules.conv."),
    ]:
        fails(message, import_openai, tmp_path, *pair)
    assert not (tmp_path / "out").exists()


def test_modules_that_are_not_a_tree(tmp_path):
    """Sixty modules, each twice in the next one, would be 2^60. A module in two places is refused."""
    encoder, decoder = published.openai(dvae())
    [[_, blocks]] = encoder.state["_modules"].arguments[0]
    twice = Shared(New(blocks.name, {"_parameters": {}, "_buffers": {}, "_modules": {}}))
    more = changed(blocks, _modules={**blocks.state["_modules"], "a": twice, "b": twice})
    fails(
        "encoder.pkl: a module in two places",
        import_openai,
        tmp_path,
        changed(encoder, _modules={"blocks": more}),
        decoder,
    )


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_the_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        run(capsys, "import-image-tokenizer", "--help")
    assert "example:\n  vilg import-image-tokenizer --from taming" in capsys.readouterr().out


def test_the_command(tmp_path, capsys):
    model, other = vqgan(), dvae()
    write(tmp_path / "last.ckpt", published.taming(model), False)
    write_settings(tmp_path / "s.yaml", published.taming_settings(model))
    for name, tree in zip(("encoder.pkl", "decoder.pkl"), published.openai(other), strict=True):
        write(tmp_path / name, tree, False)
    start = ["import-image-tokenizer", "--from"]
    code, out, _ = run(
        capsys, *start, "taming", tmp_path / "last.ckpt", "--settings", tmp_path / "s.yaml", "--out", tmp_path / "vqgan"
    )
    assert code == 0 and out == f"{tmp_path / 'vqgan'}: vqgan, 16 codes, each for 2 x 2 pixels\n"
    code, out, _ = run(
        capsys, *start, "openai-dvae", tmp_path / "encoder.pkl", tmp_path / "decoder.pkl", "--out", tmp_path / "dvae"
    )
    assert code == 0 and out == f"{tmp_path / 'dvae'}: dvae, 16 codes, each for 4 x 4 pixels\n"
    assert [image.load(tmp_path / kind).kind for kind in ("vqgan", "dvae")] == ["vqgan", "dvae"]
    for arguments, message in [
        (["taming", tmp_path / "last.ckpt"], "--from taming: needs one checkpoint and --settings"),
        (["openai-dvae", tmp_path / "encoder.pkl"], "--from openai-dvae: needs an encoder and a decoder"),
        (["taming", tmp_path / "none", "--settings", tmp_path / "s.yaml"], f"{tmp_path / 'none'}: no such file"),
        (
            ["taming", tmp_path / "encoder.pkl", "--settings", tmp_path / "s.yaml"],
            f"{tmp_path / 'encoder.pkl'}: refused: its pickle names 'dall_e.encoder.Encoder'",
        ),
        (
            ["openai-dvae", tmp_path / "last.ckpt", tmp_path / "decoder.pkl"],
            f"{tmp_path / 'last.ckpt'}: refused: its pickle names 'pytorch_lightning.",
        ),
    ]:
        code, _, err = run(capsys, *start, *arguments, "--out", tmp_path / "none")
        lines = [line for line in err.splitlines() if line.startswith("vilg:")]
        assert code == 1 and len(lines) == 1 and lines[0].startswith(f"vilg: {message}"), err
        assert "Traceback" not in err and not (tmp_path / "none").exists()


def same_codes(indices, wanted, scores) -> int:
    """Assert equal codes where the best of `scores` [.., codes] leads by more than 1e-4. Returns their number."""
    second, best = np.moveaxis(np.sort(scores, -1)[..., -2:], -1, 0)
    clear = best - second > 1e-4
    assert np.array_equal(indices[clear], wanted[clear])
    return clear.sum()


def check_taming(folder, out):
    """The imported model computes what taming-transformers computed. Returns the model."""
    checkpoint, settings, reference = fixture(folder, "last.ckpt", "config.json", "io.npz")
    import_tokenizer("taming", [checkpoint], settings, out)
    model, data, described = image.load(out), np.load(reference), json.loads(settings.read_text())
    assert model.factor == 2 ** (len(described["ddconfig"]["ch_mult"]) - 1)
    assert model.codebook_size == described["n_embed"]
    images, prequant = paddle.to_tensor(data["image"] / 2 + 0.5), data["prequant"].transpose(0, 2, 3, 1)
    indices = data["indices"].reshape(prequant.shape[:3])
    assert np.allclose(model.features(images).numpy(), prequant, rtol=0, atol=1e-4)
    if model.settings.quantizer == "gumbel":
        scores = model.quantizer.logits(paddle.to_tensor(prequant)).numpy()
    else:
        scores = -np.square(prequant[..., None, :] - model.quantizer.codebook.numpy()).sum(-1)
    assert same_codes(model.encode(images).numpy(), indices, scores) > 0.9 * indices.size
    assert len(np.unique(indices)) > 5
    z_emb = model.embed(paddle.to_tensor(indices))
    assert np.allclose(model.decode_raw(z_emb).numpy(), data["reconstruction"], rtol=0, atol=1e-4)
    assert np.allclose(
        model.decode_embeddings(z_emb).numpy(), (data["reconstruction"] / 2 + 0.5).clip(0, 1), rtol=0, atol=1e-4
    )
    return model


@GUMBEL
def test_what_taming_computed_with_gumbel_softmax(folder, tmp_path):
    assert check_taming(folder, tmp_path / "out").settings.quantizer == "gumbel"


@VQ
def test_what_taming_computed_with_the_nearest_code(folder, tmp_path):
    assert check_taming(folder, tmp_path / "out").settings.quantizer == "nearest"


@OPENAI
def test_what_openai_computed(folder, tmp_path):
    encoder, decoder, reference = fixture(folder, "encoder.pkl", "decoder.pkl", "io.npz")
    import_tokenizer("openai-dvae", [encoder, decoder], None, tmp_path / "out")
    model, data = image.load(tmp_path / "out"), np.load(reference)
    logits = data["logits"].transpose(0, 2, 3, 1)
    assert model.factor == 8 and model.codebook_size == logits.shape[-1]
    images, indices = paddle.to_tensor(data["image"]), data["indices"].reshape(logits.shape[:3])
    assert np.allclose(model.logits(images).numpy(), data["logits"], rtol=0, atol=1e-4)
    assert same_codes(model.encode(images).numpy(), indices, logits) > 0.9 * indices.size
    z_emb = model.embed(paddle.to_tensor(indices))
    assert np.allclose(model.statistics(z_emb).numpy(), data["decoder_stats"], rtol=0, atol=1e-4)
    assert np.allclose(model.decode_embeddings(z_emb).numpy(), data["reconstruction"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
@VQ
def test_truncated_checkpoint_of_taming(tmp_path, folder, share):
    checkpoint, settings = fixture(folder, "last.ckpt", "config.json")
    part = truncated(checkpoint, share, tmp_path)
    fails("damaged, or cut off", import_tokenizer, "taming", [part], settings, tmp_path / "out")


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
@OPENAI
def test_truncated_decoder_of_openai(tmp_path, folder, share):
    encoder, decoder = fixture(folder, "encoder.pkl", "decoder.pkl")
    part = truncated(decoder, share, tmp_path)
    fails("damaged, or cut off", import_tokenizer, "openai-dvae", [encoder, part], None, tmp_path / "out")


def truncated(file, share, folder):
    data = file.read_bytes()
    (folder / file.name).write_bytes(data[: int(len(data) * share)])
    return folder / file.name
