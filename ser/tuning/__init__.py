"""The search of section 4.2; the only home of Optuna.

In: a corpus, features, ranges.
Out: a study, and the best trial tested once.
Called by: the command line, the page.
"""
