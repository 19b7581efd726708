"""What a user asks for, as the command line and ``erase.evaluate`` and ``erase.attack`` pass it on."""
