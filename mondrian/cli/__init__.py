"""The commands `mondrian NAME`: one module each, with `main(argv)`, and no logic of its own."""
