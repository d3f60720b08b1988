"""Code-switched sentences, synthetic speech of them, and phoneme-to-text pairs; import the modules you need.

`sentences` (endless distinct sentences), `insertion` (English into any corpus), `speech` and `corpus` (voices, folders
of FLAC), `pairs` (phonemes and text for P2T), `confusions` (the errors in them).
"""
