"""Fréchet Inception distance and kernel Inception distance (section 4.1 of the paper)."""
