"""Scores with intervals over speakers, and calibration; numpy only.

In: true labels, probabilities or logits, speakers; `predictions.csv`.
Out: WA, UAR, macro F1, confusion matrices, temperature and threshold.
Called by: training, experiments, reporting, the command line.
"""
