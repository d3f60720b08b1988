"""Files that several models need, linked into the folder of each.

transformers publishes a model with the files of its own folder and nothing else, so what is shared stands here once,
and as a symbolic link beside every `modeling_*.py` that imports it. Import it from the model's folder, never from
here.
"""
