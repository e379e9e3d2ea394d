"""What a model costs over its life: hardware, energy, training, inference, break-even, planning."""
