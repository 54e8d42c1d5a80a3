"""Images and the people in them: sources, quality, groups, loading."""
