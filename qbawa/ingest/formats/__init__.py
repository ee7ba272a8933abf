"""What others recorded, read as our steps: one format a module, a generator of steps from one record."""
