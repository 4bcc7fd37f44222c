"""Stages link and prepare: jobs and photos become records, records become prepared rows."""
