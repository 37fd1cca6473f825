"""Signals during an export."""

import os
import signal

import pytest

from vilg.export.signals import delayed_signals


def test_a_signal_waits_for_the_end_of_the_context():
    done = []
    with pytest.raises(KeyboardInterrupt), delayed_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        done.append("the graph")
    assert done == ["the graph"]
    with pytest.raises(KeyboardInterrupt):  # afterwards they have their effect again
        os.kill(os.getpid(), signal.SIGINT)


def test_nothing_happens_without_a_signal():
    before = signal.getsignal(signal.SIGTERM)
    with delayed_signals():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
