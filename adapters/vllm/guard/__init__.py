"""What keeps one request from ending the engine for all: limits where requests come in, and a
scheduler that ends a request whose features turn out to be no numbers."""
