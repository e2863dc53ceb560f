"""What plugins share whose objects are jobs of an operator: RayJob, SparkApplication, PyTorchJob ..."""
