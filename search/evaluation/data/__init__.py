"""Labelled images: what people have on disk -> two splits of preprocessed pixels, decoded once."""
