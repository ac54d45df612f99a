"""The HTTP API: one router file per noun, every route with its permission."""
