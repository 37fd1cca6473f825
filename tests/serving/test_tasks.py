"""Image and caption tasks in batches: the result of a request does not depend on the other requests of its batch."""

import numpy as np
import pytest
from PIL import Image

from vilg.data.images import to_uint8
from vilg.generation.sampling import Sampler
from vilg.serving import tasks
from vilg.serving.tasks import CaptionTask, ImageTask


def last_events(pipeline, requests):
    found = [None] * len(requests)
    for event in type(requests[0]).run_batch(pipeline, requests):
        found = [new or old for new, old in zip(event, found)]
    assert all(event.last for event in found)
    return [event.result for event in found]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, [20, 30, 3], dtype=np.uint8)) for _ in range(3)]


def test_requests_with_different_settings_share_a_batch_and_equal_single_requests(predictor):
    requests = [
        ImageTask("红苹果", 2, Sampler(3), 2.0),
        ImageTask("大象", 1, Sampler(9, 0.5, top_k=4), 2.0),
        ImageTask("太阳", 3, Sampler(3, top_p=0.7), 2.0),
    ]
    assert len({task.kind for task in requests}) == 1 and sum(task.rows for task in requests) == 6
    for task, result in zip(requests, last_events(predictor, requests)):
        how = {name: value for name, value in vars(task.sampler).items() if name != "seed"}
        single = predictor.generate([task.text], task.count, task.sampler.seed, guidance=2.0, **how)[0]
        assert np.array_equal(result.pixels, to_uint8(single)) and result.done == result.total == 256


@pytest.mark.parametrize("counts", [(4,), (2, 2), (2, 1, 3)])
def test_a_text_is_prefilled_once_for_all_its_images(predictor, sources_read, counts):
    """Also for a batch of requests with different numbers of images. The last two requests have the same text."""
    texts = ["红苹果", "大象", "大象"]
    requests = [ImageTask(text, count, Sampler(7 * count), 1.0) for text, count in zip(texts, counts)]
    batched = last_events(predictor, requests)
    assert sources_read == [("text_to_image", len(set(texts[: len(counts)])))]
    for task, result in zip(requests, batched):
        single = predictor.generate([task.text], task.count, task.sampler.seed)[0]
        assert np.array_equal(result.pixels, to_uint8(single))


def test_requests_with_different_guidance_are_in_different_batches():
    assert ImageTask("a", 1, Sampler(), 1.0).kind != ImageTask("a", 1, Sampler(), 2.0).kind


def test_partial_images_fill_from_the_top(predictor, monkeypatch):
    monkeypatch.setattr(tasks, "_BETWEEN", 0.0)
    monkeypatch.setattr(tasks, "_SHARE", 1.0)
    events = [event[0].result for event in ImageTask.run_batch(predictor, [ImageTask("红苹果", 1, Sampler(), 1.0)])]
    assert [event.done for event in events] == list(range(1, 257))
    for event in events[:-1:50]:
        cells = (event.pixels[0] == 128).all(-1).reshape([16, 4, 16, 4]).all((1, 3)).ravel()
        assert cells[event.done :].all() and not cells[: event.done].all()


def test_partial_images_are_decoded_at_intervals(predictor):
    events = [event[0] for event in ImageTask.run_batch(predictor, [ImageTask("红苹果", 1, Sampler(), 1.0)])]
    assert len(events) == 256 and events[0] and events[-1].last and 2 <= sum(event is not None for event in events) < 64


def test_captions_by_beam_search_and_by_greedy_decoding(predictor, images):
    for beams in (1, 3):
        found = last_events(predictor, [CaptionTask(image, beams) for image in images])
        expected = predictor.caption(images, beams=0 if beams == 1 else beams)
        assert [of_image[0][0] for of_image in found] == expected
    for of_image in found:
        likely = [probability for _, probability in of_image]
        assert len(of_image) == 3 and likely == sorted(likely, reverse=True) and 0 < likely[-1] <= likely[0] <= 1
