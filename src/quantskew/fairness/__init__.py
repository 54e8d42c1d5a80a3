"""How a classifier treats groups of people, and how sure we are of it.

Pure functions on numpy arrays. Everywhere ``groups`` is an integer code a sample, −1 for a sample
that belongs to no group, and ``counted`` marks the groups large enough to enter a maximum.
Leading axes (``...``) are variants of a network, seeds, or draws of a bootstrap.

=========== ======================================================================
metrics     accuracy of groups, FVO, worst group, calibration
parity      demographic parity, equalized odds and their kin, class by class
paired      a network against its reference on the same samples
resampling  bootstrap and exchange test on counts, beneath ``paired``
seeds       training seeds apart from test samples
null        FVO by chance, and with chance taken out
limits      of a group's accuracy and of its change; several seeds, several images a person
gaps        limits of FVO, parity, the worst group and their changes; who may lose most
certificate what no group loses more than; what a test set can detect
verdicts    worse, better, equivalent or cannot tell; false discoveries
contrasts   methods over seeds and trends over widths: the network is the unit
plan        how many images and seeds would decide
intervals   of Cohen's d
frontier    Pareto dominance
=========== ======================================================================
"""
