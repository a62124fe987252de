"""The search of section 4.2; the only home of Optuna.

In: a corpus, its features, how to search.
Out: a study in a storage of Optuna, and the best trial's run folder, tested once.
Called by: the command line; the page opens the storage to show its studies.
"""
