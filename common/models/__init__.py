"""Model families: what is particular to one architecture, on both planes."""
