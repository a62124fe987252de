"""Scores with intervals over speakers, and calibration; numpy only.

In: true and predicted labels, logits, speakers.
Out: WA, UAR, macro F1, confusion matrices, temperature and threshold.
Called by: training, experiments, reporting.
"""
