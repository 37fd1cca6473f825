"""Metrics of captions against reference captions (section 4.2 and table 3 of the paper)."""
