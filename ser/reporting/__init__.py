"""Charts and HTML reports; the only home of plotly.

In: results as plain values.
Out: figures and self-contained pages.
Called by: the command line, the page.
"""
