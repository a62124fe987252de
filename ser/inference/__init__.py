"""A recording becomes an answer, on ONNX Runtime, without torch.

In: a checkpoint or an ONNX file, and recordings.
Out: `Prediction`s, and files of them.
Called by: `ser.load`, the command line, the page.
"""
