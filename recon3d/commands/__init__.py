"""The commands, one module each: ``main(args) -> figures`` reads the arguments and does the work."""
