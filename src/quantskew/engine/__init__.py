"""Cells, units of work that are done once: their fingerprints, their store, and where they run.

No section of ``params.yaml`` is known by name here: each defines what results depend on
(:meth:`quantskew.sections.Section.identity`).
"""
