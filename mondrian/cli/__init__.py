"""The commands `mondrian NAME`: one module each with `main(argv)`, without logic of its own."""
