"""Of many errors, the one that the others follow from."""

from vilg.distributed.launch.root_cause import Death, describe, first_cause

OWN = Death("b rank 3", ["step 7", "Traceback (most recent call last)", '  File "x.py", line 1', "ValueError: bad"])
LOST = Death("a rank 0", ["Traceback (most recent call last)", "  ..", "OSError: Connection closed by peer [::1]:5"])
KILLED = Death("a rank 1", ["step 6", "step 7"])
REFUSED = Death("a rank 1", ["vilg: nothing.txt: no such file"])


def test_who_only_lost_its_peer_is_not_the_cause():
    assert first_cause([LOST, OWN]) is OWN and first_cause([LOST, KILLED]) is KILLED
    assert first_cause([OWN, KILLED]) is OWN and first_cause([LOST]) is LOST and first_cause([]) is None


def test_the_last_traceback_is_shown_and_nothing_before_it():
    assert describe(OWN).splitlines() == [
        "b rank 3:",
        "    Traceback (most recent call last)",
        '      File "x.py", line 1',
        "    ValueError: bad",
    ]
    twice = Death("rank 0", ["Traceback (most recent call last)", "KeyError", *OWN.lines[1:]])
    assert "KeyError" not in describe(twice)


def test_a_rank_that_was_killed_has_said_nothing():
    assert describe(KILLED) == "a rank 1 was killed: it wrote nothing about an error"
    assert "a node was lost" in describe(None)


def test_bad_input_would_be_bad_again():
    assert REFUSED.bad_input and not OWN.bad_input and not KILLED.bad_input
