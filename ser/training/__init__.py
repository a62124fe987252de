"""One training, the folds in lockstep, the cross-validation.

In: features, labels, folds, settings.
Out: an epoch report, a run folder with scores and a checkpoint.
Called by: experiments, tuning, the command line.
"""
