"""Rollout of a new adapter version: assignment, metrics, statistics and decisions."""
