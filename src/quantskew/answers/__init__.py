"""Judging the answers of any models, whoever gave them: tables, joined by the id of a sample."""
