"""What the commands print: answers of the coordinator as text for a terminal, one module for each kind of answer."""
