"""The stages link and prepare: finished jobs become a dataset with train and val rows."""
