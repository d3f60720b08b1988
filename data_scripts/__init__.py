"""Synthetic, parsed and validated speech data: everything between a corpus and a row."""
