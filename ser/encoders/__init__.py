"""A frozen speech encoder turns samples into frames, 50 a second.

In: samples at 16 kHz; a folder, a hub id, or "shipped".
Out: `(frames, dim)` float32 of one hidden layer or several, by ONNX Runtime on a processor, by torch on a GPU.
Called by: features, inference, experiments.
"""
