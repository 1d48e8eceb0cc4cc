"""What a collector must do on a target, what it did, and whether that is what was promised: pure functions over facts."""
