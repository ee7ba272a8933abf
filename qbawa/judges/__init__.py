"""One judge: what it is shown, how its reply is read, and the verdict that comes of it."""
