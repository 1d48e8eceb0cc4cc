"""Real machines as targets: reached over SSH, with the same agent in a room of its own, and left as they were found."""
