"""A recording becomes mono samples at 16 kHz.

In: a path, or samples with their rate.
Out: `(samples,)` float32 at 16 kHz, or an `AudioError` that says what is wrong; where speech is; changed copies.
Called by: corpora, features, inference, the distillation.
"""
