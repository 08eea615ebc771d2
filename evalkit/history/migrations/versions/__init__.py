"""One file for each change of the tables; the names sort in the order in which they are applied."""
