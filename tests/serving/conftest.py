"""The export of these tests, at work."""

import pytest

from vilg.export import Predictor


@pytest.fixture(scope="session")
def predictor(exported):
    return Predictor(exported)
