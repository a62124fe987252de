"""What each part is worth: ablation, baselines, probe.

In: a corpus, features, folds.
Out: tables of scores on the same folds.
Called by: the command line.
"""
