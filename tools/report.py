"""Reports what a run on the emoji has learned: report.html and report.json.

    python tools/report.py RUN_FOLDER EXPORT_FOLDER OUT_FOLDER [--began SECONDS_SINCE_1970]

Likelihoods are computed with the checkpoint. All images and captions are generated with the export.
"""

import argparse
import html
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import vilg  # noqa: F401  first of all, so that Paddle is tuned
from vilg.attention.patterns import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from vilg.data.images import to_unit
from vilg.data.loader import all_samples
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.evaluation.image_metrics import mean_psnr, nearest
from vilg.evaluation.likelihood import Pair, caption_exact_match, mean_nll, tokenize_pairs, unigram_nll
from vilg.evaluation.page_parts import CSS, image_tag, loss_curves
from vilg.export import Predictor
from vilg.generation.from_checkpoint import CheckpointPipeline, load_checkpoint_pipeline
from vilg.text.sequence import CaptionEncoder, max_caption_tokens

SHOWN = 12
PICTURES = 3  # images for each caption
SKETCHES = 128  # training captions for `train_drawings_found`
BATCH = 64
SAMPLING = {"temperature": 0.2, "top_k": 32}
# Captions that all_ranks has a picture of in mind, shown if they were trained on.
WELL_KNOWN = [
    "红苹果",
    "青苹果",
    "红心",
    "日本",
    "法国",
    "大象",
    "蝴蝶",
    "太阳",
    "雪人",
    "橙心",
    "消防车",
    "西瓜",
    "足球",
    "绿心",
    "骷髅",
    "德国",
    "南瓜灯",
    "企鹅",
]


@dataclass
class Part:
    """The training or the held-out part of the data: {name: image [3, H, W]} and all pairs of image and caption."""

    title: str
    images: dict[str, np.ndarray]
    pairs: list[Pair]

    def names(self) -> dict[str, list[str]]:
        captions: dict[str, list[str]] = {}
        for pair in self.pairs:
            captions.setdefault(pair.name, []).append(pair.caption)
        return captions

    def first_pairs(self) -> list[Pair]:
        """The first caption of each image, which is its name."""
        first: dict[str, Pair] = {}
        for pair in self.pairs:
            first.setdefault(pair.name, pair)
        return list(first.values())


def write_report(out: Path, run: Path, exported: Path, began: float) -> dict[str, float]:
    """Evaluate the newest checkpoint of `run`, write report.html and report.json to `out`, and return the latter."""
    trained, predictor = load_checkpoint_pipeline(run), Predictor(exported)
    data = trained.settings.data
    training = _read(trained, "training", data.shards)
    heldout = _read(trained, "held-out", data.heldout)
    report = _measure(trained, predictor, training, heldout)
    sections = [f"<h2>Losses</h2>{loss_curves(run)}", *_pictures(predictor, training, heldout)]
    report = {"minutes": (time.time() - began) / 60, **report}
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "report.html").write_text(_page(report, sections), "utf-8")
    return report


def _read(trained: CheckpointPipeline, title: str, shards: list[str]) -> Part:
    samples = list(all_samples(trained.settings.data, shards))
    encode = CaptionEncoder(trained.text_tokenizer, trained.settings.text.length)
    images = {sample.name: to_unit(sample.image[None])[0] for sample, _ in samples}
    return Part(title, images, tokenize_pairs(samples, encode, trained.image_tokenizer))


def _measure(trained: CheckpointPipeline, predictor: Predictor, training: Part, heldout: Part) -> dict[str, float]:
    model, tokenizer = trained.model, trained.image_tokenizer
    nll = mean_nll(model, heldout.pairs, BATCH, World())
    unigram = unigram_nll(training.pairs, heldout.pairs, model.vocab_size, tokenizer.codebook_size)
    images = np.stack(list(heldout.images.values()))
    codes = np.unique(np.concatenate([pair.image for pair in training.pairs]))
    # A truncated caption does not count, even if its kept part is generated.
    whole = [
        pair
        for pair in training.pairs
        if len(trained.text_tokenizer.encode(pair.caption)) <= max_caption_tokens(model.text_length)
    ]
    hits = caption_exact_match(model, whole, BATCH, trained.text_tokenizer.unk_id)
    exact_matches = {pair.name for pair, hit in zip(whole, hits) if hit}
    pairs = _evenly(training.first_pairs(), SKETCHES)
    like = nearest(_drawn(predictor, pairs)[:, 0], np.stack(list(training.images.values())))
    names = list(training.images)
    return {
        "heldout_nll_t2i": nll[TEXT_TO_IMAGE],
        "unigram_nll_t2i": unigram[TEXT_TO_IMAGE],
        "heldout_nll_i2t": nll[IMAGE_TO_TEXT],
        "unigram_nll_i2t": unigram[IMAGE_TO_TEXT],
        "heldout_psnr": mean_psnr(images, predictor.decode(predictor.encode(images))),
        "codebook_used": len(codes) / tokenizer.codebook_size,
        "train_exact_captions": len(exact_matches) / len(training.images),
        "train_drawings_found": float(np.mean([names[number] == pair.name for pair, number in zip(pairs, like)])),
    }


