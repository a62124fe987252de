"""A frozen speech encoder turns samples into frames, 50 a second.

In: samples at 16 kHz; a folder or a hub id.
Out: `(frames, dim)` float32 of one hidden layer or several.
Called by: features, inference, experiments.
"""
