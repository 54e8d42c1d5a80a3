"""From the tables of all variants to answers, figures and the report."""
