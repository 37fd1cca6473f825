"""ImageTask and describing in batches: what a request gets does not depend on what else is in the batch."""

import numpy as np
import pytest
from PIL import Image

from vilg.data.images import to_uint8
from vilg.generation.sampling import Sampler
from vilg.serving import tasks
from vilg.serving.tasks import CaptionTask, ImageTask


def last_news(pipeline, wished):
    found = [None] * len(wished)
    for event in type(wished[0]).run_batch(pipeline, wished):
        found = [new or old for new, old in zip(event, found)]
    assert all(event.last for event in found)
    return [event.result for event in found]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, [20, 30, 3], dtype=np.uint8)) for _ in range(3)]


def test_drawings_of_other_settings_share_a_batch_and_come_out_as_alone(predictor):
    wished = [
        ImageTask("红苹果", 2, Sampler(3), 2.0),
        ImageTask("大象", 1, Sampler(9, 0.5, top_k=4), 2.0),
        ImageTask("太阳", 3, Sampler(3, top_p=0.7), 2.0),
    ]
    assert len({task.kind for task in wished}) == 1 and sum(task.rows for task in wished) == 6
    for task, drawn in zip(wished, last_news(predictor, wished)):
        how = {name: value for name, value in vars(task.sampler).items() if name != "seed"}
        alone = predictor.generate([task.text], task.count, task.sampler.seed, guidance=2.0, **how)[0]
        assert np.array_equal(drawn.pixels, to_uint8(alone)) and drawn.done == drawn.total == 256


@pytest.mark.parametrize("counts", [(4,), (2, 2), (2, 1, 3)])
def test_a_text_is_read_once_for_all_of_its_pictures(predictor, sources_read, counts):
    """In a batch of requests too, whether or not they ask for equally many; the last two ask for the same text."""
    texts = ["红苹果", "大象", "大象"]
    wished = [ImageTask(text, count, Sampler(7 * count), 1.0) for text, count in zip(texts, counts)]
    together = last_news(predictor, wished)
    assert sources_read == [("text_to_image", len(set(texts[: len(counts)])))]
    for task, drawn in zip(wished, together):
        alone = predictor.generate([task.text], task.count, task.sampler.seed)[0]
        assert np.array_equal(drawn.pixels, to_uint8(alone))


def test_another_guidance_is_another_batch():
    assert ImageTask("a", 1, Sampler(), 1.0).kind != ImageTask("a", 1, Sampler(), 2.0).kind


def test_a_drawing_fills_in_from_the_top(predictor, monkeypatch):
    monkeypatch.setattr(tasks, "_BETWEEN", 0.0)
    monkeypatch.setattr(tasks, "_SHARE", 1.0)
    seen = [event[0].result for event in ImageTask.run_batch(predictor, [ImageTask("红苹果", 1, Sampler(), 1.0)])]
    assert [one.done for one in seen] == list(range(1, 257))
    for one in seen[:-1:50]:
        cells = (one.pixels[0] == 128).all(-1).reshape([16, 4, 16, 4]).all((1, 3)).ravel()
        assert cells[one.done :].all() and not cells[: one.done].all()


def test_unfinished_drawings_are_looked_at_now_and_then_only(predictor):
    seen = [event[0] for event in ImageTask.run_batch(predictor, [ImageTask("红苹果", 1, Sampler(), 1.0)])]
    assert len(seen) == 256 and seen[0] and seen[-1].last and 2 <= sum(event is not None for event in seen) < 64


def test_captions_by_search_and_word_by_word(predictor, pictures):
    for beams in (1, 3):
        found = last_news(predictor, [CaptionTask(picture, beams) for picture in pictures])
        expected = predictor.caption(pictures, beams=0 if beams == 1 else beams)
        assert [of_picture[0][0] for of_picture in found] == expected
    for of_picture in found:
        likely = [probability for _, probability in of_picture]
        assert len(of_picture) == 3 and likely == sorted(likely, reverse=True) and 0 < likely[-1] <= likely[0] <= 1
