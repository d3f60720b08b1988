"""Choosing training data: votes, confidence, rules, repeats, a language model, and what a person should listen to."""
