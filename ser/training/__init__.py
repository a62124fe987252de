"""One training, the folds in lockstep, the cross-validation.

In: the frames of a corpus and its labels, folds, settings.
Out: a report each epoch; a run folder with scores, predictions and a checkpoint.
Called by: experiments, tuning, the command line.
"""
