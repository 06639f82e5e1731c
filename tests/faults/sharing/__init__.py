"""What the tests of sharing look at, and the programs that they run."""
