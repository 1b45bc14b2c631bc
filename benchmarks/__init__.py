"""Measurements that the documentation quotes, each a function that returns rows."""
