"""Frames of a whole corpus, computed once and cached on the disk.

In: a corpus and an encoder.
Out: a `FeatureSet`, which reads frames when they are asked for, also averages of neighbouring ones.
Called by: training, experiments, tuning.
"""
