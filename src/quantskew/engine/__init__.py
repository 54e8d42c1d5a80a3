"""Units of work that are done once: what a cell is, what it depends on, where it runs, its store.

Nothing here knows a section of ``params.yaml`` by name: a section says itself what depends on it
(:meth:`quantskew.sections.Section.identity`).
"""
