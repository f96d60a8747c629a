"""Models as other libraries save them, read as timm's: one file for each source, a table of them in `sources`.

Imports nothing: names can be looked at without torch.
"""
