"""Model calls recorded by themselves: one module for each client library."""
