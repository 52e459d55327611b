"""Tuning before training: the frequency setting of a field, from the spectrum of what it is to fit (FreSh)."""
