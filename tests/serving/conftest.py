"""A pipeline of the export of these tests."""

import pytest

from vilg.export import Predictor


@pytest.fixture(scope="session")
def predictor(exported):
    return Predictor(exported)
