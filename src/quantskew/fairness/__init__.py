"""How a classifier treats groups of people, and how sure we are of it.

Pure functions on numpy arrays. Everywhere ``groups`` is an integer code a sample, −1 for a sample
that belongs to no group, and ``counted`` marks the groups large enough to enter a maximum.
Leading axes (``...``) are variants of a network, seeds, or draws of a bootstrap.
"""
