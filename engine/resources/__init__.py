"""How many tasks may run at the same time: by queue, project and domain, in fair shares."""
