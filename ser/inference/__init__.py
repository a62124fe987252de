"""A recording becomes an answer, on torch or on ONNX Runtime.

In: a checkpoint or an ONNX file, and recordings.
Out: `Prediction`s, and files of them.
Called by: `ser.load`, the command line, the page.
"""
