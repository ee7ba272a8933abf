"""From any id back to the request and forward to the datasets; and one request as a tree of its steps."""
