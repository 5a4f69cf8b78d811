"""Images with objects: reading annotations of any format, data sets and loaders; knows no model."""
