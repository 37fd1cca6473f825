"""Starts a job on its nodes and restarts it after failures."""
