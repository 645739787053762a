"""The supported model families: one folder and one row of the table each."""
