"""What `mondrian NAME` runs: a module a command, `main(argv)` in each; no logic of its own."""