def _pictures(predictor: Predictor, training: Part, heldout: Part) -> list[str]:
    shown = {training.title: _well_known(training), heldout.title: _evenly(heldout.first_pairs())}
    sections = []
    for part in (training, heldout):
        pairs = shown[part.title]
        originals = np.stack([part.images[pair.name] for pair in pairs])
        rows = "".join(
            f"<figure>{image_tag(a)}{image_tag(b)}</figure>"
            for a, b in zip(originals, predictor.decode(predictor.encode(originals)))
        )
        sections.append(
            f"<h2>Reconstructions of {part.title} images</h2><p>The original, and its reconstruction from codes."
            f"</p><div class=row>{rows}</div>"
        )
    for part in (training, heldout):
        pairs = shown[part.title]
        rows = ""
        for samples, pair in zip(_drawn(predictor, pairs, PICTURES), pairs):
            sample_tags = "".join(map(image_tag, samples))
            rows += (
                f"<figure>{sample_tags}<span class=gap></span>{image_tag(part.images[pair.name])}"
                f"<figcaption>{html.escape(pair.caption)}</figcaption></figure>"
            )
        sections.append(
            f"<h2>Generated from {part.title} captions</h2><p>{PICTURES} samples (temperature "
            f"{SAMPLING['temperature']}, top {SAMPLING['top_k']}), and the emoji with that name.</p>"
            f"<div class=row>{rows}</div>"
        )
    for part in (training, heldout):
        pairs = shown[part.title]
        written = predictor.caption(np.stack([part.images[pair.name] for pair in pairs]))
        rows = "".join(
            f"<figure>{image_tag(part.images[pair.name])}<figcaption><b>{html.escape(text)}</b><br>"
            f"<small>{html.escape(' / '.join(part.names()[pair.name]))}</small></figcaption></figure>"
            for pair, text in zip(pairs, written)
        )
        sections.append(
            f"<h2>Captions generated for {part.title} images</h2><p>Greedy decoding; below, in small print, the "
            f"captions of the image.</p><div class=row>{rows}</div>"
        )
    return sections


def _drawn(predictor: Predictor, pairs: list[Pair], count: int = 1) -> np.ndarray:
    """`count` generated images for each caption, [P, count, 3, H, W]."""
    return predictor.generate([pair.caption for pair in pairs], n=count, seed=1, truncate=True, **SAMPLING)


def _well_known(training: Part) -> list[Pair]:
    """The well-known captions, followed by evenly spaced others."""
    by_caption = {pair.caption: pair for pair in training.first_pairs()}
    chosen = [by_caption[caption] for caption in WELL_KNOWN if caption in by_caption]
    return (chosen + _evenly(training.first_pairs()))[:SHOWN]


def _evenly(pairs: list[Pair], count: int = SHOWN) -> list[Pair]:
    return pairs[:: max(1, len(pairs) // count)][:count]


def _page(report: dict[str, float], sections: list[str]) -> str:
    gain = {name: 1 - report[f"heldout_nll_{name}"] / report[f"unigram_nll_{name}"] for name in ("t2i", "i2t")}
    rows = "".join(f"<tr><td>{name}<td>{value:.3f}" for name, value in report.items())
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>vilg: results of the demo</title>
<style>{CSS}</style>
<h1>Results of the demo</h1>
<p>The held-out loss of text to image is {gain["t2i"]:.0%} below the unigram baseline, that of image to text
{gain["i2t"]:.0%}
(in nats per token; the baseline knows only how often each token occurs in the training data).</p>
<table>{rows}</table>
<p>train_exact_captions: share of the training images whose greedy caption is exactly one of their captions.
train_drawings_found: share of {SKETCHES} images, each generated from another training caption, whose nearest
training image (by squared error of the pixels) is the one with that caption.</p>
{"".join(sections)}
<p><small>Emoji by OpenMoji, CC BY-SA 4.0; this page and the images generated by the model have the same licence.
Names from the package emoji and from Unicode CLDR.</small></p>
</html>
"""


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="folder of a pre-training run on the emoji")
    options.add_argument("export", type=Path, help="export of that run")
    options.add_argument("out", type=Path, help="folder for report.html and report.json")
    options.add_argument(
        "--began", type=float, default=time.time(), help="start time for `minutes`, in seconds since 1970"
    )
    given = options.parse_args()
    try:
        print(json.dumps(write_report(given.out, given.run, given.export, given.began), indent=2))
    except UserError as error:
        sys.exit(f"report: {error}")
