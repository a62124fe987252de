"""What each part contributes: ablation, comparison with baselines, probe.

In: a corpus, features, folds.
Out: scores on the same folds, in run folders and as plain values.
Called by: the command line, which prints them and asks `reporting` for the report.
"""
