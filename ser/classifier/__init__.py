"""The classifier of figure 3: frames become logits; how it is stored.

In: `(total frames, dim)` and the lengths of the utterances.
Out: `(utterances, labels)` logits; a checkpoint folder.
Called by: training, inference, experiments.
"""
