"""Curation with models: recordings are decoded and aligned once (`score`), then chosen as often as one likes."""
