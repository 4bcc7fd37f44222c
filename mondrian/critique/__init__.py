"""What a critique is: its schema, its prompt, and how stored text is parsed into one."""
