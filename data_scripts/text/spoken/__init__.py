"""Spoken form: written Vietnamese (numbers, dates, units, abbreviations, addresses …) as it is read aloud."""

from data_scripts.text.spoken.pipeline import SPOKEN_FORM_VERSION, spoken_form, unspoken

__all__ = ["SPOKEN_FORM_VERSION", "spoken_form", "unspoken"]
