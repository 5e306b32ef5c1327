"""What a model costs: counted by running it on the meta device, where tensors have shapes and no values."""
