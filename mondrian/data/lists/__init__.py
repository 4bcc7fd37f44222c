"""Lists of critiques: JSON lines, JSON lists, chats and tables become jobs."""
