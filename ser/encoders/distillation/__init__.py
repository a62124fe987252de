"""A small encoder is made from a large one (section 3.3 and equation 1 of the paper).

In: unlabelled recordings and a teacher encoder.
Out: an encoder folder that `Encoder.load` reads.
Called by: the command `distill`.
"""
