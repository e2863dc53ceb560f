"""Where the secrets of tasks are found: environment, files and Kubernetes Secrets, closest scope first."""
