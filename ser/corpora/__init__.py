"""Who said what with which emotion, and which speakers go to which part.

In: folders and tables of labels.
Out: a `Corpus`, what is wrong with it, and speaker-disjoint `Fold`s.
Called by: features, training, experiments, tuning, the command line, the page.
"""
