"""Starting a job on its nodes, and starting it again."""
