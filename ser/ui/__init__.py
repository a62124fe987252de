"""The page: the only part of the project that imports gradio. Nothing else in `ser` imports from here.

settings.py     what the operator sets through the environment
model.py        the model that answers, loaded in the background
page.py         the page, its tabs, and the server that shows it
recognise.py    the tab Recognise and the API endpoint of the same name
texts.py        every sentence of the page, in English and Persian
"""
