"""What is asked: a YAML file -> a suite -> rows."""
